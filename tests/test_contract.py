"""What optax users may rely on, for every transformation and optimizer of the package."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import multinorm_optax as mo
from multinorm_optax._optimizers.swan import CenteredRows
from tests.catalogue import OPTIMIZERS, TRANSFORMATIONS, WITH_MOMENTS, every_entry, kernels

ENTRIES = every_entry()
every_transformation = pytest.mark.parametrize("name", TRANSFORMATIONS)
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS | WITH_MOMENTS)
every = pytest.mark.parametrize("name", ENTRIES)


@functools.cache
def compiled(name):
    return jax.jit(lambda g: ENTRIES[name].update(g, ENTRIES[name].init(g), g)[0])


@every
@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, jnp.float16, jnp.complex64], ids=lambda d: d.__name__
)
def test_dtype_and_shape_are_kept(rng, name, dtype):
    tree = kernels(rng, dtype)
    updates = compiled(name)(tree)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, tree)
    chex.assert_tree_all_finite(jax.tree.map(jnp.abs, updates))


@every
def test_float64_is_kept(float64, rng, name):
    tree = kernels(rng, jnp.float64)
    updates = jax.eval_shape(compiled(name), tree)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, tree)


@every
def test_one_trace_for_all_steps_and_a_stable_state(rng, name):
    tx = ENTRIES[name]
    params = kernels(rng)
    state = tx.init(params)
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(lambda *arguments: tx.update(*arguments), n=1))
    for _ in range(3):
        updates, new_state = step(kernels(rng), state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
        params, state = optax.apply_updates(params, updates), new_state


@every_transformation
@pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.bfloat16, jnp.float64], ids=lambda d: d.__name__
)
def test_no_dtype_is_promoted_silently(float64, rng, name, dtype):
    # optax's Adam, and so every optimizer with it, needs JAX's usual promotion
    tree, tx = kernels(rng, dtype), TRANSFORMATIONS[name]
    with jax.numpy_dtype_promotion("strict"):
        updates = jax.eval_shape(lambda g: tx.update(g, tx.init(g))[0], tree)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, tree)


@every_transformation
def test_state_is_empty(rng, name):
    assert jax.tree.leaves(TRANSFORMATIONS[name].init(kernels(rng))) == []


@pytest.mark.parametrize("name", ["sinkgd", "swan"])
def test_the_same_without_jit(rng, name):
    tree = kernels(rng)
    tx = ENTRIES[name]
    updates, _ = tx.update(tree, tx.init(tree), tree)
    chex.assert_trees_all_close(compiled(name)(tree), updates, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["scale_by_sinkhorn", "scale_by_sinkhorn_tol", "scale_by_swan", "row_spectral"]
)
def test_vmap_is_a_loop(rng, name):
    trees = [kernels(rng) for _ in range(2)]
    trees[1]["tall"]["kernel"] = jnp.ones((6, 4)).at[2, 3].set(5.0)
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *trees)
    mapped = jax.jit(jax.vmap(compiled(name)))(stacked)
    loop = jax.tree.map(lambda *each: jnp.stack(each), *map(compiled(name), trees))
    chex.assert_trees_all_close(mapped, loop, atol=1e-4)


def mixed(rng):
    return {**kernels(rng), "bias": jnp.asarray(rng.standard_normal(4), jnp.float32)}


MASK = {"tall": True, "wide": True, "bias": False}


@every_transformation
def test_inside_masked_partition_chain_and_apply_if_finite(rng, name):
    tx, tree = TRANSFORMATIONS[name], mixed(rng)
    want = compiled(name)({key: tree[key] for key in ("tall", "wide")})
    masked = optax.masked(tx, MASK)
    partitioned = optax.partition({"matrix": tx, "adam": optax.sgd(0.5)}, mo.group_labels())
    chained = optax.apply_if_finite(optax.chain(optax.identity(), masked, optax.scale(-1.0)), 2)

    @jax.jit
    def run(tree):
        return [each.update(tree, each.init(tree))[0] for each in (masked, partitioned, chained)]

    for updates, sign, bias in zip(run(tree), (1, 1, -1), (1, -0.5, -1), strict=True):
        chex.assert_trees_all_close(updates.pop("bias"), bias * tree["bias"])
        chex.assert_trees_all_close(updates, optax.tree.scale(sign, want), atol=1e-5)


@every_transformation
def test_derivatives_are_finite_and_those_of_finite_differences(float64, rng, name):
    tx = TRANSFORMATIONS[name]
    if name in ("scale_by_sinkhorn_tol", "row_spectral"):  # while_loop: forward mode only
        tx = optax.stateless(lambda g, p: compiled(name)(g))
    G = rng.standard_normal((4, 6))
    G[2] = 0
    C, V = rng.standard_normal((2, 4, 6))
    V[2] = 0

    def value(G):
        gradient = {"kernel": G}
        return jnp.sum(C * tx.update(gradient, tx.init(gradient))[0]["kernel"])

    _, tangent = jax.jit(lambda: jax.jvp(value, (G,), (V,)))()
    run, h = jax.jit(value), 1e-6
    numeric = (run(G + h * V) - run(G - h * V)) / (2 * h)
    np.testing.assert_allclose(tangent, numeric, rtol=1e-5, atol=1e-5)
    if name not in ("scale_by_sinkhorn_tol", "row_spectral"):
        gradient = jax.jit(jax.grad(value))(G)
        assert np.all(np.isfinite(gradient))
        np.testing.assert_allclose(np.sum(gradient * V), tangent, rtol=1e-9, atol=1e-9)


@every_optimizer
class TestOptimizers:
    def test_extra_arguments_are_ignored(self, rng, name):
        tx, tree = ENTRIES[name], mixed(rng)
        plain, _ = jax.jit(tx.update)(tree, tx.init(tree), tree)
        extra, _ = jax.jit(tx.update)(tree, tx.init(tree), tree, unexpected=1)
        chex.assert_trees_all_equal(plain, extra)

    def test_params_are_not_needed_without_weight_decay(self, rng, name):
        tx, tree = ENTRIES[name], mixed(rng)
        without, _ = jax.jit(tx.update)(tree, tx.init(tree))
        chex.assert_trees_all_equal(without, jax.jit(tx.update)(tree, tx.init(tree), tree)[0])

    def test_scan_and_multi_steps_and_none_leaves(self, rng, name):
        tx = optax.MultiSteps(ENTRIES[name], 2)
        params = {**mixed(rng), "frozen": None, "rest": optax.MaskedNode()}

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(params, state, params)
            return (optax.apply_updates(params, updates), state), updates["bias"]

        carry = (params, tx.init(params))
        (new, state), bias = jax.jit(lambda c: jax.lax.scan(step, c, length=4))(carry)
        chex.assert_trees_all_equal_structs(new, params)
        assert int(state.gradient_step) == 2
        np.testing.assert_array_equal(bias[0], 0)
        assert np.all(np.asarray(bias[1]) != 0)

    @pytest.mark.parametrize("tree", [{}, {"a": None}], ids=str)
    def test_empty_trees(self, name, tree):
        tx = ENTRIES[name]
        updates, _ = tx.update(tree, tx.init(tree), tree)
        assert updates == tree

    def test_inject_hyperparams(self, rng, name):
        static = ("num_iters", "tol", "axes", "momentum", "nesterov")
        if not name.startswith(("sinkgd", "swan")) or "_" in name:
            optimizers = OPTIMIZERS | WITH_MOMENTS
            make = optax.inject_hyperparams(lambda learning_rate: optimizers[name](learning_rate))
        else:
            names = [s for s in static if s != "num_iters" or name == "sinkgd"]
            names = [s for s in names if s != "tol" or name == "sinkgd"]
            make = optax.inject_hyperparams(OPTIMIZERS[name], static_args=names)
        tx, tree = make(learning_rate=optax.linear_schedule(1e-2, 0.0, 10)), mixed(rng)
        updates, state = jax.jit(tx.update)(tree, tx.init(tree), tree)
        want, _ = jax.jit(ENTRIES[name].update)(tree, ENTRIES[name].init(tree), tree)
        chex.assert_trees_all_close(updates, want, atol=1e-6)
        updates, state = jax.jit(tx.update)(tree, state, tree)
        assert float(state.hyperparams["learning_rate"]) == pytest.approx(9e-3)


def test_inject_hyperparams_without_static_arguments_traces_the_sweeps(rng):
    tree = mixed(rng)
    tx = optax.inject_hyperparams(mo.sinkgd)(learning_rate=1e-2, num_iters=3)
    updates, state = jax.jit(tx.update)(tree, tx.init(tree), tree)
    plain = mo.sinkgd(1e-2, num_iters=3)
    want, _ = jax.jit(plain.update)(tree, plain.init(tree), tree)
    chex.assert_trees_all_close(updates, want, atol=1e-6)
    state.hyperparams["num_iters"] = jnp.asarray(1)
    fewer, _ = jax.jit(tx.update)(tree, state, tree)
    assert np.max(np.abs(fewer["tall"]["kernel"] - want["tall"]["kernel"])) > 1e-6


def test_numpy_gradients_without_jit(rng):
    tree = {"kernel": rng.standard_normal((4, 3)), "bias": rng.standard_normal(3)}
    tx = mo.sinkgd()
    updates, _ = tx.update(tree, tx.init(tree), tree)
    want, _ = jax.jit(tx.update)(tree, tx.init(tree), tree)
    chex.assert_trees_all_close(updates, want, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 0, 5), (3, 4, 0)], ids=str)
def test_empty_stacks(shape):
    axes = mo.MatrixAxes(output=-1, input=-2)
    rows, columns = mo.normalize_rows(axes), mo.normalize_columns(axes)
    tree = jnp.zeros(shape)
    for tx in (
        mo.scale_by_sinkhorn(axes),
        mo.scale_by_sinkhorn(axes, tol=1e-3),
        mo.scale_by_swan(axes),
        mo.multi_normalize(rows, mo.normalize_spectral(axes), tol=1e-3),
        mo.multi_normalize(columns, mo.normalize(CenteredRows(), axes)),
    ):
        assert jax.jit(tx.update)(tree, tx.init(tree))[0].shape == shape
