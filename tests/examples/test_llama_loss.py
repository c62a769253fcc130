"""The loss of some positions at a time, and attention by cuDNN."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.llama import loss, model
from examples.llama.config import ModelConfig
from examples.llama.model import abstract_llama, init_llama

VOCABULARY = 300
SHAPE = (4, 12)
"""Rows and predicted positions."""


def _value_and_grad(config: ModelConfig):
    definition, _ = abstract_llama(config)

    def total(params, rows):
        return loss.mean_loss(loss.token_losses(definition, params, rows), rows)

    return jax.jit(jax.value_and_grad(total))


def _rows():
    rows = np.random.default_rng(0).integers(0, VOCABULARY, (SHAPE[0], SHAPE[1] + 1), np.int32)
    rows[1, 5:] = -1
    return rows


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_parts_of_the_positions_give_the_whole_loss(parts, tiny_model, monkeypatch):
    """The loss and every gradient, with padding."""
    config = dataclasses.replace(tiny_model, vocabulary=VOCABULARY)
    params = init_llama(config, seed=0)
    whole = _value_and_grad(config)(params, _rows())
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", SHAPE[0] * SHAPE[1] * VOCABULARY // parts)
    chex.assert_trees_all_close(
        _value_and_grad(config)(params, _rows()), whole, rtol=1e-5, atol=1e-7
    )


def test_a_bound_below_one_position_takes_one_position_at_a_time(tiny_model, monkeypatch):
    """Never less, and no error."""
    config = dataclasses.replace(tiny_model, vocabulary=VOCABULARY)
    params = init_llama(config, seed=0)
    whole = _value_and_grad(config)(params, _rows())
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 1)
    found = _value_and_grad(config)(params, _rows())
    chex.assert_trees_all_close(found, whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("precision", ["float32", "mixed", "bfloat16"])
def test_no_array_has_all_logits(precision, tiny_model, monkeypatch):
    """Neither the forward nor the backward pass: checked in the program before XLA."""
    config = dataclasses.replace(tiny_model, vocabulary=VOCABULARY, precision=precision)
    _, params = abstract_llama(config)
    rows = jax.ShapeDtypeStruct((SHAPE[0], SHAPE[1] + 1), jnp.int32)
    everything = rf"tensor<{SHAPE[0]}x{SHAPE[1]}x{VOCABULARY}x"
    assert re.search(everything, _value_and_grad(config).lower(params, rows).as_text())
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", SHAPE[0] * 3 * VOCABULARY)
    text = _value_and_grad(config).lower(params, rows).as_text()
    assert not re.search(everything, text)
    assert re.search(rf"tensor<{SHAPE[0]}x3x{VOCABULARY}x", text)


def test_gradient_of_half_precision_weights_is_added_up_in_float32(tiny_model, monkeypatch):
    """As exact in twelve parts as in one."""
    config = dataclasses.replace(tiny_model, vocabulary=VOCABULARY, precision="bfloat16")
    params = init_llama(config, seed=0)
    exact = _value_and_grad(dataclasses.replace(config, precision="float32"))(
        jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params), _rows()
    )[1]["head"]["kernel"]

    def error():
        found = _value_and_grad(config)(params, _rows())[1]["head"]["kernel"]
        return float(jnp.linalg.norm(found.astype(jnp.float32) - exact) / jnp.linalg.norm(exact))

    whole = error()
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 1)
    assert error() < 1.1 * whole


@dataclasses.dataclass
class _Device:
    device_kind: str = "NVIDIA H100 80GB HBM3"
    compute_capability: str = "9.0"


@pytest.mark.parametrize(
    ("device", "dtype", "width", "serves"),
    [
        (_Device(), jnp.bfloat16, 64, True),
        (_Device(), jnp.float32, 64, False),
        (_Device(), jnp.bfloat16, 256, False),
        (_Device(), jnp.bfloat16, 20, False),
        (_Device("Tesla V100", "7.0"), jnp.bfloat16, 64, False),
        (_Device("NVIDIA TITAN V", "7.0"), jnp.bfloat16, 64, False),
        (_Device("cpu", ""), jnp.bfloat16, 64, False),
        (_Device("TPU v4", ""), jnp.bfloat16, 64, False),
    ],
)
def test_cudnn_takes_attention_only_where_it_can(device, dtype, width, serves, monkeypatch):
    """Half precision, heads of up to 128 features, on Ampere or newer."""
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert model.cudnn_serves(jax.ShapeDtypeStruct((2, 16, 4, width), dtype)) is serves
