import jax
import jax.numpy as jnp
import pytest

import multinorm_optax as mo
from examples.llama.config import ModelConfig
from examples.llama.model import LLAMA_RULES, abstract_llama, llama_blocks
from multinorm_optax._baselines.adam_mini.blocks import resolve_blocks

QUERY = "layers/attention/query/kernel"


def _leaf(path: str, shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    return {path: jax.ShapeDtypeStruct(shape, jnp.float32)}


def _blocks(path: str, shape: tuple[int, ...], value: str = "neuron") -> tuple[int, ...]:
    rules = llama_blocks(4, value=value)  # type: ignore[arg-type]
    [(_, found)] = resolve_blocks(rules, _leaf(path, shape))
    assert isinstance(found, mo.Blocks)
    return found.moment_shape(shape)


@pytest.mark.parametrize("stack", [(), (6,)], ids=["layer", "stack"])
def test_matrices_are_the_kernels_of_the_layers(stack: tuple[int, ...]) -> None:
    leaves = {
        **_leaf(QUERY, (*stack, 4, 8)),
        **_leaf("layers/attention_norm/scale", (*stack, 4)),
        **_leaf("embed/embedding", (9, 4)),
        **_leaf("head/kernel", (4, 9)),
        **_leaf("final_norm/scale", (4,)),
    }
    axes = {path: found for path, found in mo.resolve_axes(LLAMA_RULES, leaves) if found}
    assert axes.keys() == {QUERY}
    assert axes[QUERY].matrix_shape((*stack, 4, 8)) == (8, 4)


@pytest.mark.parametrize("stack", [(), (6,)], ids=["layer", "stack"])
@pytest.mark.parametrize(
    ("path", "shape", "want"),
    [
        ("attention_norm/scale", (8,), (1,)),
        ("attention/query/kernel", (8, 12), (1, 3)),
        ("attention/key/kernel", (8, 4), (1, 1)),
        ("attention/value/kernel", (8, 4), (1, 4)),
        ("attention/out/kernel", (12, 8), (1, 8)),
        ("mlp_norm/scale", (8,), (1,)),
        ("mlp/gate/kernel", (8, 20), (1, 20)),
        ("mlp/up/kernel", (8, 20), (1, 20)),
        ("mlp/down/kernel", (20, 8), (1, 8)),
    ],
)
def test_blocks_of_layers(
    path: str, shape: tuple[int, ...], want: tuple[int, ...], stack: tuple[int, ...]
) -> None:
    assert _blocks(f"layers/{path}", (*stack, *shape)) == (*stack, *want)


@pytest.mark.parametrize(
    ("path", "shape", "want"),
    [
        ("embed/embedding", (30, 8), (30, 1)),
        ("head/kernel", (8, 30), (1, 30)),
        ("final_norm/scale", (8,), (1,)),
    ],
)
def test_blocks_of_the_rest(path: str, shape: tuple[int, ...], want: tuple[int, ...]) -> None:
    assert _blocks(path, shape) == want


def test_one_block_for_the_values() -> None:
    assert _blocks("layers/attention/value/kernel", (6, 8, 8), "whole") == (6, 1, 1)


@pytest.mark.parametrize(
    "path",
    ["layers/attention/qkv/kernel", "layers/mlp/up/bias", "layers/linear/kernel", "norm"],
)
def test_no_blocks_for_anything_else(path: str) -> None:
    with pytest.raises(ValueError, match="no rule says"):
        _blocks(path, (8, 8))


def test_every_weight_is_covered() -> None:
    _, params = abstract_llama(ModelConfig())
    paths = [path for path, _ in mo.resolve_axes(LLAMA_RULES, params)]
    assert paths == [path for path, _ in resolve_blocks(llama_blocks(32), params)]
