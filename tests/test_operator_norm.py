"""scale_by_operator_norm: the operator norm of an update, set by power iteration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

import multinorm_optax as mo
from tests.updates import updated

TALL = mo.MatrixAxes(output=-2, input=-1)


def operator_norms(x, axes=TALL):
    m, n = axes.matrix_shape(x.shape)
    return np.linalg.svd(np.asarray(x, np.float64), compute_uv=False)[..., 0] / np.sqrt(m / n)


@pytest.mark.parametrize(("num_iters", "bound", "largest"), [(3, 1.2, 2.0), (10, 1.1, 1.4)])
@pytest.mark.parametrize(
    ("shape", "rank", "share"),
    [
        ((10, 256, 256), None, 0),
        ((10, 256, 700), None, 0),
        ((50, 60, 100), 1, 0),
        ((500, 60, 100), 2, 0.125),
        ((500, 60, 100), 4, 0.125),
        ((1000, 8, 8), None, 0.125),
        ((300, 32, 32), None, 0.125),
    ],
)
def test_norms_are_as_near_as_the_docstring_says(num_iters, bound, largest, shape, rank, share):
    rng = np.random.default_rng(0)
    count, m, n = shape
    g = rng.normal(size=shape)
    if rank is not None:
        g = rng.normal(size=(count, m, rank)) @ rng.normal(size=(count, rank, n))
    tx = mo.scale_by_operator_norm(TALL, num_iters)
    norms = operator_norms(updated(tx, jnp.asarray(g, jnp.float32)))
    assert np.all(norms > 1 - 1e-5)
    assert np.mean(norms > bound) <= share
    assert norms.max() < (1 + 1e-5 if rank == 1 else largest)


@functools.cache
def three_steps():
    return jax.jit(lambda g: updated(mo.scale_by_operator_norm(TALL, 3), g))


@given(
    shape=st.sampled_from([(1, 1, 1), (3, 1, 5), (2, 6, 1), (1, 9, 4), (4, 4, 4), (12, 3, 11)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_matrix_keeps_its_direction_and_gets_at_least_its_norm(shape, seed):
    g = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    update = np.asarray(three_steps()(g))
    assert np.all(operator_norms(update) >= 1 - 1e-5)
    ratio = update / g
    assert np.all(ratio > 0)
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], g.shape), rtol=1e-4)


def test_each_matrix_of_a_stack_is_scaled_as_it_would_be_alone(rng):
    g = jnp.asarray(rng.normal(size=(4, 20, 30)), jnp.float32)
    tx = mo.scale_by_operator_norm(TALL, 2)
    alone = [updated(tx, each) for each in g]
    np.testing.assert_allclose(updated(tx, g), jnp.stack(alone), rtol=1e-5)


def with_a_gap(rng, shape):
    """Noise, and a direction about three times as large as the largest of the noise."""
    *batch, m, n = shape
    u, v = rng.normal(size=(*batch, m, 1)), rng.normal(size=(*batch, 1, n))
    return rng.normal(size=shape) + 3 * (m**0.5 + n**0.5) / (m * n) ** 0.5 * u * v


@pytest.mark.parametrize("shape", [(64, 64), (160, 40), (40, 160), (3, 30, 20), (1, 7), (7, 1)])
def test_converges_to_the_largest_singular_value(shape, rng):
    g = jnp.asarray(with_a_gap(rng, shape), jnp.float32)
    errors = [
        float(np.max(np.abs(operator_norms(updated(mo.scale_by_operator_norm(TALL, k), g)) - 1)))
        for k in (1, 3, 12)
    ]
    assert errors[0] + 1e-6 >= errors[1]
    assert errors[1] < 0.25
    assert errors[2] < 1e-3


def test_singular_values_are_scaled_alike_for_complex_matrices(rng):
    g = jnp.asarray(with_a_gap(rng, (8, 5)) * (1 + 1j * rng.normal(size=(8, 1))), jnp.complex64)
    update = updated(mo.scale_by_operator_norm(TALL, 12), g)
    found = jnp.linalg.svd(update, compute_uv=False)
    assert float(found[0]) == pytest.approx(np.sqrt(8 / 5), rel=1e-4)
    np.testing.assert_allclose(found / found[0], found_ratio(g), rtol=1e-4)


def found_ratio(x):
    values = np.linalg.svd(np.asarray(x), compute_uv=False)
    return values / values[0]


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
def test_is_scale_invariant_bit_by_bit(scale, rng):
    g = jnp.asarray(rng.normal(size=(8, 5)), jnp.float32)
    tx = mo.scale_by_operator_norm(TALL)
    np.testing.assert_array_equal(updated(tx, g * scale), updated(tx, g))


def test_zeros_and_non_finite_entries():
    g = jnp.stack([jnp.zeros((3, 4)), jnp.eye(3, 4)])
    update = updated(mo.scale_by_operator_norm(TALL, 1), g)
    assert np.all(update[0] == 0)
    assert np.all(np.isfinite(update[1]))
    assert np.any(
        np.isnan(updated(mo.scale_by_operator_norm(TALL), jnp.eye(3).at[0, 1].set(jnp.nan)))
    )
    assert updated(mo.scale_by_operator_norm(TALL), jnp.zeros((0, 4))).shape == (0, 4)


def test_half_precision_is_rounded_once(rng):
    g = jnp.asarray(rng.normal(size=(8, 5)), jnp.bfloat16)
    tx = mo.scale_by_operator_norm(TALL)
    update = updated(tx, g)
    assert update.dtype == jnp.bfloat16
    np.testing.assert_array_equal(update, updated(tx, g.astype(jnp.float32)).astype(jnp.bfloat16))


def test_rows_and_columns_are_those_of_the_axes(rng):
    g = jnp.asarray(with_a_gap(rng, (8, 5)), jnp.float32)
    kernel = mo.MatrixAxes(output=1, input=0)
    update = updated(mo.scale_by_operator_norm(kernel, 12), g)
    assert float(jnp.linalg.norm(update, ord=2)) == pytest.approx(np.sqrt(5 / 8), rel=1e-3)
    assert not jax.tree.leaves(mo.scale_by_operator_norm(kernel).init(g))


@pytest.mark.parametrize("bad", [0, -1, 1.5, True])
def test_num_iters_is_a_positive_integer(bad):
    with pytest.raises(ValueError, match="num_iters"):
        mo.scale_by_operator_norm(TALL, bad)


def test_a_gpu_runs_no_branch():
    tx = optax.chain(mo.scale_by_sinkhorn(TALL, 2), mo.scale_by_operator_norm(TALL))
    g = jax.ShapeDtypeStruct((4, 64, 32), jnp.float32)
    traced = jax.jit(lambda g: tx.update(g, tx.init(g))[0]).trace(g)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    for control in ("case", "if"):
        assert f"stablehlo.{control}" not in text


@pytest.mark.devices(4)
@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((64, 32), P("r", None)),
        ((64, 32), P(None, "r")),
        ((32, 4, 16), P(None, None, "r")),  # inside of merged axes
    ],
)
def test_devices_exchange_vectors_only(shape, spec):
    mesh = jax.make_mesh((4,), ("r",), axis_types=(jax.sharding.AxisType.Auto,))
    g = jax.device_put(
        jax.random.normal(jax.random.key(0), shape), jax.sharding.NamedSharding(mesh, spec)
    )
    tx = mo.scale_by_operator_norm(TALL if len(shape) == 2 else mo.MatrixAxes((1, 2), 0))
    compiled = jax.jit(lambda g: updated(tx, g)).lower(g).compile()
    text = compiled.as_text()
    assert "all-gather" not in text
    assert "all-to-all" not in text
    np.testing.assert_allclose(compiled(g), updated(tx, jax.device_get(g)), rtol=1e-5)


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"bias": jnp.ones(4)}, ValueError),
        ({"x": jnp.ones((3, 4))}, ValueError),
        ({"kernel": jnp.ones((3, 4), jnp.int32)}, TypeError),
    ],
)
def test_init_checks_the_leaves(params, error):
    with pytest.raises(error, match=next(iter(params))):
        mo.scale_by_operator_norm().init(params)
