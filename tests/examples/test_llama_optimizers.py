import dataclasses
import functools
import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import multinorm_optax as mo
from examples.llama import optimizers
from examples.llama.config import (
    InputError,
    ModelConfig,
    OptimizerConfig,
    OptimizerName,
    PresetName,
    Setup,
)
from examples.llama.model import LLAMA_RULES, abstract_llama, init_llama
from examples.llama.optimizers import BASE_OPTIMIZERS, MATRIX, OPTIMIZERS, REST, Context
from examples.llama.per_layer import per_layer
from examples.llama.presets import PRESETS, resolve
from examples.llama.schedule import make_optimizer, peak_rates, schedule, scheduled_rates
from tests.examples.trajectories import BATCHES, COMBINED, experiment_of, trajectory


def _named(name: OptimizerName, **options: Any) -> OptimizerConfig:
    """With a subspace that the tiny model has room for, where there is one."""
    ranked = {"rank": 4} if "rank" in OPTIMIZERS[name].defaults else {}
    return OptimizerConfig(name, **{**ranked, **options})


@functools.cache
def _compiled_update(config: OptimizerConfig, model: ModelConfig) -> Any:
    """The second update as a function of the rates, the gradients and the parameters."""

    @jax.jit
    def second_update(peaks: dict[str, Any], gradients: Any, params: Any) -> Any:
        rated = dataclasses.replace(config, **peaks)
        optimizer = make_optimizer(rated, Setup(model=model, steps=2))
        start = (gradients, optimizer.init(params))
        return jax.lax.fori_loop(
            0, 2, lambda _, last: optimizer.update(gradients, last[1], params), start
        )[0]

    return second_update


def _second_update(config: OptimizerConfig, model: ModelConfig) -> dict:
    """The update at the peak rate: two steps are scheduled, the first at rate 0."""
    params = init_llama(model, seed=0)
    generator = np.random.default_rng(0)
    gradients = jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape, np.float32), params)
    config = resolve(config)
    peaks = peak_rates(config)
    unrated = dataclasses.replace(config, **dict.fromkeys(peaks))  # type: ignore[arg-type]
    return _compiled_update(unrated, model)(peaks, gradients, params)


def _rms(update: jax.Array) -> float:
    return float(jnp.sqrt(jnp.mean(jnp.square(update))))


@pytest.mark.parametrize(
    "config",
    [
        OptimizerConfig("sinkgd", 3e-3, 5e-2),
        OptimizerConfig("swan", 3e-3, 5e-2),
        # optax's Muon lets Adam look ahead too, which lengthens its first steps
        OptimizerConfig("muon", 3e-3, 5e-2, nesterov=False),
        OptimizerConfig("adamw2", 3e-3, 5e-2),
        OptimizerConfig("lion", 3e-3, 5e-2),
    ],
    ids=lambda config: config.name,
)
def test_matrices_and_rest_move_at_their_own_rates(
    config: OptimizerConfig, tiny_model: ModelConfig
) -> None:
    updates = _second_update(config, tiny_model)
    assert _rms(updates["layers"]["mlp"]["up"]["kernel"]) == pytest.approx(3e-3, rel=0.15)
    for rest in (updates["embed"]["embedding"], updates["layers"]["mlp_norm"]["scale"]):
        assert _rms(rest) == pytest.approx(5e-2, rel=1e-3)


def test_galore_steps_in_a_subspace_of_the_longer_side(tiny_model: ModelConfig) -> None:
    updates = _second_update(OptimizerConfig("galore", 3e-3, 5e-2, rank=16), tiny_model)
    for name, share in (("gate", 16 / 24), ("down", 16 / 24)):
        step = _rms(updates["layers"]["mlp"][name]["kernel"])
        assert step == pytest.approx(3e-3 * math.sqrt(share), rel=0.01)
    query = updates["layers"]["attention"]["query"]["kernel"]
    assert _rms(query) == pytest.approx(3e-3, rel=0.01)
    assert _rms(updates["embed"]["embedding"]) == pytest.approx(5e-2, rel=1e-3)


