"""Optimizers of whole models against literal float64 training."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import multinorm_optax as mo
from tests import reference

OPTIMIZERS = {
    "sinkgd": mo.sinkgd,
    "swan": mo.swan,
    "mngd": lambda learning_rate=0.02, **options: mo.mngd(
        learning_rate, (mo.RowNorm(), mo.ColumnNorm()), **options
    ),
    "auxiliary_adam": functools.partial(mo.auxiliary_adam, mo.scale_by_sinkhorn),
}
WARMUP = optax.linear_schedule(0.0, 0.1, 3)


def train(tx, params, gradients):
    """Parameters after each step."""
    state, step, trajectory = tx.init(params), jax.jit(tx.update), []
    for gradient in gradients:
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
        trajectory.append(params)
    return trajectory


@pytest.fixture
def params(rng):
    return {
        "dense": {"kernel": rng.standard_normal((4, 3)), "bias": rng.standard_normal(3)},
        "embed": {"embedding": rng.standard_normal((5, 4))},
    }


@pytest.fixture
def gradients(rng, params):
    return [jax.tree.map(lambda x: rng.standard_normal(x.shape), params) for _ in range(4)]


def constant(value):
    return lambda t: value


CASES = {
    "defaults": ({}, {"rate": constant(1e-3)}, {"rate": constant(0.02)}),
    "alpha": (
        {"learning_rate": 0.1, "alpha": 0.5, "num_iters": 2},
        {"rate": constant(0.05), "L": 2},
        {"rate": constant(0.1)},
    ),
    "schedule": (
        {"learning_rate": WARMUP},
        {"rate": lambda t: 0.05 * min(t - 1, 3) / 30},
        {"rate": lambda t: min(t - 1, 3) / 30},
    ),
    "momentum": (
        {"momentum": 0.9},
        {"rate": constant(1e-3), "momentum": 0.9},
        {"rate": constant(0.02)},
    ),
    "nesterov": (
        {"momentum": 0.9, "nesterov": True},
        {"rate": constant(1e-3), "momentum": 0.9, "nesterov": True},
        {"rate": constant(0.02)},
    ),
    "weight_decay": (
        {"weight_decay": 0.3},
        {"rate": constant(1e-3), "decay": 0.3},
        {"rate": constant(0.02)},
    ),
    "adam_group": (
        {
            "adam_learning_rate": 0.3,
            "adam_b1": 0.8,
            "adam_b2": 0.95,
            "adam_eps": 1e-3,
            "adam_weight_decay": 0.2,
            "weight_decay": 0.1,
        },
        {"rate": constant(1e-3), "decay": 0.1},
        {"rate": constant(0.3), "b1": 0.8, "b2": 0.95, "eps": 1e-3, "decay": 0.2},
    ),
    "adam_schedule": (
        {"learning_rate": 0.1, "adam_learning_rate": WARMUP},
        {"rate": constant(5e-3)},
        {"rate": lambda t: min(t - 1, 3) / 30},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_sinkgd_matches_reference(float64, params, gradients, case):
    options, matrix, adam = CASES[case]
    found = train(mo.sinkgd(**options), params, gradients)

    def sinkgd_step(W, G, state, t):
        new, state = reference.sinkgd_step(W.T, G.T, state, t, **matrix)
        return new.T, state

    adam_step = functools.partial(reference.adam_step, **adam)
    for (group, leaf), step in (
        (("dense", "kernel"), sinkgd_step),
        (("dense", "bias"), adam_step),
        (("embed", "embedding"), adam_step),
    ):
        want = reference.fit(step, params[group][leaf], [each[group][leaf] for each in gradients])
        got = [each[group][leaf] for each in found]
        # optax computes schedules in float32, whatever the dtype of the parameters.
        tolerance = 1e-7 if "schedule" in case else 1e-10
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance, err_msg=leaf)


@pytest.mark.parametrize("name", OPTIMIZERS)
class TestEveryOptimizer:
    def test_matrix_group_has_no_state(self, name, params):
        for rate in (0.1, WARMUP):
            state = OPTIMIZERS[name](rate).init({"kernel": params["dense"]["kernel"]})
            assert sum(leaf.size for leaf in jax.tree.leaves(state)) <= 3  # step counts
            assert all(leaf.shape == () for leaf in jax.tree.leaves(state))

    def test_defaults_are_the_papers(self, float64, name, params):
        tx = OPTIMIZERS[name]()
        updates, _ = jax.jit(lambda g: tx.update(g, tx.init(g)))(params)
        rms = reference.rms(np.asarray(updates["dense"]["kernel"]))
        assert rms == pytest.approx(0.02 * 0.05, rel=1e-6)
        np.testing.assert_allclose(np.abs(updates["dense"]["bias"]), 0.02, rtol=1e-6)

    def test_clip_acts_on_the_adam_group_alone(self, float64, name, params, gradients):
        clipped = train(OPTIMIZERS[name](adam_clip_norm=1e-7), params, gradients)
        plain = train(OPTIMIZERS[name](), params, gradients)
        huge = jax.tree.map(lambda x: x, gradients)
        for gradient in huge:
            gradient["dense"]["kernel"] = gradient["dense"]["kernel"] * 1e6
        unmoved = train(OPTIMIZERS[name](adam_clip_norm=1e-7), params, huge)
        for a, b, c in zip(clipped, plain, unmoved, strict=True):
            np.testing.assert_allclose(a["dense"]["kernel"], b["dense"]["kernel"], rtol=1e-9)
            np.testing.assert_allclose(a["dense"]["bias"], c["dense"]["bias"], rtol=1e-12)
            assert np.max(np.abs(a["dense"]["bias"] - b["dense"]["bias"])) > 1e-4

    @pytest.mark.parametrize("as_function", [False, True], ids=["tree", "callable"])
    def test_weight_decay_mask(self, float64, name, params, as_function):
        mask = jax.tree.map(lambda x: x.shape == (4, 3) or x.shape == (3,), params)
        params["other"] = {"kernel": params["dense"]["kernel"]}
        mask["other"] = {"kernel": False}

        def masked(tree):
            return jax.tree_util.tree_map_with_path(lambda path, x: path[0].key == "dense", tree)

        tx = OPTIMIZERS[name](
            1.0,
            alpha=1.0,
            weight_decay=0.3,
            weight_decay_mask=masked if as_function else mask,
            adam_weight_decay=0.2,
        )
        zero = jax.tree.map(jnp.zeros_like, params)
        updates, _ = jax.jit(lambda p: tx.update(zero, tx.init(p), p))(params)
        dense = params["dense"]
        np.testing.assert_allclose(updates["dense"]["kernel"], -0.3 * dense["kernel"])
        np.testing.assert_allclose(updates["dense"]["bias"], -0.2 * dense["bias"])
        np.testing.assert_array_equal(updates["other"]["kernel"], 0)
        np.testing.assert_array_equal(updates["embed"]["embedding"], 0)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    "mask",
    [
        lambda p: jax.tree.map(lambda x: x.size == max(y.size for y in jax.tree.leaves(p)), p),
        lambda p: {"dense": {name: x.ndim > 1 for name, x in p["dense"].items()}, "embed": False},
    ],
    ids=["relative", "by name"],
)
def test_a_function_for_the_mask_sees_all_parameters(params, name, mask):
    params = {"dense": params["dense"], "embed": params["embed"]}
    zero = jax.tree.map(jnp.zeros_like, params)

    def moved(tx):
        updates, _ = tx.update(zero, tx.init(params), params)
        return jax.tree.map(lambda u: bool(jnp.any(u != 0)), updates)

    expected = moved(optax.adamw(1.0, weight_decay=0.1, mask=mask))
    options = {"weight_decay": 0.1, "adam_weight_decay": 0.1, "weight_decay_mask": mask}
    assert moved(OPTIMIZERS[name](1.0, **options)) == expected
    assert len(set(jax.tree.leaves(expected))) == 2


def test_weight_decay_without_params_is_an_error(float64, params):
    tx = mo.sinkgd(weight_decay=0.1)
    with pytest.raises(ValueError, match="params"):
        tx.update(params, tx.init(params))


def test_momentum_is_the_only_state_of_a_matrix(params):
    state = mo.sinkgd(momentum=0.9).init({"kernel": params["dense"]["kernel"]})
    assert [leaf.shape for leaf in jax.tree.leaves(state) if leaf.shape] == [(4, 3)]


def test_schedule_advances_by_one_a_step(float64, params):
    rates = optax.piecewise_constant_schedule(1.0, {2: 0.1, 3: 0.1})
    tx = mo.sinkgd(rates, alpha=1.0)
    kernel = {"kernel": params["dense"]["kernel"]}
    state, seen = tx.init(kernel), []
    for _ in range(5):
        updates, state = tx.update(kernel, state)
        seen.append(reference.rms(np.asarray(updates["kernel"], float)))
    np.testing.assert_allclose(seen, [1, 1, 0.1, 0.01, 0.01], rtol=1e-5)


def test_accumulate_then_normalize(float64, rng, params):
    kernel = {"kernel": params["dense"]["kernel"]}
    micro = [{"kernel": rng.standard_normal((4, 3))} for _ in range(2)]
    tx = optax.MultiSteps(mo.sinkgd(1.0, alpha=1.0), every_k_schedule=2)
    state = tx.init(kernel)
    first, state = tx.update(micro[0], state, kernel)
    second, state = tx.update(micro[1], state, kernel)
    np.testing.assert_array_equal(first["kernel"], 0)
    mean = (micro[0]["kernel"] + micro[1]["kernel"]) / 2
    # The buffer of MultiSteps is float32.
    np.testing.assert_allclose(-second["kernel"], reference.sr_sinkhorn(mean.T, 5).T, atol=1e-6)
    assert reference.rms(np.asarray(second["kernel"])) == pytest.approx(1)


def test_mngd_runs_any_norms(float64, params):
    kernel = {"kernel": params["dense"]["kernel"]}
    for norms, project in (
        ((mo.MaxNorm(),), [reference.project_max]),
        ((mo.SpectralNorm(mo.exact_svd()),), [reference.project_spectral]),
        ((mo.ColumnNorm(), mo.RowNorm()), [reference.project_columns, reference.project_rows]),
    ):
        tx = mo.mngd(1.0, norms, alpha=1.0, num_iters=2)
        updates, _ = jax.jit(lambda g, tx=tx: tx.update(g, tx.init(g)))(kernel)
        want = reference.multi_norm(kernel["kernel"].T, project, 2).T
        np.testing.assert_allclose(updates["kernel"], -want, atol=1e-9)


@pytest.mark.parametrize("name", [*OPTIMIZERS, "ldadam"])
def test_axes_are_resolved_once_a_call(name, params):
    trees = []

    def axes(tree):
        trees.append(tree)
        return {"dense": {"kernel": mo.MatrixAxes(1, 0), "bias": None}, "embed": None}

    tx = mo.ldadam(axes=axes, rank=2) if name == "ldadam" else OPTIMIZERS[name](axes=axes)
    state = tx.init(params)
    jax.eval_shape(tx.update, params, state, params)
    assert len(trees) == 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Linear:
    """A model that is its own tree of parameters, and a function, as in equinox."""

    weight: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return self.weight @ x + self.bias


def test_parameters_that_can_be_called(rng):
    model = Linear(jnp.float32(rng.standard_normal((3, 4))), jnp.ones(3))
    tx = mo.sinkgd(axes=mo.EQUINOX_RULES, momentum=0.9, weight_decay=0.1)
    updates, _ = jax.jit(tx.update)(model, tx.init(model), model)
    assert isinstance(updates, Linear)
    zeros = optax.tree_map_params(tx, jnp.zeros_like, tx.init(model))
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(zeros))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("cautious_weight_decay", "False"),
        ("nesterov", 1),
        ("momentum_dtype", "flot"),
        ("adam_moment_dtype", 3),
        ("momentum_dtype", jnp.int32),
        ("tol", "a"),
        ("tol", True),
        ("tol", np.ones(3)),
        ("num_iters", True),
        ("num_iters", 2.5),
        ("learning_rate", True),
        ("learning_rate", np.ones(6)),
        ("learning_rate", jnp.ones(6)),
        ("learning_rate", np.asarray(1j)),
        ("adam_b2", [0.9]),
    ],
)
def test_a_wrong_type_names_its_argument(argument, value):
    with pytest.raises(TypeError, match=f"^{argument} must be .*, got "):
        mo.sinkgd(**{argument: value})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("learning_rate", float("nan")),
        ("weight_decay", float("inf")),
        ("alpha", np.float32("nan")),
        ("adam_b1", 1.0),
        ("adam_b2", 1.5),
        ("momentum", -0.1),
        ("adam_eps", -1e-8),
        ("adam_clip_norm", float("nan")),
        ("tol", -1.0),
        ("num_iters", 0),
    ],
)
def test_a_number_that_cannot_be_names_its_argument(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must be .*, got "):
        mo.sinkgd(**{argument: value})


@pytest.mark.parametrize(
    ("make", "argument", "value"),
    [
        (mo.ldadam, "b1", 1.0),
        (mo.ldadam, "rho", float("nan")),
        (functools.partial(mo.adam_mini, blocks=[]), "b2", 1.0),
        (functools.partial(mo.scale_by_token_sinkhorn, []), "threshold", -1.0),
    ],
)
def test_numbers_of_other_transformations_are_checked(make, argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must be .*, got {value}"):
        make(**{argument: value})


def test_complex_weights_keep_their_dtype_with_float64_enabled(float64):
    params = {"kernel": jnp.ones((4, 6), "complex64"), "bias": jnp.ones(6, "complex64")}
    tx = mo.sinkgd(np.float64(0.1), weight_decay=np.float64(0.1))
    updates, _ = tx.update(params, tx.init(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype("complex64")}


@pytest.mark.parametrize("parts", [[3, 3], 6, [(3,), (3,)], {"q": 3}])
def test_parts_of_another_form(parts):
    with pytest.raises(TypeError, match=r"^Fused has an integer axis and parts \[\(size, spec\)"):
        mo.Fused(-1, parts)


@pytest.mark.parametrize("optimizer", [mo.sinkgd(), mo.swan(), mo.ldadam(rank=2)])
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool])
def test_parameters_without_a_gradient_are_refused_in_both_groups(optimizer, dtype):
    params = {"dense": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3, dtype)}}
    with pytest.raises(TypeError, match=r"dense/bias \(3,\): .* has no gradient"):
        optimizer.init(params)
