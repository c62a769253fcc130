"""What all tests share: eight host devices, reproducible randomness, one way to apply."""

import chex
import hypothesis
import jax
import numpy as np
import pytest

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
