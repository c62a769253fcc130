import dataclasses
import json
import math
from typing import get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from examples.llama.config import ModelConfig, Precision
from examples.llama.loss import Validation, is_predicted, make_validate, token_losses
from examples.llama.model import Params, abstract_llama, init_llama
from examples.llama.text.documents import pad_rows

LENGTHS = (17, 9, 2, 17, 5, 1, 12)
"""Tokens of each row; the row of one token predicts nothing."""


def _texts() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, length) for length in LENGTHS]


def _sum_of_losses(config: ModelConfig, params: Params, texts: list[np.ndarray]) -> jax.Array:
    """The loss of texts that are rows of their own, without padding."""
    definition, _ = abstract_llama(config)
    total = jnp.float32(0)
    for text in texts:
        if len(text) > 1:
            logits = nnx.merge(definition, params)(text[None, :-1]).astype(jnp.float32)
            total += optax.softmax_cross_entropy_with_integer_labels(logits, text[None, 1:]).sum()
    return total


def test_padding_counts_neither_in_the_loss_nor_in_the_gradient(tiny_model: ModelConfig) -> None:
    definition, _ = abstract_llama(tiny_model)
    params = init_llama(tiny_model, seed=0)
    texts = [_texts()[index] for index in (1, 3, 5)]
    rows = pad_rows(texts, 17)

    def padded(params: Params) -> jax.Array:
        return token_losses(definition, params, rows).sum()

    loss, gradient = jax.jit(jax.value_and_grad(padded))(params)
    expected, expected_gradient = jax.jit(
        jax.value_and_grad(lambda params: _sum_of_losses(tiny_model, params, texts))
    )(params)
    assert loss == pytest.approx(float(expected), rel=1e-6)
    # sums of about 25 tokens' gradients in another order
    chex.assert_trees_all_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_any_negative_token_is_padding(tiny_model: ModelConfig) -> None:
    definition, _ = abstract_llama(tiny_model)
    rows = pad_rows(_texts(), 17)
    others = np.where(rows < 0, -np.arange(1, 18, dtype=np.int32), rows)
    losses = jax.jit(lambda params, rows: token_losses(definition, params, rows))
    params = init_llama(tiny_model, seed=0)
    chex.assert_trees_all_equal(losses(params, rows), losses(params, others))
    assert (np.asarray(is_predicted(jnp.asarray(others))).sum(axis=1) + 1).tolist() == list(LENGTHS)
    assert (np.asarray(losses(params, others)) > 0).sum() == sum(LENGTHS) - len(LENGTHS)


@pytest.mark.parametrize("precision", get_args(Precision))
def test_loss_is_float32_in_any_precision(precision: Precision, tiny_model: ModelConfig) -> None:
    definition, params = abstract_llama(dataclasses.replace(tiny_model, precision=precision))
    rows = jax.ShapeDtypeStruct((2, 17), jnp.uint8)
    losses = jax.eval_shape(lambda p, rows: token_losses(definition, p, rows), params, rows)
    assert (losses.shape, losses.dtype) == ((2, 16), jnp.float32)


def test_loss_is_the_mean_over_tokens_when_the_last_batch_is_short(tiny_model: ModelConfig) -> None:
    definition, _ = abstract_llama(tiny_model)
    params = init_llama(tiny_model, seed=0)
    rows = np.random.default_rng(0).integers(0, 256, (7, 17), dtype=np.uint8)
    logits = jax.jit(lambda p: nnx.merge(definition, p)(rows[:, :-1]))(params)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:].astype(np.int32))
    assert losses.shape == (7, 16)
    measured = make_validate(definition, rows, batch_size=4)(params).loss
    assert measured == pytest.approx(float(losses.mean()), rel=1e-6)


def test_validation_counts_predicted_tokens_alone(tiny_model: ModelConfig) -> None:
    definition, _ = abstract_llama(tiny_model)
    # rows differ in loss, so that every row and token has to have its right weight
    params = jax.tree.map(lambda leaf: 20 * leaf, init_llama(tiny_model, seed=0))
    texts = _texts()
    total = jax.jit(lambda params: _sum_of_losses(tiny_model, params, texts))(params)
    expected = float(total) / (sum(LENGTHS) - len(LENGTHS))
    for batch_size in (2, 4):
        measured = make_validate(definition, pad_rows(texts, 17), batch_size)(params)
        assert measured.loss == pytest.approx(expected, rel=1e-6)


def test_untrained_model_knows_nothing(tiny_model: ModelConfig) -> None:
    definition, _ = abstract_llama(tiny_model)
    uniform = jax.tree.map(lambda leaf: 0 * leaf, init_llama(tiny_model, seed=0))
    rows = np.zeros((3, 17), np.uint8)
    validation = make_validate(definition, rows, batch_size=2)(uniform)
    assert validation.loss == pytest.approx(math.log(256))
    assert validation.perplexity == pytest.approx(256, rel=1e-5)
    assert validation.bits_per_byte == pytest.approx(8)


def test_bits_are_divided_among_the_bytes_of_a_token(tiny_model: ModelConfig) -> None:
    definition, _ = abstract_llama(tiny_model)
    uniform = jax.tree.map(lambda leaf: 0 * leaf, init_llama(tiny_model, seed=0))
    rows = np.zeros((3, 17), np.uint8)
    validation = make_validate(definition, rows, batch_size=2, bytes_per_token=4.0)(uniform)
    assert validation.bits_per_byte == pytest.approx(2)
    assert validation.loss == pytest.approx(math.log(256))


def test_figures_are_shown_together() -> None:
    assert str(Validation(math.log(2))) == (
        "validation loss 0.6931 nats, perplexity 2.000, 1.0000 bits/byte"
    )


def test_without_bytes_per_token_there_are_no_bits_per_byte() -> None:
    validation = Validation(math.log(2), bytes_per_token=None)
    assert validation.bits_per_byte is None
    assert str(validation) == "validation loss 0.6931 nats, perplexity 2.000"


@given(
    loss=st.floats(1e-3, 1e4),
    bytes_per_token=st.none() | st.floats(0.1, 10),
)
def test_figures_come_back_from_json(loss: float, bytes_per_token: float | None) -> None:
    validation = Validation(loss, bytes_per_token)
    back = Validation.from_json(json.loads(json.dumps(validation.as_json())))
    assert back.loss == loss
    assert back.bytes_per_token == (bytes_per_token and pytest.approx(bytes_per_token))
    assert str(back) == str(validation)


def test_loss_too_large_for_a_perplexity_is_still_a_result() -> None:
    assert "perplexity inf" in str(Validation(1e4))
    assert Validation(1e4).as_json()["perplexity"] is None
    assert Validation(1e4).as_json()["validation_loss"] == 1e4
