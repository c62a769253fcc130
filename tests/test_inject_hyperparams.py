"""Plain and under `optax.inject_hyperparams`, as optax's own contract test has it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import multinorm_optax as mo


def by_rank(tree):
    """Axes of leaves without names, told by their shapes: a kernel, and one per index in front."""
    return jax.tree.map(lambda _: mo.MatrixAxes(output=-1, input=-2), tree)


def blocks_by_rank(tree):
    return jax.tree.map(lambda _: mo.Blocks(whole=-2), tree)


MAKERS = {
    "sinkgd": (mo.sinkgd, {"learning_rate": 0.1, "axes": by_rank}, ()),
    "sinkgd_momentum": (
        mo.sinkgd,
        {"learning_rate": 0.1, "axes": by_rank, "momentum": 0.9, "weight_decay": 0.1},
        (),
    ),
    "swan": (mo.swan, {"learning_rate": 0.1, "axes": by_rank, "centered": True}, ()),
    "adam_mini": (mo.adam_mini, {"learning_rate": 0.1, "blocks": blocks_by_rank}, ()),
    "ldadam": (mo.ldadam, {"learning_rate": 0.1, "axes": by_rank, "rank": 2}, ("rank",)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_updates_and_inner_state_are_those_of_the_plain_optimizer(name):
    make, options, static = MAKERS[name]
    functions = [key for key, value in options.items() if callable(value)]
    injected = optax.inject_hyperparams(make, static_args=(*functions, *static))(**options)
    plain = make(**options)
    params, gradients = (
        [-jnp.ones((2, 3)), jnp.ones((2, 5, 2))],
        [jnp.ones((2, 3)), -jnp.ones((2, 5, 2))],
    )
    state, injected_state = plain.init(params), injected.init(params)
    chex.assert_trees_all_equal_structs(state, injected_state.inner_state)
    for _ in range(3):
        updates, state = jax.jit(plain.update)(gradients, state, params)
        found, injected_state = jax.jit(injected.update)(gradients, injected_state, params)
        chex.assert_trees_all_close(found, updates, rtol=1e-4, atol=1e-6)
        chex.assert_trees_all_close(injected_state.inner_state, state, rtol=1e-4, atol=1e-6)
        params = optax.apply_updates(params, updates)


@pytest.mark.parametrize(
    "make",
    [
        lambda: mo.sinkgd(momentum=0.9, nesterov=jnp.asarray(True)),
        lambda: mo.swan(centered=jnp.asarray(True)),
        lambda: mo.sinkgd(cautious_weight_decay=jnp.asarray(True)),
        lambda: mo.adam_mini(blocks=mo.Blocks(), cautious_weight_decay=jnp.asarray(True)),
        lambda: mo.ldadam(error_feedback=jnp.asarray(False)),
        lambda: mo.ldadam(rank=jnp.asarray(2)),
    ],
)
def test_what_decides_on_the_program_is_static(make):
    with pytest.raises(TypeError, match=r"must not be an array.*static_args"):
        make()


SCHEDULE = optax.linear_schedule(0.1, 0.0, 10)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: mo.sinkgd(momentum=SCHEDULE), "momentum"),
        (lambda: mo.sinkgd(adam_b1=SCHEDULE), "adam_b1"),
        (lambda: mo.sinkgd(adam_b2=SCHEDULE), "adam_b2"),
        (lambda: mo.sinkgd(adam_clip_norm=SCHEDULE), "adam_clip_norm"),
        (lambda: mo.ldadam(rho=SCHEDULE), "rho"),
        (lambda: mo.adam_mini(blocks=mo.Blocks(), eps=SCHEDULE), "eps"),
    ],
)
def test_a_schedule_where_none_is_taken_is_an_error(make, name):
    with pytest.raises(TypeError, match=f"{name} takes no schedule"):
        make()


def test_alpha_and_weight_decay_may_be_schedules():
    kernel = {"kernel": jnp.eye(3)}
    half = optax.piecewise_constant_schedule(1.0, {1: 0.5})
    tx = mo.sinkgd(0.1, alpha=half, weight_decay=half)
    state, sizes = tx.init(kernel), []
    for _ in range(2):
        updates, state = jax.jit(tx.update)(kernel, state, kernel)
        sizes.append(float(updates["kernel"][0, 0]))
    unit = np.sqrt(3)
    np.testing.assert_allclose(sizes, [-0.1 * (unit + 1), -0.05 * (unit + 0.5)], rtol=1e-5)


@pytest.mark.parametrize("maker", ["sinkgd", "swan", "ldadam"])
def test_every_number_of_adam_is_scheduled_by_its_name(maker):
    make, options, static = MAKERS[maker]
    static = ("axes", *static)
    rates = optax.piecewise_constant_schedule(0.5, {1: 0.1})
    decays = optax.piecewise_constant_schedule(0.25, {2: 2.0})
    tx = optax.inject_hyperparams(make, static)(
        **{**options, "axes": lambda tree: None},
        adam_learning_rate=rates,
        adam_b1=decays,
        adam_b2=decays,
        adam_eps=rates,
        adam_weight_decay=decays,
        adam_clip_norm=rates,
    )
    bias = {"bias": jnp.asarray([0.5, -0.25])}
    state, moments = tx.init(bias), optax.scale_by_adam(0.25, 0.25).init(bias)
    for step in range(3):
        rate, decay = float(rates(step)), float(decays(step))
        updates, state = jax.jit(tx.update)(bias, state, bias)
        clipped, _ = optax.clip_by_global_norm(rate).update(bias, optax.EmptyState())
        wanted, moments = optax.scale_by_adam(decay, decay, rate).update(clipped, moments)
        wanted = -rate * (wanted["bias"] + decay * bias["bias"])
        np.testing.assert_allclose(updates["bias"], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: mo.sinkgd(None), "learning_rate"),
        (lambda: mo.swan(alpha=None), "alpha"),
        (lambda: mo.sinkgd(weight_decay="0.1"), "weight_decay"),
        (lambda: mo.sinkgd(adam_learning_rate=optax.adam(1e-3)), "adam_learning_rate"),
        (lambda: mo.ldadam(adam_weight_decay=None), "adam_weight_decay"),
        (lambda: mo.adam_mini(optax.adam(0.1), blocks=mo.Blocks()), "learning_rate"),
        (lambda: mo.sinkgd(momentum="0.9"), "momentum"),
        (lambda: mo.sinkgd(adam_b2=None), "adam_b2"),
        (lambda: mo.ldadam(b1=None), "b1"),
    ],
)
def test_a_wrong_argument_names_itself(make, name):
    with pytest.raises(TypeError, match=f"^{name} must be a number"):
        make()


def test_dtypes_are_static():
    for make, name in ((mo.sinkgd, "momentum_dtype"), (mo.ldadam, "adam_moment_dtype")):
        injected = optax.inject_hyperparams(make, hyperparam_dtype=jnp.float32)
        with pytest.raises(TypeError, match=f"^{name} must not be an array.*static_args"):
            injected(**{name: jnp.bfloat16}).init(BFLOAT16)


def test_wrong_kinds_of_arguments():
    with pytest.raises(TypeError, match=r"^sinkgd\(\) got an unexpected keyword argument 'adam'"):
        mo.sinkgd(adam=optax.adam(1e-3))
    with pytest.raises(
        TypeError, match=r"^swan\(\) got an unexpected keyword argument 'direction'"
    ):
        mo.swan(direction=1)
    with pytest.raises(TypeError, match=r"^mngd\(\) got an unexpected keyword argument 'momentun'"):
        mo.mngd(0.1, (mo.RowNorm(),), momentun=0.9)
    for norms in (mo.RowNorm(), iter([mo.RowNorm()])):
        with pytest.raises(TypeError, match=r"norms must be a sequence of norms, .* got"):
            mo.mngd(0.1, norms)
    with pytest.raises(TypeError, match=r"RowNorm.* is not a norm or projection"):
        mo.mngd(0.1, (mo.RowNorm,))
    with pytest.raises(TypeError, match="direction is a function from axes"):
        mo.auxiliary_adam(mo.scale_by_swan())


BFLOAT16 = {"kernel": jnp.asarray([[1.0, -2.0], [0.5, 3.0]], jnp.bfloat16)}


@pytest.mark.parametrize("name", ["ldadam", "adam_mini"])
def test_decays_are_kept_in_float32_for_bfloat16_weights(name):
    make, options, static = MAKERS[name]
    functions = [key for key, value in options.items() if callable(value)]
    static = (*functions, *static)
    with pytest.raises(TypeError, match=r"b1 is a number in bfloat16.*hyperparam_dtype"):
        optax.inject_hyperparams(make, static)(**options).init(BFLOAT16)
    wide = optax.inject_hyperparams(make, static, hyperparam_dtype=jnp.float32)(**options)
    plain = make(**options)
    state, wanted = wide.init(BFLOAT16), plain.init(BFLOAT16)
    for _ in range(3):
        found, state = jax.jit(wide.update)(BFLOAT16, state, BFLOAT16)
        updates, wanted = jax.jit(plain.update)(BFLOAT16, wanted, BFLOAT16)
        chex.assert_trees_all_close(found, updates, rtol=1e-2)