def test_adamw_has_one_rate(tiny_model: ModelConfig) -> None:
    updates = _second_update(OptimizerConfig("adamw", learning_rate=3e-3), tiny_model)
    assert all(_rms(leaf) == pytest.approx(3e-3, rel=1e-3) for leaf in jax.tree.leaves(updates))


@pytest.mark.parametrize("name", ["adam-mini", "ldadam"])
def test_each_group_follows_its_own_rate(name: OptimizerName, tiny_model: ModelConfig) -> None:
    base, faster, faster_rest = (
        _second_update(_named(name, learning_rate=matrices, rest_learning_rate=rest), tiny_model)
        for matrices, rest in ((1e-3, 1e-2), (2e-3, 1e-2), (1e-3, 2e-2))
    )
    is_matrix = mo.group_labels(LLAMA_RULES)(base)
    for label, one, two, three in zip(
        *map(jax.tree.leaves, (is_matrix, base, faster, faster_rest)), strict=True
    ):
        factors = (2, 1) if label == "matrix" else (1, 2)
        np.testing.assert_allclose(two, factors[0] * one, rtol=1e-5)
        np.testing.assert_allclose(three, factors[1] * one, rtol=1e-5)


def test_rate_of_adalomo_is_relative_to_the_weights(tiny_model: ModelConfig) -> None:
    params = init_llama(tiny_model, seed=0)
    updates = _second_update(OptimizerConfig("adalomo", 0.1, 0.5), tiny_model)
    for rate, path in ((0.1, ("layers", "mlp", "up", "kernel")), (0.5, ("embed", "embedding"))):
        weight, update = functools.reduce(
            lambda t, key: (t[0][key], t[1][key]), path, (params, updates)
        )
        assert _rms(update) == pytest.approx(rate * _rms(weight), rel=0.05)


@pytest.mark.parametrize(
    "name", ["sinkgd", "swan", "muon", "adamw", "adamw2", "adam-mini", "ldadam", "galore", "lion"]
)
def test_weight_decay_shrinks_the_matrices_alone(
    name: OptimizerName, tiny_model: ModelConfig
) -> None:
    params = init_llama(tiny_model, seed=0)
    rate = OPTIMIZERS[name].defaults["learning_rate"]
    plain = _second_update(_named(name, weight_decay=0.0), tiny_model)
    decayed = _second_update(_named(name, weight_decay=0.5), tiny_model)
    difference = jax.tree.map(jnp.subtract, decayed, plain)
    np.testing.assert_allclose(
        difference["layers"]["mlp"]["up"]["kernel"],
        -0.5 * rate * params["layers"]["mlp"]["up"]["kernel"],
        atol=1e-8,
    )
    assert jnp.abs(difference["embed"]["embedding"]).max() == 0


def test_stateless_tables_give_every_token_a_step_of_one_size(tiny_model: ModelConfig) -> None:
    config = OptimizerConfig("sinkgd", 3e-3, 5e-2, rest="sinkhorn")
    updates = _second_update(config, tiny_model)
    tokens = np.concatenate([updates["embed"]["embedding"], updates["head"]["kernel"].T])
    np.testing.assert_allclose(np.sqrt(np.square(tokens).mean(axis=1)), 5e-2, rtol=1e-3)
    assert _rms(updates["layers"]["mlp"]["up"]["kernel"]) == pytest.approx(3e-3, rel=0.15)
    assert _rms(updates["layers"]["mlp_norm"]["scale"]) == pytest.approx(5e-2, rel=1e-3)


