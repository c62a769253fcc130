"""Floating-point operations of training."""

import jax
import numpy as np
import pytest
from flax import nnx

from examples.llama.config import ModelConfig
from examples.llama.model import abstract_llama
from examples.llama.presets import PRESETS
from examples.llama.run import flops


@pytest.mark.parametrize("preset", ["cpu", "60m", "7b"])
def test_every_kernel_counts_six_times(preset):
    """The weights of all products, counted from the parameter tree."""
    model = PRESETS[preset].setup.model
    _, params = abstract_llama(model)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    kernels = sum(leaf.size for path, leaf in leaves if "kernel" in jax.tree_util.keystr(path))
    attention = 12 * model.layers * model.hidden * 256
    assert flops.flops_per_token(model, 256) == 6 * kernels + attention


def test_operations_are_those_that_xla_counts():
    """XLA's own count of the forward pass is a third of it, up to what is not a product."""
    model = ModelConfig(hidden=64, mlp=128, heads=2, layers=1, vocabulary=512, remat=False)
    definition, params = abstract_llama(model)
    tokens = jax.ShapeDtypeStruct((4, 64), np.int32)
    forward = jax.jit(lambda params, tokens: nnx.merge(definition, params)(tokens))
    counted = forward.lower(params, tokens).compile().cost_analysis()["flops"]
    expected = flops.flops_per_token(model, 64) / 3 * 4 * 64
    assert expected < counted < 1.15 * expected


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("cpu", None),
    ],
)
def test_peak_of_a_device(kind, peak):
    """Kinds as JAX names them."""
    assert flops.peak_flops(kind) == peak
