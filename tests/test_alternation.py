"""What may be claimed of the iteration for any pair of norms, and what may not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import multinorm_optax as mo
from tests import reference
from tests.layouts import ROWS_FIRST
from tests.updates import updated

NORMS = {
    "row": mo.RowNorm(),
    "column": mo.ColumnNorm(),
    "spectral": mo.SpectralNorm(mo.exact_svd()),
    "max": mo.MaxNorm(),
    "frobenius": mo.FrobeniusNorm(),
}
VECTOR = mo.MatrixAxes(output=0, input=())


@dataclasses.dataclass(frozen=True)
class RotatedMaxNorm(mo.Norm):
    """The max norm in coordinates of the plane turned by an angle."""

    degrees: float

    @property
    def rotation(self):
        angle = np.deg2rad(self.degrees)
        return jnp.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def project(self, x, axes, size):
        return self.rotation @ jnp.sign(self.rotation.T @ x)

    def unit_norm(self, x, axes, size):
        return jnp.max(jnp.abs(self.rotation.T @ x), axis=axes.matrix, keepdims=True)

    def unit_dual_norm(self, x, axes, size):
        return jnp.sum(jnp.abs(self.rotation.T @ x), axis=axes.matrix, keepdims=True)


def pair(first, second, axes=ROWS_FIRST):
    return mo.normalize(first, axes), mo.normalize(second, axes)


PAIRS = [
    ("row", "column"),
    ("column", "max"),
    ("max", "row"),
    ("row", "spectral"),
    ("spectral", "max"),
    ("frobenius", "max"),
]
TRACES = {}


def trace(first, second, G):
    if (first, second) not in TRACES:
        members = pair(NORMS[first], NORMS[second])
        TRACES[first, second] = jax.jit(
            lambda G: mo.trace_multi_normalize(G, *members, num_iters=4)
        )
    return TRACES[first, second](np.float32(G))


@given(
    names=st.sampled_from(PAIRS),
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.0, 2.0]),
)
def test_dual_values_never_decrease_and_are_bounded(names, seed, spread):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((5, 8)) * 10 ** rng.uniform(-spread, spread, (5, 8))
    found = trace(*names, G)
    # The first value is the dual norm of the gradient itself, which may have any size.
    values = np.asarray(found.dual_values, float)[1:] / 40
    assert np.all(np.diff(values) >= -1e-5)
    assert np.all(values <= 1 + 1e-5)
    for iterate in np.asarray(found.iterates[1:], float):
        assert reference.rms(iterate) == pytest.approx(1, abs=1e-5)
    steps = np.sum(np.diff(np.asarray(found.iterates[1:], float), axis=0) ** 2, axis=(1, 2))
    np.testing.assert_allclose(steps, 80 * (1 - values), atol=1e-3)


def test_max_norm_and_its_rotation_have_a_two_cycle():
    members = pair(mo.MaxNorm(), RotatedMaxNorm(30.0), VECTOR)
    trace = jax.jit(lambda g: mo.trace_multi_normalize(g, *members, num_iters=20))
    found = trace(jnp.array([1.0, 0.2]))
    values = np.asarray(found.dual_values)[1:]
    assert np.all(np.diff(values) >= -1e-5)
    assert values[-1] < 2 - 0.1
    iterates = np.asarray(found.iterates)
    np.testing.assert_allclose(iterates[-1], iterates[-3], atol=1e-5)
    assert np.linalg.norm(iterates[-1] - iterates[-2]) > 0.3
    assert np.all(np.asarray(found.residuals)[-1, 0] > 0.1)


def test_user_defined_norm_is_a_norm():
    norm, x = RotatedMaxNorm(30.0), jnp.array([1e-25, -3e-25])
    P = norm(x, VECTOR)
    np.testing.assert_allclose(norm.norm(P, VECTOR), 1, rtol=1e-5)
    np.testing.assert_allclose(jnp.vdot(x / 1e-25, P), norm.dual_norm(x, VECTOR) / 1e-25, rtol=1e-5)


@pytest.mark.parametrize("shape", [(64, 160), (160, 64), (40, 40)], ids=str)
@pytest.mark.parametrize("second", ["column", "spectral"])
def test_common_fixed_point_on_full_support(float64, rng, shape, second):
    G = rng.standard_normal(shape)
    result = np.asarray(
        updated(mo.multi_normalize(*pair(mo.RowNorm(), NORMS[second]), num_iters=30), G)
    )
    assert reference.row_residual(result) < 1e-3
    again = reference.NORMS[second].project(result)
    np.testing.assert_allclose(again, result, atol=1e-9)


def test_three_members_with_dissimilar_batches(rng):
    stack = np.float32(rng.standard_normal((3, 4, 5)))
    per_matrix = mo.MatrixAxes(output=1, input=2)
    whole = mo.MatrixAxes(output=(0, 1), input=2)
    members = mo.normalize_rows(per_matrix), mo.normalize_columns(whole)
    for tol in (None, 1e-5):
        result = updated(mo.multi_normalize(*members, num_iters=60, tol=tol), stack)
        want = reference.sr_sinkhorn(stack.reshape(12, 5).astype(float), 60)
        np.testing.assert_allclose(np.reshape(result, (12, 5)), want, atol=1e-4)
    found = jax.eval_shape(lambda g: mo.trace_multi_normalize(g, *members, num_iters=2), stack)
    assert found.residuals.shape == (2, 2)
    assert found.dual_values.shape == (4,)


@dataclasses.dataclass(frozen=True)
class StrongRows(mo.RowNorm):
    """Rows below a share of the largest become zero instead of being amplified."""

    def project(self, x, axes, size):
        strength = jnp.sqrt(jnp.sum(x**2, axis=axes.input, keepdims=True))
        weak = strength < 1e-3 * jnp.max(strength, axis=axes.output, keepdims=True)
        return super().project(jnp.where(weak, 0, x), axes, size)


def test_a_projection_of_a_subclass_is_the_one_that_runs(rng):
    G = np.float32(rng.standard_normal((6, 9)))
    G[2] *= 1e-5
    members = pair(StrongRows(), mo.ColumnNorm())
    X = updated(mo.multi_normalize(*members), G)
    np.testing.assert_array_equal(X[2], 0)
    want = updated(mo.multi_normalize(*pair(mo.RowNorm(), mo.ColumnNorm())), np.delete(G, 2, 0))
    np.testing.assert_allclose(np.delete(X, 2, 0), want * np.sqrt(6 / 5), rtol=0.2)