@pytest.mark.parametrize(
    ("config", "matrices", "tables", "gains"),
    [
        (OptimizerConfig("sinkgd"), 0, 2, 2),
        (OptimizerConfig("sinkgd", momentum=0.9), 1, 2, 2),
        (OptimizerConfig("sinkgd", rest="sinkhorn"), 0, 0, 2),
        (OptimizerConfig("sinkgd", rest="sinkhorn", momentum=0.9), 1, 0, 2),
        (OptimizerConfig("swan"), 0, 2, 2),
        (OptimizerConfig("swan", momentum=0.9), 1, 2, 2),
        (OptimizerConfig("muon"), 1, 2, 2),
        (OptimizerConfig("adamw"), 2, 2, 2),
        (OptimizerConfig("adamw2"), 2, 2, 2),
        (OptimizerConfig("sgd"), 1, 1, 1),
        (OptimizerConfig("sgd", momentum=0.0), 0, 0, 0),
    ],
    ids=lambda value: value.name if isinstance(value, OptimizerConfig) else str(value),
)
def test_state_has_so_many_numbers_per_weight(
    config: OptimizerConfig, matrices: int, tables: int, gains: int, tiny_model: ModelConfig
) -> None:
    _, params = abstract_llama(tiny_model)
    weights = {"matrix": 2 * (4 * 16 * 16 + 3 * 16 * 24), "table": 2 * 256 * 16, "gain": 5 * 16}
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(weights.values())
    optimizer = make_optimizer(resolve(config), Setup(model=tiny_model, steps=10))
    state = jax.tree.leaves(jax.eval_shape(optimizer.init, params))
    shapes = {leaf.shape for leaf in jax.tree.leaves(params)}
    numbers = sum(leaf.size for leaf in state if leaf.shape in shapes)
    # counts of steps, and Muon's coefficients
    assert all(leaf.size <= 3 for leaf in state if leaf.shape not in shapes)
    expected = matrices * weights["matrix"] + tables * weights["table"] + gains * weights["gain"]
    assert numbers == expected
    audited = mo.audit(params, optimizer, axes=LLAMA_RULES).state_bytes_of("matrix")
    assert audited == 4 * matrices * weights["matrix"]


WEIGHTS = 2 * (4 * 16 * 16 + 3 * 16 * 24)
STACK = 2 * (4 + 3)
"""Matrices of the tiny model: two layers of query, key, value, out (16 x 16) and gate, up, down."""


@pytest.mark.parametrize(
    ("config", "numbers"),
    [
        (OptimizerConfig("lion"), WEIGHTS),
        # and a number per head of query and key, per matrix of values, per neuron of the others
        (
            OptimizerConfig("adam-mini"),
            WEIGHTS + 2 * (2 * 2 + 1 + 16 + 2 * 24 + 16),
        ),
        (
            OptimizerConfig("adam-mini", value_blocks="neuron"),
            WEIGHTS + 2 * (2 * 2 + 16 + 16 + 2 * 24 + 16),
        ),
        # 2rn + rm, n the longer side
        (
            OptimizerConfig("ldadam", rank=4, error_feedback=False),
            4 * 2 * (4 * (2 * 16 + 16) + 3 * (2 * 24 + 16)),
        ),
        (
            OptimizerConfig("ldadam", rank=4),
            4 * 2 * (4 * (2 * 16 + 16) + 3 * (2 * 24 + 16)) + WEIGHTS,
        ),
        # the longer side is projected: 2rm + rn
        (OptimizerConfig("galore", rank=4), 4 * 2 * (4 * (2 * 16 + 16) + 3 * (2 * 16 + 24))),
    ],
    ids=lambda value: value.name if isinstance(value, OptimizerConfig) else str(value),
)
def test_baselines_keep_so_many_numbers_for_the_matrices(
    config: OptimizerConfig, numbers: int, tiny_model: ModelConfig
) -> None:
    _, params = abstract_llama(tiny_model)
    optimizer = make_optimizer(resolve(config), Setup(model=tiny_model))
    audited = mo.audit(params, optimizer, axes=LLAMA_RULES).state_bytes_of("matrix")
    assert audited == 4 * numbers


def test_adafactor_keeps_a_mean_per_row_and_column(tiny_model: ModelConfig) -> None:
    _, params = abstract_llama(tiny_model)
    optimizer = make_optimizer(resolve(OptimizerConfig("adalomo")), Setup(model=tiny_model))
    audited = mo.audit(params, optimizer, axes=LLAMA_RULES).state_bytes_of("matrix")
    means = 2 * (4 * (16 + 16) + 3 * (16 + 24))
    assert 4 * means <= audited <= 4 * (means + STACK)  # and optax's placeholder of one number


