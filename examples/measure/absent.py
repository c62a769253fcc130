"""XLA's plans for a GPU that is not here."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import jax
from jax.experimental import topologies

from examples.llama.config import InputError
from examples.llama.step import make_train_step

H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  runtime_version: "12.9.0"
  driver_version: "13.0.0"
  compile_time_toolkit_version: "12.9.0"
}
"""
"""What NVIDIA's data sheet and the CUDA runtime say about the card, as XLA's compiler wants it."""


@contextlib.contextmanager
def compiling_for(description: str, count: int = 1) -> Iterator[None]:
    """Let programs be traced and compiled for GPUs of this description; none of them can run.

    Programs that were traced before, or are traced here, are forgotten: a GPU gets other ones.

    Raises:
        InputError: JAX's CUDA plugin, which has the compiler, cannot be used, or cuDNN is missing.
    """
    try:
        devices = topologies.get_topology_desc(
            "", "cuda", topology=f"1x1x{count}", target_config=description
        ).devices
    except Exception as error:  # whatever the plugin raises
        raise InputError(
            f"XLA's compiler for NVIDIA GPUs is missing ({_first_line(error)}); install "
            f'"jax[cuda12]", and set JAX_PLATFORMS=cpu if there is no GPU'
        ) from error
    _forget()
    try:
        with (
            mock.patch.object(jax, "devices", return_value=devices),
            mock.patch.object(jax, "device_count", return_value=count),
            mock.patch.object(jax, "default_backend", return_value="gpu"),
        ):
            yield
    except RuntimeError as error:
        if not str(error).startswith("cuDNN"):
            raise
        raise InputError(f'{_first_line(error)} Install all of "jax[cuda12]"') from error
    finally:
        _forget()


def _forget() -> None:
    jax.clear_caches()
    make_train_step.cache_clear()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
