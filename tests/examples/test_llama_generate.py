import dataclasses

import jax
import jax.numpy as jnp
import pytest

from examples.llama.config import InputError, ModelConfig
from examples.llama.generate import generate
from examples.llama.model import Params, abstract_llama, init_llama
from examples.llama.text.tokenizer import BYTES


def _generate(model: ModelConfig, params: Params, prompt: str = "def ", **options: float) -> str:
    definition, _ = abstract_llama(model)
    options = {"length": 20, "window": 8} | options
    return generate(definition, params, BYTES, prompt=prompt, **options)  # type: ignore[arg-type]


def _always(model: ModelConfig, token: int) -> Params:
    """The weights of a model whose head knows a single token."""
    params = init_llama(model, seed=0)
    zero = jax.tree.map(jnp.zeros_like, params)
    gain = params["final_norm"]["scale"]
    return zero | {
        "embed": {"embedding": zero["embed"]["embedding"].at[:].set(gain)},
        "final_norm": {"scale": gain},
        "head": {"kernel": zero["head"]["kernel"].at[:, token].set(10.0)},
    }


def test_text_grows_beyond_the_window(tiny_model: ModelConfig) -> None:
    assert _generate(tiny_model, _always(tiny_model, ord("x"))) == "def " + 20 * "x"


def test_prompt_may_be_longer_than_the_window(tiny_model: ModelConfig) -> None:
    for prompt in ("class A:", "class A(object):"):
        text = _generate(tiny_model, _always(tiny_model, ord("x")), prompt)
        assert text == prompt + 20 * "x"


def test_text_depends_on_the_window_alone(tiny_model: ModelConfig) -> None:
    params = jax.tree.map(lambda leaf: 20 * leaf, init_llama(tiny_model, seed=0))
    first, longer, other = (
        _generate(tiny_model, params, prompt).removeprefix(prompt)
        for prompt in ("12345678", "abc12345678", "1234567x")
    )
    assert first == longer != other


def test_bytes_that_cannot_be_shown_are_replaced(tiny_model: ModelConfig) -> None:
    text = _generate(tiny_model, _always(tiny_model, 0x1B))
    assert text == "def " + 20 * "\N{REPLACEMENT CHARACTER}"


def test_text_ends_where_the_model_ends_it(tiny_model: ModelConfig) -> None:
    assert BYTES.end == 0
    assert _generate(tiny_model, _always(tiny_model, 0)) == "def "


def test_tokens_that_the_tokenizer_does_not_have_are_never_chosen(tiny_model: ModelConfig) -> None:
    larger = dataclasses.replace(tiny_model, vocabulary=300)
    params = _always(larger, 299)
    # 299 is all that the model wants; the tokenizer's tokens are equal among themselves
    kernel = params["head"]["kernel"].at[:, :256].set(-10.0).at[:, ord("x")].set(0.0)
    assert _generate(larger, params | {"head": {"kernel": kernel}}) == "def " + 20 * "x"


def test_seed_decides(tiny_model: ModelConfig) -> None:
    params = init_llama(tiny_model, seed=0)
    first, again, other = (_generate(tiny_model, params, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_low_temperature_takes_the_likeliest_token(tiny_model: ModelConfig) -> None:
    params = jax.tree.map(lambda leaf: 20 * leaf, init_llama(tiny_model, seed=0))
    cautious = {_generate(tiny_model, params, temperature=1e-4, seed=seed) for seed in range(3)}
    adventurous = {_generate(tiny_model, params, temperature=10.0, seed=seed) for seed in range(3)}
    assert (len(cautious), len(adventurous)) == (1, 3)


@pytest.mark.parametrize(("prompt", "temperature"), [("", 1.0), ("def ", 0.0), ("def ", -1.0)])
def test_what_cannot_be_continued_is_refused(
    prompt: str, temperature: float, tiny_model: ModelConfig
) -> None:
    params = init_llama(tiny_model, seed=0)
    with pytest.raises(InputError, match=r"at least one token, the temperature must be positive"):
        _generate(tiny_model, params, prompt, temperature=temperature)