def test_per_layer_is_a_loop_over_layers(tiny_model: ModelConfig) -> None:
    generator = np.random.default_rng(0)
    stack = [{"kernel": jnp.asarray(generator.standard_normal((3, 6, 4)))} for _ in range(4)]
    one = optax.contrib.scale_by_galore(2, update_proj_gap=2)
    many = per_layer(one, ndim=2)
    state, update = many.init(stack[0]), jax.jit(many.update)
    apart = [one.init({"kernel": stack[0]["kernel"][layer]}) for layer in range(3)]
    for gradients in stack:
        updates, state = update(gradients, state, stack[0])
        for layer in range(3):
            alone, apart[layer] = one.update({"kernel": gradients["kernel"][layer]}, apart[layer])
            np.testing.assert_allclose(
                updates["kernel"][layer], alone["kernel"], rtol=1e-4, atol=1e-5
            )
    assert state.count.shape == ()
    assert "conditional" in update.lower(stack[0], state, stack[0]).compile().as_text()


def test_sinkgd_without_a_sweep_is_refused(tiny_model: ModelConfig) -> None:
    config = resolve(OptimizerConfig("sinkgd", num_iters=0))
    with pytest.raises(InputError, match="--num-iters is 0, but sinkgd takes one sweep at least"):
        make_optimizer(config, Setup(model=tiny_model))


@pytest.mark.parametrize("name", ["ldadam", "galore"])
def test_rank_that_the_matrices_do_not_have_is_refused(
    name: OptimizerName, tiny_model: ModelConfig
) -> None:
    with pytest.raises(InputError, match=r"--rank is 17, but the matrices have only 16 dimensions"):
        make_optimizer(resolve(OptimizerConfig(name, rank=17)), Setup(model=tiny_model))


@pytest.mark.parametrize(
    "options",
    [{"name": name} for name in BASE_OPTIMIZERS]
    + [
        {"name": "sinkgd", **COMBINED},
        {"name": "swan", "momentum": 0.9, "clip_norm": 1.0, "weight_decay": 0.1},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_every_optimizer_learns(options: dict[str, Any]) -> None:
    ranked = {"rank": 4} if "rank" in OPTIMIZERS[options["name"]].defaults else {}
    experiment = experiment_of(**{**options, **ranked})
    losses, _ = trajectory(experiment, np.repeat(BATCHES[:1], 12, axis=0))
    # the first step has rate 0
    assert losses[1] == losses[0] == pytest.approx(math.log(256), rel=0.01)
    assert losses[-1] < min(losses[:3]) - 0.01


@pytest.mark.parametrize(
    ("option", "least", "most"),
    [
        ({"name": "swan", "orthogonalizer": "exact"}, 0.99, 1.01),
        ({"name": "sinkgd", "operator_norm": True}, 0, 1.3),
    ],
)
def test_singular_values_that_options_set(
    option: dict[str, Any], least: float, most: float, tiny_model: ModelConfig
) -> None:
    update = _second_update(OptimizerConfig(**option, learning_rate=1.0), tiny_model)
    for matrix in np.asarray(update["layers"]["mlp"]["up"]["kernel"]):
        inputs, outputs = matrix.shape
        # an orthogonal factor of root mean square 1, or the operator norm sqrt(outputs / inputs)
        unit = math.sqrt(outputs / (1 if option["name"] == "swan" else inputs))
        values = np.linalg.svd(matrix, compute_uv=False) / unit
        assert values[0] == pytest.approx(1, abs=0.01) or 1 <= values[0] <= most
        assert values[-1] >= least


def test_schedule_warms_up_and_falls_to_a_tenth() -> None:
    adamw = resolve(OptimizerConfig("adamw", learning_rate=1.0))

    def rates_of(**lengths: int) -> list[float]:
        rates = scheduled_rates(adamw, Setup(**lengths))
        assert rates(1).keys() == {"learning_rate"}
        return [rates(number)["learning_rate"] for number in range(1, lengths["steps"] + 1)]

    rates = rates_of(steps=400)
    assert [rates[count] for count in (0, 20, 40)] == pytest.approx([0, 0.5, 1])
    assert (
        float(schedule(1.0, 400, 40)(400))
        == float(schedule(1.0, 400, 40)(900))
        == pytest.approx(0.1)
    )
    # of a schedule's own length, a run may be a part, or have a tail
    for steps in (30, 500):
        other = rates_of(steps=steps, schedule_steps=400)
        both = min(steps, 400)
        assert other[:both] == rates[:both]
        assert other[both:] == pytest.approx(0.1 * np.ones(steps - both))


def test_rates_of_endless_runs_cost_no_memory() -> None:
    adamw = resolve(OptimizerConfig("adamw", learning_rate=1.0))
    rates = scheduled_rates(adamw, Setup(steps=2 * 10**9, schedule_steps=30_000))
    peak = schedule(1.0, 30_000, Setup(steps=2 * 10**9, schedule_steps=30_000).warm_up)
    for number in (1, 10_000, 10_001, 25_000, 10**9):
        assert rates(number)["learning_rate"] == pytest.approx(float(peak(number - 1)), rel=1e-6)


def test_a_warm_up_as_long_as_the_schedule_is_refused() -> None:
    for warm_up, options in ((6, {"schedule_steps": 6}), (6, {"schedule_steps": 4}), (12, {})):
        with pytest.raises(InputError, match="--warm-up-steps is"):
            Setup(steps=12, warm_up_steps=warm_up, **options)
    Setup(steps=12, warm_up_steps=11)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, 1), (2, 1), (12, 6), (40, 20), (80, 30), (300, 30), (400, 40), (10_000, 1000)],
)
def test_short_schedules_warm_up_over_more_than_a_tenth(steps: int, expected: int) -> None:
    assert Setup(steps=steps).warm_up == expected
    assert Setup(steps=steps, schedule_steps=9, warm_up_steps=5).warm_up == 5


