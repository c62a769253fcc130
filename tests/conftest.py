"""What all tests share: eight host devices, reproducible randomness, one way to apply."""

import os

# Most of the tests' time is compilation, and a third of that is LLVM's optimization of programs
# that run once. XLA's own passes, and so its plans of memory and its collectives, stay as they are.
# The environment wins: `make test-oldest` and `make test-latest` optimize, so both kinds of machine
# code run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import chex
import hypothesis
import jax
import numpy as np
import pytest

# On a machine with few cores a device may wait for the others longer than the 40 s after which XLA
# ends the process.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_cpu_collective_call_warn_stuck_timeout_seconds=120",
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",
        os.environ.get("XLA_FLAGS", ""),
    ]
)
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
