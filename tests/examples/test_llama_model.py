import dataclasses

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx, traverse_util

import multinorm_optax as mo
from examples.llama.config import InputError, ModelConfig
from examples.llama.model import Params, init_llama, rotate_positions


def _logits(config: ModelConfig, tokens: jax.Array) -> jax.Array:
    definition, params = init_llama(config, seed=0)
    return jax.jit(lambda p: nnx.merge(definition, p)(tokens))(params)


def test_logits_do_not_depend_on_future_tokens(tiny_model: ModelConfig) -> None:
    tokens = jax.random.randint(jax.random.key(0), (2, 16), 0, 256)
    changed = tokens.at[:, 9:].set((tokens[:, 9:] + 7) % 256)
    before, after = _logits(tiny_model, tokens), _logits(tiny_model, changed)
    chex.assert_shape(before, (2, 16, 256))
    chex.assert_trees_all_equal(before[:, :9], after[:, :9])
    assert jnp.abs(before[:, 9:] - after[:, 9:]).max() > 1e-4


def test_rematerialization_changes_neither_loss_nor_gradient(tiny_model: ModelConfig) -> None:
    tokens = jax.random.randint(jax.random.key(0), (2, 16), 0, 256)

    def gradient(config: ModelConfig) -> Params:
        definition, params = init_llama(config, seed=0)

        def mean_square(params: Params) -> jax.Array:
            return jnp.square(nnx.merge(definition, params)(tokens)).mean()

        return jax.jit(jax.grad(mean_square))(params)

    without = dataclasses.replace(tiny_model, remat=False)
    chex.assert_trees_all_close(gradient(tiny_model), gradient(without), atol=1e-6)


def test_rotated_products_depend_on_relative_positions_alone() -> None:
    query, key = jax.random.normal(jax.random.key(0), (2, 8))

    def products(vector: jax.Array) -> jax.Array:
        return rotate_positions(jnp.broadcast_to(vector, (1, 12, 1, 8)), base=100.0)[0, :, 0]

    scores = products(query) @ products(key).T
    for distance in range(-5, 6):
        diagonal = jnp.diagonal(scores, distance)
        chex.assert_trees_all_close(diagonal, jnp.full_like(diagonal, diagonal[0]), atol=1e-5)
    assert abs(scores[0, 0] - query @ key) < 1e-5
    assert abs(scores[0, 0] - scores[0, 5]) > 1e-2


def test_parameter_paths_are_those_of_the_rules(tiny_model: ModelConfig) -> None:
    _, params = init_llama(tiny_model, seed=0)
    shapes = {
        path: leaf.shape for path, leaf in traverse_util.flatten_dict(params, sep="/").items()
    }
    square, wide, tall, gains = (2, 16, 16), (2, 16, 24), (2, 24, 16), (2, 16)
    matrices = {f"layers/attention/{n}/kernel": square for n in ("query", "key", "value", "out")}
    matrices |= {f"layers/mlp/{n}/kernel": wide for n in ("gate", "up")}
    matrices |= {"layers/mlp/down/kernel": tall}
    rest = {
        "embed/embedding": (256, 16),
        "layers/attention_norm/scale": gains,
        "layers/mlp_norm/scale": gains,
        "final_norm/scale": (16,),
        "head/kernel": (16, 256),
    }
    assert shapes == matrices | rest
    labels = traverse_util.flatten_dict(mo.group_labels(mo.LLAMA_RULES)(params), sep="/")
    assert {path for path, label in labels.items() if label == "matrix"} == matrices.keys()


def test_default_model_has_the_size_that_is_promised() -> None:
    shapes = jax.eval_shape(lambda: init_llama(ModelConfig(), seed=0)[1])
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 857_216


def test_layers_of_the_stack_are_drawn_apart(tiny_model: ModelConfig) -> None:
    _, params = init_llama(tiny_model, seed=0)
    first, second = params["layers"]["mlp"]["up"]["kernel"]
    assert jnp.abs(first - second).max() > 1e-3
    assert 0.015 < jnp.std(first) < 0.025


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(InputError, match=r"hidden width 30 .* multiple of 8"):
        ModelConfig(hidden=30)
