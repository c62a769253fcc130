import jax.numpy as jnp
import pytest

from examples.llama.config import ModelConfig
from examples.llama.generate import generate
from examples.llama.model import init_llama


def _always(model: ModelConfig, token: str) -> str:
    """Text from a model whose head knows a single byte."""
    definition, params = init_llama(model, seed=0)
    gain = jnp.ones_like(params["final_norm"]["scale"])
    embedding = params["embed"]["embedding"].at[:].set(gain)
    kernel = jnp.zeros_like(params["head"]["kernel"]).at[:, ord(token)].set(10.0)
    zero = {"kernel": jnp.zeros_like(params["layers"]["mlp"]["down"]["kernel"])}
    mlp = params["layers"]["mlp"] | {"down": zero}
    out = {"kernel": jnp.zeros_like(params["layers"]["attention"]["out"]["kernel"])}
    attention = params["layers"]["attention"] | {"out": out}
    params |= {
        "embed": {"embedding": embedding},
        "head": {"kernel": kernel},
        "layers": params["layers"] | {"mlp": mlp, "attention": attention},
    }
    return generate(definition, params, prompt="def ", length=20, window=8)


def test_text_grows_beyond_the_window(tiny_model: ModelConfig) -> None:
    assert _always(tiny_model, "x") == "def " + 20 * "x"


def test_bytes_that_cannot_be_shown_are_replaced(tiny_model: ModelConfig) -> None:
    assert _always(tiny_model, "\x1b") == "def " + 20 * "\N{REPLACEMENT CHARACTER}"


def test_seed_decides(tiny_model: ModelConfig) -> None:
    definition, params = init_llama(tiny_model, seed=0)
    first, again, other = (
        generate(definition, params, length=20, window=8, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_temperature_of_zero_is_refused(tiny_model: ModelConfig) -> None:
    definition, params = init_llama(tiny_model, seed=0)
    with pytest.raises(ValueError, match="the temperature must be positive"):
        generate(definition, params, temperature=0.0)
