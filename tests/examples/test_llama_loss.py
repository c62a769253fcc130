"""The loss of some positions at a time, and attention by cuDNN."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
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


def test_the_loss_is_the_cross_entropy(tiny_model):
    """Against optax, at random logits from small to huge, 0 at padding."""
    rng = np.random.default_rng(0)
    for size in (1e-3, 1.0, 1e3):
        x = jnp.asarray(size * rng.standard_normal((*SHAPE, VOCABULARY)), jnp.float32)
        found = loss.losses_of_features(lambda head, x: x, {}, x, _rows())
        targets = _rows()[:, 1:]
        exact = optax.softmax_cross_entropy_with_integer_labels(x, jnp.maximum(targets, 0))
        chex.assert_trees_all_close(found, jnp.where(targets < 0, 0, exact), rtol=2e-6, atol=1e-6)


def test_gradient_of_the_logits_is_no_scatter():
    """Which XLA would make room for in float32."""
    x = jnp.zeros((*SHAPE, VOCABULARY), jnp.bfloat16)

    def total(x):
        return loss.losses_of_features(lambda head, x: x, {}, x, _rows()).sum()

    assert "scatter" not in jax.jit(jax.grad(total)).lower(x).as_text()


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


@pytest.mark.parametrize("length", [7, 8])
def test_cudnn_gets_an_even_number_of_positions(length, monkeypatch):
    """JAX refuses an odd one; what is added changes neither results nor gradients."""
    asked = []
    attention = jax.nn.dot_product_attention

    def recorded(query, key, value, *, is_causal, implementation):
        asked.append((query.shape[1], key.shape[1], value.shape[1], implementation))
        return attention(query, key, value, is_causal=is_causal, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", recorded)
    rng = np.random.default_rng(0)
    q, k, v, weights = jnp.asarray(rng.standard_normal((4, 2, length, 3, 8)), jnp.float32)

    def run():
        def total(*arrays):
            return jnp.sum(weights * model.attend(*arrays))

        return model.attend(q, k, v), jax.grad(total, argnums=(0, 1, 2))(q, k, v)

    plain = run()
    monkeypatch.setattr(model, "cudnn_serves", lambda query: True)
    chex.assert_trees_all_close(run(), plain, rtol=1e-6, atol=1e-6)
    assert asked == [(length,) * 3 + ("xla",)] * 2 + [(8,) * 3 + ("cudnn",)] * 2


@pytest.mark.parametrize(
    ("backend", "remat", "loops"), [("cpu", False, 1), ("gpu", False, 0), ("gpu", True, 1)]
)
def test_layers_are_unrolled_on_an_accelerator(backend, remat, loops, tiny_model, monkeypatch):
    """With the same loss and gradients."""
    config = dataclasses.replace(tiny_model, vocabulary=VOCABULARY, layers=3, remat=remat)
    params = init_llama(config, seed=0)
    plain = _value_and_grad(config)(params, _rows())
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    step = _value_and_grad(config)
    # forward and backward
    assert step.lower(params, _rows()).as_text().count("stablehlo.while") == 2 * loops
    chex.assert_trees_all_close(step(params, _rows()), plain, rtol=1e-5, atol=1e-6)
