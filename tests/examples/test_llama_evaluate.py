import math

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from examples.llama.config import ModelConfig
from examples.llama.evaluate import Validation, make_validate
from examples.llama.model import init_llama


def test_loss_is_the_mean_over_tokens_when_the_last_batch_is_short(tiny_model: ModelConfig) -> None:
    definition, params = init_llama(tiny_model, seed=0)
    rows = np.random.default_rng(0).integers(0, 256, (7, 17), dtype=np.uint8)
    logits = jax.jit(lambda p: nnx.merge(definition, p)(rows[:, :-1]))(params)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:].astype(np.int32))
    assert losses.shape == (7, 16)
    measured = make_validate(definition, rows, batch_size=4)(params).loss
    assert measured == pytest.approx(float(losses.mean()), rel=1e-6)


def test_untrained_model_knows_nothing(tiny_model: ModelConfig) -> None:
    definition, params = init_llama(tiny_model, seed=0)
    uniform = jax.tree.map(lambda leaf: 0 * leaf, params)
    rows = np.zeros((3, 17), np.uint8)
    validation = make_validate(definition, rows, batch_size=2)(uniform)
    assert validation.loss == pytest.approx(math.log(256))
    assert validation.perplexity == pytest.approx(256, rel=1e-5)
    assert validation.bits_per_byte == pytest.approx(8)


def test_figures_are_shown_together() -> None:
    assert str(Validation(math.log(2))) == (
        "validation loss 0.6931 nats, perplexity 2.000, 1.0000 bits/byte"
    )


def test_loss_too_large_for_a_perplexity_is_still_a_result() -> None:
    assert "perplexity inf" in str(Validation(1e4))
    assert Validation(1e4).as_json()["perplexity"] is None
    assert Validation(1e4).as_json()["validation_loss"] == 1e4
