"""Scale invariance, ill-scaled input, half precision and double precision, seen from outside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import multinorm_optax as mo
from multinorm_optax._optimizers.swan import CenteredRows
from tests import reference
from tests.layouts import ROWS_FIRST
from tests.updates import updated

TRANSFORMATIONS = {
    "rows": mo.normalize_rows(ROWS_FIRST),
    "columns": mo.normalize_columns(ROWS_FIRST),
    "frobenius": mo.normalize(mo.FrobeniusNorm(), ROWS_FIRST),
    "max": mo.normalize(mo.MaxNorm(), ROWS_FIRST),
    "spectral": mo.normalize_spectral(ROWS_FIRST),
    "center_rows": mo.normalize(CenteredRows(), ROWS_FIRST),
    "sinkhorn": mo.scale_by_sinkhorn(ROWS_FIRST),
    "sinkhorn_tol": mo.scale_by_sinkhorn(ROWS_FIRST, num_iters=20, tol=1e-5),
    "swan": mo.scale_by_swan(ROWS_FIRST),
    "swan_centered": mo.scale_by_swan(ROWS_FIRST, centered=True),
    "row_spectral": mo.multi_normalize(
        mo.normalize_rows(ROWS_FIRST), mo.normalize_spectral(ROWS_FIRST), num_iters=2
    ),
}
every_transformation = pytest.mark.parametrize("name", TRANSFORMATIONS)


@functools.cache
def compiled(name):
    tx = TRANSFORMATIONS[name]
    return jax.jit(lambda g: tx.update(g, tx.init(g))[0])


@every_transformation
@given(seed=st.integers(0, 2**32 - 1), exponent=st.sampled_from([-100, -64, -1, 33, 100]))
def test_bitwise_invariant_to_powers_of_two(name, seed, exponent):
    G = np.float32(np.random.default_rng(seed).standard_normal((6, 9)))
    want = np.asarray(compiled(name)(G))
    assert np.all(np.isfinite(want))
    scaled = compiled(name)(np.ldexp(G, exponent))
    np.testing.assert_array_equal(scaled, want)


@every_transformation
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e18, 1e30])
def test_invariant_to_extreme_scales(rng, name, scale):
    G = rng.standard_normal((6, 9))
    want = compiled(name)(np.float32(G))
    assert reference.rms(np.asarray(want, float)) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(compiled(name)(np.float32(scale * G)), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", ["rows", "columns", "both"])
@given(seed=st.integers(0, 2**32 - 1))
def test_ill_scaled_rows_and_columns(side, seed):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((6, 9))
    if side != "columns":
        G *= 10 ** rng.uniform(-15, 15, (6, 1))
    if side != "rows":
        G *= 10 ** rng.uniform(-15, 15, (1, 9))
    G = np.float32(G)
    want = reference.sr_sinkhorn(G.astype(float), 5)
    np.testing.assert_allclose(compiled("sinkhorn")(G), want, rtol=1e-4, atol=1e-5)


@every_transformation
def test_bfloat16_is_rounded_once(rng, name):
    G = jnp.asarray(rng.standard_normal((6, 9)), jnp.bfloat16)
    result = compiled(name)(G)
    assert result.dtype == jnp.bfloat16
    exact = np.asarray(compiled(name)(G.astype(jnp.float32)))
    error = reference.frobenius(np.asarray(result, np.float32) - exact)
    rounding = reference.frobenius(np.asarray(exact, jnp.bfloat16).astype(np.float32) - exact)
    assert error <= 1.05 * rounding


def test_bfloat16_error_does_not_grow_with_sweeps(rng):
    G = jnp.asarray(rng.standard_normal((64, 160)), jnp.bfloat16)
    want = reference.sr_sinkhorn(np.asarray(G, float), 100)
    result = np.asarray(updated(mo.scale_by_sinkhorn(ROWS_FIRST, 100), G), float)
    assert reference.frobenius(result - want) <= 2e-3 * reference.frobenius(want)


class TestFloat64:
    def test_sinkhorn_to_machine_precision(self, float64, gaussian):
        result = updated(mo.scale_by_sinkhorn(ROWS_FIRST), gaussian)
        assert result.dtype == np.float64
        np.testing.assert_allclose(result, reference.sr_sinkhorn(gaussian, 5), atol=1e-12)

    @pytest.mark.parametrize("centered", [False, True])
    def test_swan_to_machine_precision(self, float64, rng, centered):
        G = rng.standard_normal((12, 30))
        tx = mo.scale_by_swan(ROWS_FIRST, centered, mo.swan_whitening())
        np.testing.assert_allclose(updated(tx, G), reference.swan(G, centered), atol=1e-12)

    def test_row_spectral(self, float64, rng):
        G = rng.standard_normal((12, 30))
        norms = (mo.normalize_rows(ROWS_FIRST), mo.normalize_spectral(ROWS_FIRST, mo.exact_svd()))
        result = updated(mo.multi_normalize(*norms, num_iters=3), G)
        want = reference.multi_norm(G, (reference.project_rows, reference.project_spectral), 3)
        np.testing.assert_allclose(result, want, atol=1e-12)

    def test_scales_beyond_float32(self, float64, rng):
        G = rng.standard_normal((6, 9))
        want = compiled("sinkhorn")(G)
        for scale in (2.0**-900, 2.0**900):
            np.testing.assert_array_equal(compiled("sinkhorn")(scale * G), want)

    @pytest.mark.parametrize("tol", [None, 1e-3])
    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
    def test_narrower_leaves_keep_their_dtype(self, float64, rng, dtype, tol):
        G = jnp.asarray(rng.standard_normal((6, 9)), dtype)
        assert updated(mo.scale_by_sinkhorn(tol=tol), G).dtype == dtype
        assert updated(mo.sinkgd(0.1, tol=tol), G, G).dtype == dtype


@every_transformation
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_gradients_reach_the_update(rng, name, bad):
    G = np.float32(rng.standard_normal((6, 9)))
    G[2, 3] = bad
    result = compiled(name)(G)
    assert not np.all(np.isfinite(result))


@every_transformation
def test_zero_gradient_gives_zero_update(name):
    np.testing.assert_array_equal(compiled(name)(np.zeros((6, 9), np.float32)), 0)


@every_transformation
def test_apply_if_finite_rejects_a_diverged_gradient(rng, name):
    tx = optax.apply_if_finite(TRANSFORMATIONS[name], max_consecutive_errors=3)
    G = np.float32(rng.standard_normal((6, 9)))
    update = jax.jit(tx.update)
    for bad in (np.nan, np.inf):
        poisoned = G.copy()
        poisoned[1, 1] = bad
        result, state = update(poisoned, tx.init(G))
        np.testing.assert_array_equal(result, 0)
        assert int(state.total_notfinite) == 1
    assert np.any(update(G, tx.init(G))[0])
