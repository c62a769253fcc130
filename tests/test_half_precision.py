"""What half precision must not lose: moments, weight decay, and zeros."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import multinorm_optax as mo
from tests.catalogue import OPTIMIZERS, WITH_MOMENTS

NAMES = ["sinkgd", "sinkgd_momentum", "swan", "mngd_spectral", "ldadam", "adam_mini"]
KERNEL = (64, 96)


def optimizer(name, rate, **options):
    if name not in WITH_MOMENTS:
        return OPTIMIZERS[name](rate, alpha=1.0, **options)
    return WITH_MOMENTS[name](rate, **options)


@functools.partial(jax.jit, static_argnums=0)
def run(tx, params, gradients):
    """The updates of each step, the parameters staying as they are."""

    def step(state, gradient):
        updates, state = tx.update(gradient, state, params)
        return state, updates

    return jax.lax.scan(step, tx.init(params), gradients)[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
def test_weight_decay_survives(rng, name, dtype):
    w = {"kernel": jnp.asarray(0.02 * rng.standard_normal(KERNEL), dtype)}
    gradients = {"kernel": jnp.asarray(rng.standard_normal((8, *KERNEL)), dtype)}
    plain, decayed = (
        run(optimizer(name, 1e-3, weight_decay=decay), w, gradients)["kernel"]
        for decay in (0.0, 0.01)
    )
    assert plain.dtype == decayed.dtype == dtype
    w = np.asarray(w["kernel"], float)
    change = np.asarray(decayed, float) - np.asarray(plain, float)
    kept = np.mean(np.sum(change * w, axis=(1, 2))) / (-1e-3 * 0.01 * np.sum(w * w))
    assert kept == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", ["sinkgd", "swan", "ldadam", "adam_mini"])
@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn], ids=lambda d: d.__name__
)
def test_one_rounding_of_what_float32_gives(rng, name, dtype):
    tree = {
        "dense": {"kernel": jnp.asarray(rng.standard_normal((6, 4)), dtype)},
        "norm": {"scale": jnp.asarray(rng.standard_normal(4), dtype)},
    }
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    options = {} if name == "adam_mini" else {"adam_b1": 0.8, "adam_weight_decay": 0.2}
    tx = optimizer(name, 0.1, weight_decay=0.1, **options)
    found, want = (jax.jit(lambda g: tx.update(g, tx.init(g), g)[0])(g) for g in (tree, wide))
    for one, other in zip(*map(jax.tree.leaves, (found, want)), strict=True):
        assert one.dtype == dtype
        unit = float(jnp.finfo(dtype).eps)
        least = max(unit * 1e-4, float(jnp.finfo(dtype).smallest_subnormal))
        np.testing.assert_allclose(np.float32(one), other, rtol=unit, atol=least)


class TestAdam:
    @pytest.mark.parametrize(
        ("moment_dtype", "stored"),
        [(None, jnp.float32), (jnp.float32, jnp.float32), (jnp.bfloat16, jnp.bfloat16)],
        ids=str,
    )
    def test_dtype_of_moments(self, moment_dtype, stored):
        params = {"bias": jnp.ones(3, jnp.bfloat16)}
        tx = mo.sinkgd(adam_moment_dtype=moment_dtype)
        state = tx.init(params)
        _, new = jax.jit(tx.update)(params, state)
        for each in (state, new):
            moments = [leaf for leaf in jax.tree.leaves(each) if leaf.shape]
            assert [leaf.dtype for leaf in moments] == [stored, stored]

    def test_float64_and_complex_moments_stay(self, float64):
        for dtype in (jnp.float64, jnp.complex64):
            state = mo.sinkgd().init({"bias": jnp.ones(3, dtype)})
            assert {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.shape} <= {
                jnp.dtype(dtype),
                jnp.dtype(jnp.float32),
            }

    def test_second_moment_falls(self):
        head = {"head": {"kernel": jnp.zeros((1, 1), jnp.bfloat16)}}
        gradients = jnp.concatenate([jnp.ones(1000), jnp.full(10_000, 0.1)]).astype(jnp.bfloat16)
        updates = run(mo.sinkgd(1e-3), head, {"head": {"kernel": gradients[:, None, None]}})
        assert float(updates["head"]["kernel"][-1, 0, 0]) == pytest.approx(-1e-3, rel=0.01)

    def test_moments_of_the_papers_are_rounded_after_use(self):
        gradient = {"bias": jnp.asarray([1e-3, 1.0, 3.0], jnp.bfloat16)}
        tx = mo.sinkgd(0.02, adam_moment_dtype=jnp.bfloat16)
        updates, _ = jax.jit(tx.update)(gradient, tx.init(gradient))
        np.testing.assert_array_equal(updates["bias"], jnp.full(3, -0.02, jnp.bfloat16))

    def test_rows_without_a_gradient_do_not_move_in_float16(self):
        table = jnp.zeros((5, 4), jnp.float16).at[2].set(0.5)
        tx = mo.sinkgd()
        updates, _ = jax.jit(tx.update)({"embedding": table}, tx.init({"embedding": table}))
        np.testing.assert_array_equal(updates["embedding"][np.arange(5) != 2], 0)
        np.testing.assert_allclose(updates["embedding"][2], -0.02, rtol=1e-3)


@pytest.mark.parametrize(
    ("momentum_dtype", "stored"), [(None, jnp.float32), (jnp.bfloat16, jnp.bfloat16)], ids=str
)
def test_dtype_of_momentum(rng, momentum_dtype, stored):
    params = {"kernel": jnp.asarray(rng.standard_normal((6, 4)), jnp.bfloat16)}
    tx = mo.sinkgd(momentum=0.9, momentum_dtype=momentum_dtype)
    state = tx.init(params)
    _, new = jax.jit(tx.update)(params, state)
    for each in (state, new):
        assert [leaf.dtype for leaf in jax.tree.leaves(each) if leaf.shape] == [stored]


def test_gradients_decide_on_the_dtype_of_updates():
    params = {"kernel": jnp.ones((6, 4)), "bias": jnp.ones(4, jnp.bfloat16)}
    gradients = {"kernel": jnp.ones((6, 4), jnp.bfloat16), "bias": jnp.ones(4)}
    tx = mo.sinkgd(weight_decay=0.1)
    updates, _ = jax.jit(tx.update)(gradients, tx.init(params), params)
    assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(lambda x: x.dtype, gradients)


@pytest.mark.parametrize("name", ["sinkgd", "adam_mini"])
def test_inside_wrappers_that_need_the_dtype_of_gradients(rng, name):
    params = {"kernel": jnp.asarray(rng.standard_normal((6, 4)), jnp.bfloat16)}
    inner = optimizer(name, 0.1, weight_decay=0.1)
    tx = optax.apply_if_finite(optax.MultiSteps(inner, 2).gradient_transformation(), 3)
    state = tx.init(params)
    for _ in range(2):
        updates, state = jax.jit(tx.update)(params, state, params)
    assert updates["kernel"].dtype == jnp.bfloat16
