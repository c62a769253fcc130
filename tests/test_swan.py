"""SWAN against its definition, and as multi-normalization."""

import jax.numpy as jnp
import numpy as np
import pytest

import multinorm_optax as mo
from tests import reference
from tests.layouts import ROWS_FIRST
from tests.updates import updated

PAPER = mo.swan_whitening()
SHAPES = [(6, 15), (15, 6), (8, 8), (1, 5), (5, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("centered", [False, True])
def test_matches_definition(float64, rng, shape, centered):
    G = rng.standard_normal(shape)
    result = updated(mo.scale_by_swan(ROWS_FIRST, centered, PAPER), G)
    np.testing.assert_allclose(result, reference.swan(G, centered), atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_default_whitening_is_exact(rng, shape):
    G = rng.standard_normal(shape)
    oriented = G if shape[0] <= shape[1] else G.T
    want = reference.multi_norm(oriented, (reference.project_rows, reference.project_spectral), 1)
    result = np.asarray(updated(mo.scale_by_swan(ROWS_FIRST), np.float32(G)))
    np.testing.assert_allclose(result if shape[0] <= shape[1] else result.T, want, atol=1e-3)


def test_float32(rng):
    G = rng.standard_normal((16, 40))
    result = updated(mo.scale_by_swan(ROWS_FIRST, orthogonalizer=PAPER), np.float32(G))
    np.testing.assert_allclose(result, reference.swan(G), atol=1e-3)


def test_flax_kernels_are_read_as_input_by_output(float64, rng):
    G = rng.standard_normal((6, 15))
    result = updated(mo.scale_by_swan(orthogonalizer=PAPER), G.T)
    np.testing.assert_allclose(result, reference.swan(G).T, atol=1e-10)


def test_other_whitenings(float64, rng):
    G = rng.standard_normal((6, 15))
    result = updated(mo.scale_by_swan(ROWS_FIRST, orthogonalizer=mo.swan_whitening(4, 0.5)), G)
    np.testing.assert_allclose(result, reference.swan(G, k=4, beta=0.5), atol=1e-10)


def test_whitening_without_a_hash_or_a_module(rng):
    class Whitening:
        __hash__ = None
        __module__ = None

        def __call__(self, x):
            return mo.exact_svd()(x)

    G = rng.standard_normal((6, 15))
    result = updated(mo.scale_by_swan(ROWS_FIRST, orthogonalizer=Whitening()), G)
    want = updated(mo.scale_by_swan(ROWS_FIRST, orthogonalizer=mo.exact_svd()), G)
    np.testing.assert_allclose(result, want, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 15), (8, 8)], ids=str)
def test_exact_form_is_a_fixed_point_after_one_sweep(float64, rng, shape):
    G = rng.standard_normal(shape)
    tx = mo.scale_by_swan(ROWS_FIRST, orthogonalizer=mo.exact_svd())
    once = np.asarray(updated(tx, G))
    np.testing.assert_allclose(updated(tx, once), once, atol=1e-12)
    np.testing.assert_allclose(reference.row_norms(once), np.sqrt(shape[1]), rtol=1e-12)
    want = reference.multi_norm(G, (reference.project_rows, reference.project_spectral), 1)
    np.testing.assert_allclose(once, want, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sweeps_before_the_whitening(float64, rng, shape):
    G = rng.standard_normal(shape)
    tx = mo.scale_by_swan(ROWS_FIRST, orthogonalizer=mo.exact_svd(), num_iters=2)
    X = reference.project_spectral(reference.sr_sinkhorn(G, 2))
    np.testing.assert_allclose(updated(tx, G), reference.project_frobenius(X), atol=1e-10)


def test_half_precision_is_rounded_once_after_sweeps(rng):
    G = jnp.asarray(rng.standard_normal((6, 15)), jnp.bfloat16)
    tx = mo.scale_by_swan(num_iters=2)
    want = updated(tx, G.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(np.float32(updated(tx, G)), np.float32(want))


@pytest.mark.parametrize("num_iters", [0, -1, 1.5, True], ids=str)
def test_sweeps_are_counted(num_iters):
    with pytest.raises((TypeError, ValueError), match="num_iters must be"):
        mo.scale_by_swan(num_iters=num_iters)


def test_sweeps_do_not_center_rows():
    with pytest.raises(ValueError, match="either centered or num_iters"):
        mo.swan(centered=True, num_iters=2)


def test_dead_rows_and_columns(float64, rng):
    G = rng.standard_normal((6, 15))
    G[2] = G[:, [3, 8]] = 0
    result = np.asarray(updated(mo.scale_by_swan(ROWS_FIRST, orthogonalizer=PAPER), G))
    want = reference.on_live_part(reference.swan, G)
    np.testing.assert_allclose(result, want, atol=1e-10)
    np.testing.assert_array_equal(result[want == 0], 0)


def test_constant_rows_carry_no_direction_when_centered(rng):
    G = np.float32(rng.standard_normal((6, 15)))
    G[3] = 0.1
    result = np.asarray(updated(mo.scale_by_swan(ROWS_FIRST, centered=True), G))
    assert np.all(np.isfinite(result))
    np.testing.assert_array_equal(result[3], 0)
