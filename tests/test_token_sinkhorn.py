import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import multinorm_optax as mo
from multinorm_optax._optimizers.tokens import zero_small_rows
from tests import reference

TABLE = mo.MatrixAxes(output=0, input=1)


def _apply(tx, table):
    return jax.jit(lambda g: tx.update(g, tx.init(g))[0])(table)


def _skewed(rng, tokens=24, width=8):
    """A table whose tokens occur as often as words do; the last two hardly or not at all."""
    table = rng.standard_normal((tokens, width)) / (1 + np.arange(tokens))[:, None]
    table[-2] *= 1e-5
    table[-1] = 0
    return table


@pytest.mark.parametrize("shape", [(24, 8), (7, 24), (12, 12)])
@pytest.mark.parametrize("threshold", [1e-3, 0.3])
def test_equals_the_literal_reference(float64, rng, shape, threshold):
    table = _skewed(rng, *shape)
    tx = mo.scale_by_token_sinkhorn(TABLE, threshold=threshold)
    expected = reference.token_sinkhorn(table, threshold=threshold)
    np.testing.assert_allclose(_apply(tx, jnp.asarray(table)), expected, rtol=0, atol=1e-12)


def test_head_kernel_is_the_transposed_table(float64, rng):
    table = _skewed(rng)
    head = mo.scale_by_token_sinkhorn(mo.MatrixAxes(output=1, input=0))
    expected = _apply(mo.scale_by_token_sinkhorn(TABLE), jnp.asarray(table)).T
    np.testing.assert_allclose(_apply(head, jnp.asarray(table.T)), expected, rtol=0, atol=1e-14)


def test_rows_end_with_unit_size_and_rare_tokens_do_not_move(rng):
    update = np.asarray(_apply(mo.scale_by_token_sinkhorn(TABLE), jnp.float32(_skewed(rng))))
    np.testing.assert_allclose(np.sqrt((update**2).mean(1))[:-2], 1, atol=1e-6)
    assert not update[-2:].any()


def test_small_rows_are_those_below_the_threshold_and_no_others(rng):
    table = jnp.float32(_skewed(rng))
    kept = np.asarray(_apply(zero_small_rows(TABLE, 0.2), table))
    np.testing.assert_array_equal(kept, np.float32(reference.zero_small_rows(table, 0.2)))
    assert 0 < (kept == 0).all(1).sum() < len(table)


@pytest.mark.parametrize("size", [1e-10, 1e-30])
def test_without_a_threshold_every_row_counts(size):
    table = jnp.ones((3, 4)).at[0].set(size)
    np.testing.assert_allclose(_apply(mo.scale_by_token_sinkhorn(TABLE, threshold=0.0), table), 1)


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
def test_any_scale_gives_the_same_bits(rng, scale):
    table = jnp.float32(_skewed(rng))
    tx = mo.scale_by_token_sinkhorn(TABLE)
    np.testing.assert_array_equal(_apply(tx, table * scale), _apply(tx, table))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_invalid_gradient_reaches_the_update(rng, bad):
    table = jnp.float32(_skewed(rng)).at[3, 2].set(bad)
    assert not np.isfinite(_apply(zero_small_rows(TABLE), table)[3, 2])
    assert np.isnan(_apply(mo.scale_by_token_sinkhorn(TABLE), table)).any()


def test_stack_of_tables_is_treated_one_by_one(rng):
    tables = jnp.float32(np.stack([_skewed(rng), 1e6 * _skewed(rng)]))
    tx = mo.scale_by_token_sinkhorn(mo.MatrixAxes(output=-2, input=-1))
    expected = [_apply(mo.scale_by_token_sinkhorn(TABLE), table) for table in tables]
    np.testing.assert_allclose(_apply(tx, tables), expected, atol=1e-6)


def test_leaf_that_is_no_matrix_is_named():
    with pytest.raises(ValueError, match=r"norm/scale \(8,\)"):
        zero_small_rows().update({"norm": {"scale": jnp.ones(8)}}, optax.EmptyState())


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_rounded_once(rng, dtype):
    table = jnp.full((8, 6), 1e4).at[:, 0].set(1e-4) * rng.choice([-1, 1], (8, 6))
    tx = mo.scale_by_token_sinkhorn(TABLE)
    narrow = table.astype(dtype)
    expected = _apply(tx, narrow.astype(jnp.float32)).astype(dtype)
    np.testing.assert_array_equal(_apply(tx, narrow), expected)
    assert np.all(np.abs(np.float32(expected[:, 0])) > 0.5)


def test_threshold_is_a_number():
    with pytest.raises(TypeError, match="threshold must be a number, got 'a'"):
        mo.scale_by_token_sinkhorn(TABLE, threshold="a")