@given(steps=st.integers(10, 10_000), share=st.floats(0, 1), peak=st.floats(1e-5, 10), traced=...)
def test_schedule_is_a_line_and_a_cosine(
    steps: int, share: float, peak: float, traced: bool
) -> None:
    count, rising = int(share * steps), Setup(steps=steps).warm_up
    if count < rising:
        expected = peak * count / rising
    else:
        angle = math.pi * (count - rising) / (steps - rising)
        expected = peak * (0.1 + 0.9 * (1 + math.cos(angle)) / 2)
    rate = schedule(jnp.float32(peak) if traced else peak, steps, rising)
    assert float(rate(jnp.int32(count))) == pytest.approx(expected, rel=1e-5, abs=1e-6 * peak)


@pytest.mark.parametrize("steps", [1, 2, 5, 25, 80])
def test_length_of_a_schedule_may_be_traced(steps: int) -> None:
    counts = jnp.arange(steps + 3)
    rising = max(1, round(steps / 10))
    shape = optax.warmup_cosine_decay_schedule(0.0, 0.3, rising, max(2, steps), 0.03)
    rates = jax.jit(lambda steps, rising: schedule(0.3, steps, rising)(counts))(steps, rising)
    np.testing.assert_allclose(rates, shape(counts), rtol=1e-5, atol=1e-7)


def test_peak_of_a_schedule_may_be_traced() -> None:
    counts = jnp.arange(100)
    rates = jax.jit(lambda peak: schedule(peak, 100, 10)(counts))(0.3)
    np.testing.assert_allclose(rates, schedule(0.3, 100, 10)(counts), rtol=1e-6)


