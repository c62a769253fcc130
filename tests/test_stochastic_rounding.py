import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.stats import binom

import multinorm_optax as mo

FORMATS = ("bfloat16", "float16", "float8_e5m2", "float8_e4m3fn", "float8_e4m3", "float8_e3m4")
every_format = pytest.mark.parametrize("name", FORMATS)
apply = jax.jit(mo.apply_updates_stochastically)


def numbers(name):
    """Every finite number of a format but -0, in order; float64."""
    dtype = jnp.dtype(name)
    bits = np.arange(2 ** (8 * dtype.itemsize), dtype=f"uint{8 * dtype.itemsize}")
    with np.errstate(invalid="ignore"):  # NaN
        values = bits.view(dtype).astype(np.float64)
    return np.unique(values[np.isfinite(values)] + 0.0)


def around(values, name):
    """The neighbours of float32 values, each the other one if the value is itself a number."""
    grid, values = numbers(name), np.asarray(values, np.float64)
    return grid[np.searchsorted(grid, values, "right") - 1], grid[np.searchsorted(grid, values)]


def rounded(values, name, seed=0):
    """Float32 values, as sums with zero weights."""
    values = jnp.asarray(values, jnp.float32)
    new = apply(jnp.zeros(values.shape, name), values, jax.random.key(seed))
    assert new.dtype == name
    return np.asarray(new).astype(np.float64)


def spread_out(rng, name, count):
    """Values over the whole range of a format, beyond its smallest numbers too."""
    grid = numbers(name)
    exponents = rng.uniform(np.log2(grid[grid > 0][0]) - 4, np.log2(grid[-1]), count)
    values = np.float32(np.exp2(exponents) * rng.choice([-1, 1], count))
    return values[(np.abs(values) <= grid[-1]) & (np.abs(values) >= np.finfo(np.float32).tiny)]


@every_format
def test_no_dtype_is_promoted_silently(name):
    weights = jax.ShapeDtypeStruct((2, 3), jnp.dtype(name))
    with jax.numpy_dtype_promotion("strict"):
        new = jax.eval_shape(
            lambda w: mo.apply_updates_stochastically(w, w, jax.random.key(0)), weights
        )
    assert new == weights


@every_format
def test_the_result_is_one_of_the_two_neighbours(rng, name):
    values = spread_out(rng, name, 20_000)
    low, high = around(values, name)
    found = rounded(values, name)
    assert np.all((found == low) | (found == high))
    assert 0.2 < np.mean((found == high)[low < high]) < 0.8


@every_format
@given(data=st.data())
def test_the_mean_is_the_value(name, data):
    largest = float(jnp.finfo(name).max)
    value = data.draw(
        st.floats(-largest, largest, width=32, allow_subnormal=False)
        | st.floats(-2.0, 2.0, width=32, allow_subnormal=False)
    )
    (low,), (high,) = around([value], name)
    count = 1 << 14
    found = rounded(np.full(count, value), name, data.draw(st.integers(0, 2**32 - 1)))
    chance = 0.0 if low == high else (value - low) / (high - low)
    ups = np.sum(found == high) if low < high else 0
    five_sigma = 2.9e-7
    assert binom.cdf(ups, count, chance) > five_sigma
    assert binom.sf(ups - 1, count, chance) > five_sigma


@every_format
def test_every_number_of_the_format_stays_when_nothing_is_added(name):
    dtype = jnp.dtype(name)
    bits = np.arange(2 ** (8 * dtype.itemsize), dtype=f"uint{8 * dtype.itemsize}")
    weights = jnp.asarray(bits.view(dtype))
    update = jnp.full(weights.shape, -0.0, jnp.float32)  # x + -0.0 is x, for x = -0.0 too
    new = apply(weights, update, jax.random.key(0))
    old_numbers, new_numbers = (np.asarray(x).astype(np.float32) for x in (weights, new))
    tiny = np.abs(old_numbers) < np.finfo(np.float32).tiny
    normal = np.isfinite(old_numbers) & ~tiny
    old_bits, new_bits = bits, np.asarray(new).view(bits.dtype)
    np.testing.assert_array_equal(new_bits[normal], old_bits[normal])
    # NaN may change its payload, and XLA may take what float32 has no normal number for as zero
    np.testing.assert_array_equal(new_numbers[~tiny], old_numbers[~tiny])
    assert np.all((new_bits == old_bits)[tiny] | (new_numbers[tiny] == 0))
    assert np.all(np.signbit(new_numbers[tiny]) == np.signbit(old_numbers[tiny]))


def test_sums_that_are_representable_are_exact():
    weights = jnp.asarray([1.0, -1.0, 3.0, 256.0, -0.5, 1.0], jnp.bfloat16)
    update = jnp.asarray([2**-7, -(2**-7), -3.0, 2.0, 2**-9, 2**-8], jnp.float32)
    exact = np.asarray(weights, np.float64) + np.asarray(update, np.float64)
    found = np.stack([apply(weights, update, jax.random.key(seed)) for seed in range(40)])
    assert np.all(found[:, :-1] == exact[:-1])
    assert set(found[:, -1].tolist()) == {1.0, 1.0078125}  # this one lies between


