import dataclasses
from collections.abc import Callable
from typing import get_args

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx, traverse_util

import multinorm_optax as mo
from examples.llama.config import InputError, ModelConfig, Precision, PresetName
from examples.llama.model import LLAMA_RULES, Params, abstract_llama, init_llama, rotate_positions
from examples.llama.presets import PRESETS


def _forward(config: ModelConfig) -> Callable[[Params, jax.Array], jax.Array]:
    definition, _ = abstract_llama(config)
    return jax.jit(lambda params, tokens: nnx.merge(definition, params)(tokens))


def _logits(config: ModelConfig, tokens: jax.Array) -> jax.Array:
    return _forward(config)(init_llama(config, seed=0), tokens)


def _cast(params: Params, dtype: jax.typing.DTypeLike) -> Params:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def test_logits_do_not_depend_on_future_tokens(tiny_model: ModelConfig) -> None:
    tokens = jax.random.randint(jax.random.key(0), (2, 16), 0, 256)
    changed = tokens.at[:, 9:].set((tokens[:, 9:] + 7) % 256)
    before, after = _logits(tiny_model, tokens), _logits(tiny_model, changed)
    chex.assert_shape(before, (2, 16, 256))
    chex.assert_trees_all_equal(before[:, :9], after[:, :9])
    assert jnp.abs(before[:, 9:] - after[:, 9:]).max() > 1e-4


def test_seed_stands_for_the_same_weights_whatever_generator_is_configured(
    tiny_model: ModelConfig,
) -> None:
    expected = init_llama(tiny_model, 3)
    with jax.default_prng_impl("rbg"):
        chex.assert_trees_all_equal(init_llama(tiny_model, 3), expected)


def test_rematerialization_changes_neither_loss_nor_gradient(tiny_model: ModelConfig) -> None:
    tokens = jax.random.randint(jax.random.key(0), (2, 16), 0, 256)

    def gradient(config: ModelConfig) -> Params:
        forward = _forward(config)
        mean_square = jax.grad(lambda params: jnp.square(forward(params, tokens)).mean())
        return jax.jit(mean_square)(init_llama(config, seed=0))

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
    params = init_llama(tiny_model, seed=0)
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
    labels = traverse_util.flatten_dict(mo.group_labels(LLAMA_RULES)(params), sep="/")
    assert {path for path, label in labels.items() if label == "matrix"} == matrices.keys()


@pytest.mark.parametrize(
    ("preset", "millions"),
    [
        ("cpu", 0.857216),
        # the papers' sizes
        ("60m", 58.1),
        ("130m", 134.1),
        ("350m", 368.0),
        ("1b", 1339.1),
        ("7b", 6738.4),
    ],
)
def test_presets_have_the_sizes_that_are_promised(preset: PresetName, millions: float) -> None:
    _, shapes = abstract_llama(PRESETS[preset].setup.model)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert parameters / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("precision", get_args(Precision))
def test_abstract_model_has_the_shapes_and_dtypes_of_the_weights_drawn(
    precision: Precision, tiny_model: ModelConfig
) -> None:
    config = dataclasses.replace(tiny_model, precision=precision)
    _, abstract = abstract_llama(config)
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, init_llama(config, seed=0))


@pytest.mark.parametrize(
    ("precision", "weights", "logits"),
    [
        ("float32", jnp.float32, jnp.float32),
        ("mixed", jnp.float32, jnp.bfloat16),
        ("bfloat16", jnp.bfloat16, jnp.bfloat16),
    ],
)
def test_precision_decides_the_dtypes_of_weights_and_logits(
    precision: Precision,
    weights: jax.typing.DTypeLike,
    logits: jax.typing.DTypeLike,
    tiny_model: ModelConfig,
) -> None:
    config = dataclasses.replace(tiny_model, precision=precision)
    params = init_llama(config, seed=0)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(weights)}
    tokens = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    assert jax.eval_shape(_forward(config), params, tokens).dtype == logits


def test_bfloat16_changes_logits_by_its_rounding_only(tiny_model: ModelConfig) -> None:
    tokens = jax.random.randint(jax.random.key(0), (2, 16), 0, 256)
    rounded = _cast(init_llama(tiny_model, seed=0), jnp.bfloat16)
    exact = _forward(tiny_model)(_cast(rounded, jnp.float32), tokens)
    half = _forward(dataclasses.replace(tiny_model, precision="bfloat16"))(rounded, tokens)
    mixed = _forward(dataclasses.replace(tiny_model, precision="mixed"))(
        _cast(rounded, jnp.float32), tokens
    )
    # every number on the way is rounded by up to 2^-9 of itself, half a unit in the last place, a
    # few times in each of the two layers
    for logits in (half, mixed):
        error = jnp.linalg.norm(logits.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
        assert 2**-10 < error < 4 * 2**-9
    chex.assert_trees_all_equal(half, mixed)


def test_seed_decides_the_weights(tiny_model: ModelConfig) -> None:
    first, again, other = (init_llama(tiny_model, seed) for seed in (1, jnp.int32(1), 2))
    chex.assert_trees_all_equal(first, again)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
        gains = a.ndim == 1 or bool((a == 1).all())
        assert gains or float(jnp.abs(a - b).max()) > 1e-3


def test_layers_of_the_stack_are_drawn_apart(tiny_model: ModelConfig) -> None:
    params = init_llama(tiny_model, seed=0)
    first, second = params["layers"]["mlp"]["up"]["kernel"]
    assert jnp.abs(first - second).max() > 1e-3
    assert 0.015 < jnp.std(first) < 0.025


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(InputError, match=r"hidden width 30 .* multiple of 8"):
        ModelConfig(hidden=30)