def test_schedule_of_a_few_steps_reaches_its_peak() -> None:
    for steps in (1, 2, 5):
        assert float(schedule(0.3, steps, max(1, steps // 2))(0)) == 0
        assert float(schedule(0.3, steps, max(1, steps // 2))(max(1, steps // 2))) == pytest.approx(
            0.3
        )


def test_defaults_are_filled_in() -> None:
    resolved = resolve(OptimizerConfig("sinkgd", learning_rate=0.5))
    assert resolved.learning_rate == 0.5
    assert resolved.num_iters == 5
    assert resolved.rest == "adam"
    assert resolve(resolved) == resolved
    assert resolve(OptimizerConfig("adamw")).rest_learning_rate is None


@pytest.mark.parametrize(
    ("name", "preset", "rates"),
    [
        # alpha = 0.05 times 0.02, and 0.02, as in the papers
        ("sinkgd", "60m", (1e-3, 2e-2)),
        ("swan", "350m", (1e-3, 2e-2)),
        ("adamw", "60m", (1e-3, None)),
        ("adamw", "1b", (7e-4, None)),
        ("adamw2", "1b", (7e-4, 7e-4)),
    ],
)
def test_presets_have_the_papers_rates(
    name: OptimizerName, preset: PresetName, rates: tuple[float, float | None]
) -> None:
    resolved = resolve(OptimizerConfig(name), preset)
    assert (resolved.learning_rate, resolved.rest_learning_rate) == rates
    assert resolve(OptimizerConfig(name, learning_rate=0.5), preset).learning_rate == 0.5


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_all_of_its_options_in_every_preset(
    name: OptimizerName, preset: PresetName
) -> None:
    resolved = resolve(OptimizerConfig(name), preset)
    defaults = OPTIMIZERS[name].defaults
    options = {key for key in defaults if getattr(resolved, key) is not None}
    assert options == defaults.keys() >= PRESETS[preset].options.get(name, {}).keys()
    assert resolve(resolved, preset) == resolved


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - set(BASE_OPTIMIZERS)))
def test_variant_is_the_optimizer_with_its_own_options(
    name: OptimizerName, preset: PresetName
) -> None:
    entry = OPTIMIZERS[name]
    assert entry.variant_of is not None
    resolved = resolve(OptimizerConfig(name), preset)
    same = resolve(OptimizerConfig(entry.variant_of, **entry.own_options), preset)
    assert dataclasses.replace(resolved, name=same.name) == same
    assert same != resolve(OptimizerConfig(entry.variant_of), preset)
    assert entry.build is OPTIMIZERS[entry.variant_of].build


def test_the_optimizer_that_the_readme_adds(tiny_model: ModelConfig) -> None:
    page = Path(optimizers.__file__).with_name("README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    try:
        exec(code, dict(vars(optimizers)))
        entry = OPTIMIZERS["rmsprop"]
        context = Context(dict(entry.defaults), {MATRIX: 0.1, REST: 0.2}, LLAMA_RULES)
        params = init_llama(tiny_model, seed=0)
        optimizer = entry.build(context)
        gradient = jax.tree.map(jnp.ones_like, params)
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    finally:
        OPTIMIZERS.pop("rmsprop", None)
    # the first step is -rate g / sqrt(0.01 g^2)
    kernel, gain = updates["layers"]["mlp"]["up"]["kernel"], updates["final_norm"]["scale"]
    np.testing.assert_allclose(kernel, -1.0, rtol=1e-6)
    np.testing.assert_allclose(gain, -2.0, rtol=1e-6)


def test_builders_serve_a_tree_of_nothing_but_matrices() -> None:
    axes, params = mo.MatrixAxes(output=-1, input=-2), {"up": jnp.ones((2, 8, 6))}
    for name, entry in OPTIMIZERS.items():
        options = {**entry.defaults, **({"rank": 4} if "rank" in entry.defaults else {})}
        rates = dict.fromkeys((MATRIX, REST), 0.5)
        optimizer = entry.build(Context(options=options, rates=rates, axes=axes))
        update, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
        assert -float(update["up"].mean()) > 1e-3, name


def test_refusal_lists_the_options_there_are() -> None:
    with pytest.raises(InputError) as refusal:
        resolve(OptimizerConfig("muon", clip_norm=1.0))
    assert str(refusal.value) == (
        "--clip-norm has no meaning for muon, which has only --learning-rate, "
        "--rest-learning-rate, --momentum, --nesterov, --b2, --weight-decay"
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (OptimizerConfig("adamw", num_iters=3), "--num-iters has no meaning for adamw"),
        (OptimizerConfig("adamw", rest_learning_rate=1.0), "--rest-learning-rate has no meaning"),
        (OptimizerConfig("sgd", b2=0.9), "--b2 has no meaning for sgd"),
        (OptimizerConfig("swan", rest="adam"), "--rest has no meaning for swan"),
        (OptimizerConfig("adamw", nesterov=False), "--nesterov has no meaning for adamw"),
    ],
)
def test_options_without_meaning_are_refused(config: OptimizerConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(config)