def test_beyond_the_largest_number_as_a_cast():
    largest = float(jnp.finfo(jnp.bfloat16).max)
    half = 2.0**119  # of the distance to the next number, if there were one
    values = np.float32([largest, largest + 0.9 * half, largest + half, np.inf, -np.inf, np.nan])
    for seed in range(5):
        found = rounded(values, "bfloat16", seed)
        np.testing.assert_array_equal(found, [largest, largest, np.inf, np.inf, -np.inf, np.nan])
    inside = np.full(1000, np.nextafter(np.float32(largest), np.float32(0)))
    assert np.all(np.isin(rounded(inside, "bfloat16"), around(inside[:1], "bfloat16")))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(rounded([1e5, -65519.0], "float16"), [np.inf, -65504.0])


def test_small_updates_arrive_that_rounding_to_nearest_loses():
    count, update, spacing = 20_000, np.float32(1e-3), 2.0**-7
    start = jnp.ones(count, jnp.bfloat16)
    updates = jnp.full(count, update)

    @jax.jit
    def walk(weights, steps):
        def step(i, weights):
            key = jax.random.fold_in(jax.random.key(0), i)
            return mo.apply_updates_stochastically(weights, updates, key)

        return jax.lax.fori_loop(0, steps, step, weights)

    stuck = jax.jit(
        lambda w: jax.lax.fori_loop(0, 10, lambda _, w: optax.apply_updates(w, updates), w)
    )
    np.testing.assert_array_equal(stuck(start), start)
    for steps in (500, 1000):
        found = np.asarray(walk(start, steps)).astype(np.float64)
        deviation = found.std()
        assert abs(found.mean() - (1 + steps * update)) < 5 * deviation / np.sqrt(count)
        of_a_walk = np.sqrt(steps * update * (spacing - update))  # of numbers below 2
        if steps == 500:
            assert deviation == pytest.approx(of_a_walk, rel=5 / np.sqrt(2 * count))
        else:
            assert of_a_walk < deviation < 1.5 * of_a_walk


def test_leaves_and_steps_are_independent_and_reproducible():
    count = 40_000
    half_way = jnp.full(count, 2.0**-8)
    params = {"a": jnp.ones(count, jnp.bfloat16), "b": jnp.ones(count, jnp.bfloat16)}
    updates = {"a": half_way, "b": half_way}
    key = jax.random.key(7)
    runs = [apply(params, updates, jax.random.fold_in(key, step)) for step in range(3)]
    draws = [np.asarray(new[name]) > 1 for new in runs for name in params]
    for i, one in enumerate(draws):
        assert abs(one.mean() - 0.5) < 5 * 0.5 / np.sqrt(count)
        for other in draws[:i]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(count)
        neighbours = np.corrcoef(one[1:], one[:-1])[0, 1]
        assert abs(neighbours) < 5 / np.sqrt(count)
    chex.assert_trees_all_equal(apply(params, updates, jax.random.fold_in(key, 2)), runs[2])


@pytest.mark.parametrize("update_dtype", ["bfloat16", "float16", "float32"])
@every_format
def test_updates_of_any_dtype(rng, name, update_dtype):
    weights = jnp.asarray(rng.standard_normal(1000), name)
    update = jnp.asarray(1e-2 * rng.standard_normal(1000), update_dtype)
    found = apply(weights, update, jax.random.key(0))
    assert found.dtype == name
    low, high = around(np.float32(weights) + np.float32(update), name)
    assert np.all(np.isin(np.asarray(found).astype(np.float64), np.r_[low, high]))


def test_everything_else_is_added_as_optax_does(rng):
    params = {
        "wide": jnp.asarray(rng.standard_normal(5), jnp.float32),
        "whole": jnp.arange(3),
        "frozen": None,
        "rest": optax.MaskedNode(),
        "number": 1.5,
        "numpy": rng.standard_normal(3).astype(np.float32),
        "complex": jnp.ones(2, jnp.complex64),
    }
    updates = {
        **params,
        "wide": jnp.full(5, 1e-3, jnp.bfloat16),
    }
    for run in (mo.apply_updates_stochastically, apply):
        new = run(params, updates, jax.random.key(0))
        chex.assert_trees_all_equal_structs(new, params)
        chex.assert_trees_all_close(new, optax.apply_updates(params, updates))
        assert new["wide"].dtype == jnp.float32
    half = {
        **params,
        "half": jnp.ones((3, 2), jnp.bfloat16),
        "empty": jnp.ones((0, 2), jnp.float16),
    }
    moved = apply(
        half, {**updates, "half": half["half"], "empty": half["empty"]}, jax.random.key(0)
    )
    np.testing.assert_array_equal(moved["half"], 2.0)
    assert moved["empty"].shape == (0, 2)


