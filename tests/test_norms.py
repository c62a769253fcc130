"""Norms, dual norms and projections of single weights, against their definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import multinorm_optax as mo
from multinorm_optax._optimizers.swan import CenteredRows
from tests import reference
from tests.layouts import LAYOUTS, ROWS_FIRST

NORMS = {
    "row": mo.RowNorm(),
    "column": mo.ColumnNorm(),
    "spectral": mo.SpectralNorm(),
    "spectral_svd": mo.SpectralNorm(mo.exact_svd()),
    "max": mo.MaxNorm(),
    "frobenius": mo.FrobeniusNorm(),
}
SHAPES = [(4, 7), (7, 4), (5, 5), (1, 6), (6, 1), (1, 1)]
FLAX_KERNEL = mo.MatrixAxes(output=-1, input=-2)
every_norm = pytest.mark.parametrize("name", NORMS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def reference_of(name):
    return reference.NORMS[name.removesuffix("_svd")]


@functools.cache
def compiled(name, axes=ROWS_FIRST):
    """The norm, dual norm and projection in one compilation."""
    norm = NORMS[name]
    return jax.jit(lambda w: (norm.norm(w, axes), norm.dual_norm(w, axes), norm(w, axes)))


def inner(x, z):
    return float(np.sum(np.real(np.conj(x) * z)))


def matrix(seed, shape, imaginary=False):
    rng = np.random.default_rng(seed)
    real = rng.standard_normal(shape)
    return real + 1j * rng.standard_normal(shape) if imaginary else real


@every_norm
@pytest.mark.parametrize("imaginary", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("shape", [(4, 7), (7, 4)], ids=str)
class TestNonzero:
    def test_matches_definitions(self, float64, name, shape, imaginary):
        W = matrix(1, shape, imaginary)
        norm, dual, P = map(np.asarray, compiled(name)(W))
        want = reference_of(name)
        np.testing.assert_allclose(norm, want.norm(W), rtol=1e-12)
        np.testing.assert_allclose(dual, want.dual_norm(W), rtol=1e-12)
        np.testing.assert_allclose(P, want.project(W), rtol=1e-9, atol=1e-9)
        assert inner(W, P) == pytest.approx(want.dual_norm(W), rel=1e-10)
        assert want.norm(P) == pytest.approx(1, rel=1e-10)
        assert reference.rms(P) == pytest.approx(1, rel=1e-10)


@every_norm
class TestArgmax:
    @given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.0, 1.0, 4.0]))
    def test_no_feasible_matrix_is_better(self, name, seed, spread):
        rng = np.random.default_rng(seed)
        W, z = rng.standard_normal((2, 4, 7)) * 10 ** rng.uniform(-spread, spread, (2, 4, 7))
        z = (z / reference_of(name).norm(z)).astype(np.float32)
        W = W.astype(np.float32)
        best = float(compiled(name)(W)[1])
        assert inner(W.astype(float), z) <= best * (1 + 1e-5)
        near = reference_of(name).project(W.astype(float) + 1e-3 * rng.standard_normal((4, 7)))
        assert inner(W.astype(float), near) <= best * (1 + 1e-5)

    @given(seed=st.integers(0, 2**32 - 1), exponent=st.floats(-28, 28))
    def test_scale_invariant_and_idempotent(self, name, seed, exponent):
        W = matrix(seed, (4, 7)).astype(np.float32)
        P = compiled(name)(W)[2]
        scaled = compiled(name)(W * np.float32(10**exponent))[2]
        np.testing.assert_allclose(scaled, P, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(compiled(name)(P)[2], P, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["row", "column", "spectral"])
def test_layouts(rng, name):
    want, norm = reference_of(name), NORMS[name]
    weights = {key: rng.standard_normal(layout.shape) for key, layout in LAYOUTS.items()}

    def evaluate(weights):
        cases = [(key, weights[key], LAYOUTS[key].axes) for key in weights]
        return {
            k: (norm.norm(w, axes), norm.dual_norm(w, axes), norm(w, axes)) for k, w, axes in cases
        }

    results = jax.jit(evaluate)({key: np.float32(w) for key, w in weights.items()})
    for key, layout in LAYOUTS.items():
        matrices = layout.matrices(weights[key])
        value, dual_norm, P = results[key]
        batch = tuple(layout.shape[i] for i in layout.batch)
        expected = np.reshape([want.norm(W) for W in matrices], batch)
        dual = np.reshape([want.dual_norm(W) for W in matrices], batch)
        np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=key)
        np.testing.assert_allclose(dual_norm, dual, rtol=1e-5, err_msg=key)
        projected = layout.weight([want.project(W) for W in matrices])
        np.testing.assert_allclose(P, projected, rtol=3e-5, atol=3e-5, err_msg=key)


@every_norm
@pytest.mark.parametrize(
    "dtype", [jnp.float8_e4m3fn, jnp.float16, jnp.bfloat16, jnp.float32, jnp.complex64]
)
def test_dtypes(rng, name, dtype):
    x = jnp.asarray(rng.standard_normal((4, 7)), dtype)
    exact = np.asarray(x, np.complex128 if dtype == jnp.complex64 else np.float64)
    norm, _, projected = compiled(name)(x)
    assert projected.dtype == dtype
    assert norm.dtype == jnp.float32
    rounding = 2 * float(jnp.finfo(dtype).eps) + 1e-5
    want = reference_of(name)
    np.testing.assert_allclose(norm, want.norm(exact), rtol=1e-5)
    np.testing.assert_allclose(
        np.asarray(projected, exact.dtype), want.project(exact), rtol=rounding, atol=rounding
    )


@every_norm
class TestDegenerate:
    def test_zero(self, name):
        zero = jnp.zeros((4, 7))
        for result, want in zip(compiled(name)(zero), (0, 0, zero), strict=True):
            np.testing.assert_array_equal(result, want)

    def test_zero_rows_and_columns_stay_zero(self, rng, name):
        W = rng.standard_normal((5, 7)).astype(np.float32)
        W[2] = W[:, 3] = 0
        _, dual, P = compiled(name)(W)
        P = np.asarray(P)
        assert np.all(np.isfinite(P))
        np.testing.assert_array_equal(P[2], 0)
        np.testing.assert_array_equal(P[:, 3], 0)
        assert inner(W, P) == pytest.approx(float(dual), rel=1e-5)

    @pytest.mark.parametrize("shape", [(0, 4, 7), (2, 0, 7), (2, 4, 0), (0, 0, 0)], ids=str)
    def test_empty(self, name, shape):
        norm, dual, P = compiled(name, FLAX_KERNEL)(jnp.zeros(shape))
        assert P.shape == shape
        np.testing.assert_array_equal(norm, np.zeros(shape[0]))
        np.testing.assert_array_equal(dual, np.zeros(shape[0]))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_non_finite_entries_are_not_laundered(self, rng, name, bad):
        W = rng.standard_normal((2, 4, 7)).astype(np.float32)
        W[0, 1, 2] = bad
        norm, dual, P = map(np.asarray, compiled(name, FLAX_KERNEL)(W))
        assert not np.all(np.isfinite(P[0]))
        assert np.all(np.isfinite(P[1]))
        np.testing.assert_array_equal(np.isfinite(norm), [False, True])
        np.testing.assert_array_equal(np.isfinite(dual), [False, True])


@every_norm
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norms_of_extreme_matrices(rng, name, scale):
    W = rng.standard_normal((4, 7)) * scale
    norm, dual, P = compiled(name)(jnp.asarray(W, jnp.float32))
    want = reference_of(name)
    np.testing.assert_allclose(norm, want.norm(W), rtol=1e-5)
    np.testing.assert_allclose(dual, want.dual_norm(W), rtol=1e-5)
    np.testing.assert_allclose(P, want.project(W), rtol=3e-5, atol=3e-5)


def test_small_row_counts_beside_a_large_one():
    W = np.array([[1e30, 1e30], [1e-15, 1e-15]])
    P = compiled("row")(np.float32(W))[2]
    np.testing.assert_allclose(P, np.ones((2, 2)), rtol=1e-6)


center = jax.jit(lambda x: CenteredRows()(x, ROWS_FIRST))


class TestCenteredRows:
    @every_shape
    def test_matches_grad_norm(self, float64, rng, shape):
        W = rng.standard_normal(shape) + 5
        want = reference.grad_norm(W) if shape[1] > 1 else np.zeros(shape)
        P = center(W)
        np.testing.assert_allclose(P, want, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("constant", [0.1, 1e-30, 3e7, -7.3])
    def test_constant_rows_become_zero(self, constant):
        x = jnp.full((3, 7), constant, jnp.float32).at[0].set(jnp.arange(7.0))
        P = np.asarray(center(x))
        np.testing.assert_array_equal(P[1:], 0)
        np.testing.assert_allclose(P[0], reference.grad_norm(np.arange(7.0)[None])[0], atol=1e-6)

    def test_non_finite_entries_are_not_laundered(self, rng):
        W = rng.standard_normal((3, 7)).astype(np.float32)
        W[1, 2] = np.inf
        P = np.asarray(center(W))
        assert not np.all(np.isfinite(P[1]))
        assert np.all(np.isfinite(P[[0, 2]]))


@pytest.mark.parametrize("of", ["norm", "dual_norm", "__call__"])
def test_integers_are_refused(of):
    with pytest.raises(TypeError, match="floating-point or complex"):
        getattr(mo.RowNorm(), of)(jnp.array([[3, 0], [4, 1]]))


def test_norms_are_values():
    assert mo.RowNorm() == mo.RowNorm()
    assert mo.SpectralNorm() == mo.SpectralNorm()
    assert hash(mo.SpectralNorm()) == hash(mo.SpectralNorm())
