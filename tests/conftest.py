"""What all tests share: eight host devices, reproducible randomness, one way to apply."""

import gc
import os
import signal

# Most of the tests' time is compilation, of small programs that run once. It takes a sixth of the
# time without LLVM's optimizations, with the older of XLA's emitters (jax 0.12 has only the newer),
# and with each program in one part. `make test-oldest` and `make test-latest` set this to 0: there
# everything is compiled as it is for users.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# The eight devices share one pool of threads, as many as there are cores, and each collective holds
# a thread until all devices are there. Devices may start independent collectives in different
# orders: with few threads all of them then wait for each other for ever.
os.environ.setdefault("PJRT_NPROC", "64")

# A shell that starts the tests in its background has them and their children ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import chex
import hypothesis
import jax
import numpy as np
import pytest

flags = [
    # On a machine with few cores a device may wait for the others longer than the 40 s after which
    # XLA ends the process.
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=120",
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
]
if jax.config.values["jax_disable_most_optimizations"] and jax.__version_info__ < (0, 11):
    flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")])
chex.set_n_cpu_devices(8)

hypothesis.settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=20,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("suite")


def pytest_runtest_setup(item):
    """Skips what needs more devices than there are, as on a machine with one GPU."""
    for mark in item.iter_markers("devices"):
        if jax.device_count() < mark.args[0]:
            pytest.skip(f"needs {mark.args[0]} devices, this machine has {jax.device_count()}")


@pytest.fixture(scope="module", autouse=True)
def _released_programs():
    """Release the programs of a file: a process may have 65,530 memory maps by Linux's default.

    Beyond, XLA's compiler for CPUs ends in a segmentation fault.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def rng():
    """A generator that starts alike in every test."""
    return np.random.default_rng(0)


@pytest.fixture
def gaussian(rng):
    """The matrix on which convergence was measured: 64 rows, 160 columns."""
    return rng.standard_normal((64, 160))


@pytest.fixture
def float64():
    """Float64 arrays for the duration of a test."""
    with jax.enable_x64(True):
        yield