def test_float64_is_added_in_float64(float64):
    weights, update = jnp.ones(3, jnp.float64), jnp.full(3, 1e-12, jnp.float64)
    new = mo.apply_updates_stochastically({"w": weights}, {"w": update}, jax.random.key(0))
    chex.assert_trees_all_equal(new, {"w": weights + update})


def test_a_format_that_is_not_supported_is_named():
    params = {"layers": {"kernel": jnp.ones((2, 3), jnp.float8_e4m3fnuz)}}
    message = r"layers/kernel \(2, 3\): stochastic rounding to float8_e4m3fnuz is not supported"
    with pytest.raises(TypeError, match=message):
        mo.apply_updates_stochastically(params, params, jax.random.key(0))


@pytest.mark.parametrize("key", [jax.random.PRNGKey(3), jax.random.key(3, impl="rbg")], ids=str)
def test_with_and_without_jit_and_for_other_keys(rng, key):
    tree = {"w": jnp.asarray(rng.standard_normal((16, 8)), jnp.bfloat16)}
    updates = {"w": jnp.asarray(1e-3 * rng.standard_normal((16, 8)), jnp.float32)}
    chex.assert_trees_all_equal(
        mo.apply_updates_stochastically(tree, updates, key), apply(tree, updates, key)
    )


def test_bits_of_rbg_keys_take_no_memory():
    weights = jnp.ones((256, 256), jnp.bfloat16)
    lowered = jax.jit(mo.apply_updates_stochastically, donate_argnums=0).lower(
        weights, weights, jax.random.key(0, impl="rbg")
    )
    assert lowered.compile().memory_analysis().temp_size_in_bytes < weights.size / 10


def test_vmap_is_a_loop(rng):
    weights = jnp.asarray(rng.standard_normal((3, 16, 8)), jnp.bfloat16)
    updates = jnp.asarray(1e-3 * rng.standard_normal((3, 16, 8)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 3)
    mapped = jax.jit(jax.vmap(mo.apply_updates_stochastically))(weights, updates, keys)
    np.testing.assert_array_equal(
        mapped, [apply(*each) for each in zip(weights, updates, keys, strict=True)]
    )


@pytest.mark.devices(8)
@pytest.mark.parametrize("mode", [AxisType.Auto, AxisType.Explicit], ids=lambda mode: mode.name)
@pytest.mark.parametrize("spec", [P("fsdp", "tp"), P(None, "fsdp"), P()], ids=str)
def test_sharded_weights_are_rounded_as_whole_ones(rng, mode, spec):
    mesh = jax.make_mesh((4, 2), ("fsdp", "tp"), axis_types=(mode, mode))
    weights = jnp.asarray(rng.standard_normal((64, 32)), jnp.bfloat16)
    updates = jnp.asarray(1e-3 * rng.standard_normal((64, 32)), jnp.float32)
    key = jax.random.key(0)
    with jax.set_mesh(mesh):
        sharding = NamedSharding(mesh, spec)
        sharded = jax.device_put((weights, updates), sharding)
        step = jax.jit(mo.apply_updates_stochastically).lower(*sharded, key).compile()
        result = step(*sharded, key)
    assert result.sharding.is_equivalent_to(sharding, 2)
    hlo = step.as_text()
    for collective in ("all-gather", "all-to-all", "all-reduce", "collective-permute"):
        assert collective not in hlo
    if spec:
        assert "u32[64,32]" not in hlo  # each device draws its own part
    np.testing.assert_array_equal(result, apply(weights, updates, key))


def test_training_goes_on_where_rounding_to_nearest_stalls(rng):
    inputs = jnp.asarray(rng.standard_normal((256, 32)), jnp.float32)
    target = jnp.asarray(rng.standard_normal((32, 16)), jnp.float32)
    tx = mo.sinkgd(optax.linear_schedule(0.04, 0.0, 1000))  # steps of at most 2e-3 for each weight
    start = {"kernel": jnp.asarray(target + rng.choice([-1, 1], target.shape), jnp.bfloat16)}

    def loss(params):
        return jnp.mean((inputs @ (params["kernel"].astype(jnp.float32) - target)) ** 2)

    def train(apply_updates):
        def step(carry, key):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (apply_updates(params, updates, key), state), None

        keys = jax.random.split(jax.random.key(0), 1000)
        (params, _), _ = jax.lax.scan(step, (start, tx.init(start)), keys)
        return loss(params)

    nearest = jax.jit(lambda: train(lambda p, u, _: optax.apply_updates(p, u)))()
    stochastic = jax.jit(lambda: train(mo.apply_updates_stochastically))()
    assert nearest > loss(start) / 2  # the larger weights stand still
    assert stochastic < loss(start) / 100
