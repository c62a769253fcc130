import jax
import jax.numpy as jnp
import numpy as np
import pytest

import multinorm_optax as mo
from examples.llama.config import InputError, ModelConfig, OptimizerConfig, OptimizerName
from examples.llama.model import init_llama
from examples.llama.optimizers import RECIPES, make_optimizer, schedule, scheduled_rates, settle


def _second_update(config: OptimizerConfig, model: ModelConfig) -> dict:
    """The update at the peak rate: two steps are scheduled, the first at rate 0."""
    _, params = init_llama(model, seed=0)
    generator = np.random.default_rng(0)
    gradients = jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape, np.float32), params)
    optimizer = make_optimizer(settle(config), steps=2)
    update = jax.jit(optimizer.update)
    _, state = update(gradients, optimizer.init(params), params)
    return update(gradients, state, params)[0]


def _rms(update: jax.Array) -> float:
    return float(jnp.sqrt(jnp.mean(jnp.square(update))))


@pytest.mark.parametrize("name", ["sinkgd", "swan", "adamw2"])
def test_matrices_and_rest_move_at_their_own_rates(
    name: OptimizerName, tiny_model: ModelConfig
) -> None:
    config = OptimizerConfig(name, learning_rate=3e-3, rest_learning_rate=5e-2)
    updates = _second_update(config, tiny_model)
    assert _rms(updates["layers"]["mlp"]["up"]["kernel"]) == pytest.approx(3e-3, rel=0.15)
    for rest in (updates["embed"]["embedding"], updates["layers"]["mlp_norm"]["scale"]):
        assert _rms(rest) == pytest.approx(5e-2, rel=1e-3)


def test_adamw_has_one_rate(tiny_model: ModelConfig) -> None:
    updates = _second_update(OptimizerConfig("adamw", learning_rate=3e-3), tiny_model)
    assert all(_rms(leaf) == pytest.approx(3e-3, rel=1e-3) for leaf in jax.tree.leaves(updates))


@pytest.mark.parametrize("name", ["sinkgd", "swan", "adamw", "adamw2"])
def test_weight_decay_shrinks_the_matrices_alone(
    name: OptimizerName, tiny_model: ModelConfig
) -> None:
    _, params = init_llama(tiny_model, seed=0)
    rate = RECIPES[name].defaults["learning_rate"]
    plain = _second_update(OptimizerConfig(name), tiny_model)
    decayed = _second_update(OptimizerConfig(name, weight_decay=0.5), tiny_model)
    difference = jax.tree.map(jnp.subtract, decayed, plain)
    np.testing.assert_allclose(
        difference["layers"]["mlp"]["up"]["kernel"],
        -0.5 * rate * params["layers"]["mlp"]["up"]["kernel"],
        atol=1e-8,
    )
    assert jnp.abs(difference["embed"]["embedding"]).max() == 0


@pytest.mark.parametrize("name", ["sinkgd", "swan", "sgd"])
def test_matrices_have_no_state_unless_momentum_is_asked_for(
    name: OptimizerName, tiny_model: ModelConfig
) -> None:
    _, params = init_llama(tiny_model, seed=0)
    matrices = 4 * 2 * (4 * 16 * 16 + 3 * 16 * 24)

    def state_bytes(config: OptimizerConfig) -> int:
        optimizer = make_optimizer(settle(config), steps=10)
        return mo.audit(optimizer, params, axes=mo.LLAMA_RULES).state_bytes_of("matrix")

    assert state_bytes(OptimizerConfig(name)) == 0
    assert state_bytes(OptimizerConfig(name, momentum=0.9)) == matrices


def test_schedule_warms_up_and_falls_to_a_tenth() -> None:
    rates = scheduled_rates(settle(OptimizerConfig("adamw", learning_rate=1.0)), 100)
    assert rates.keys() == {"learning_rate"}
    assert rates["learning_rate"][[0, 5, 10]] == pytest.approx([0, 0.5, 1])
    assert float(schedule(1.0, 100)(100)) == pytest.approx(0.1)


def test_defaults_are_filled_in() -> None:
    settled = settle(OptimizerConfig("sinkgd", learning_rate=0.5))
    assert settled.learning_rate == 0.5
    assert settled.num_iters == 5
    assert settle(settled) == settled
    assert settle(OptimizerConfig("sgd")).rest_learning_rate is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (OptimizerConfig("adamw", num_iters=3), "--num-iters has no meaning for adamw"),
        (OptimizerConfig("adamw", rest_learning_rate=1.0), "--rest-learning-rate has no meaning"),
        (OptimizerConfig("sgd", b2=0.9), "--b2 has no meaning for sgd"),
        (OptimizerConfig("sinkgd", learning_rate=0.0), "--learning-rate is 0.0, but must be"),
        (OptimizerConfig("sinkgd", momentum=-1.0), "--momentum is -1.0, but must be"),
    ],
)
def test_options_without_meaning_are_refused(config: OptimizerConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        settle(config)
