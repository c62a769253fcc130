"""The memory plan of compiled train steps: what an optimizer adds to gradients and activations."""

import functools

import pytest

from examples.llama.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, Setup
from examples.llama.costs.footprint import compiled
from examples.llama.presets import resolve

ROW = 256
MODEL = ModelConfig(hidden=1024, mlp=2736, heads=16, layers=24, vocabulary=4096)
"""Its gradients, 1243 MB, are nearly all that a step of one row needs."""


LONG_ROWS = ModelConfig(hidden=512, mlp=8256, heads=8, layers=3)
"""Sums over its gate and up matrices are taken in chunks."""


@functools.cache
def temporary_bytes(model, optimizer):
    setup = Setup(model=model, data=DataConfig(batch_size=1, sequence_length=ROW))
    return compiled(Experiment(resolve(optimizer), setup), ROW).temporary_bytes


@pytest.mark.parametrize("num_iters", [1, 5])
@pytest.mark.parametrize("model", [MODEL, LONG_ROWS], ids=["24_layers", "long_rows"])
def test_sinkgd_needs_no_more_than_sgd(model, num_iters):
    gradient_descent = temporary_bytes(model, OptimizerConfig("sgd", momentum=0.0))
    sinkgd = temporary_bytes(model, OptimizerConfig("sinkgd", num_iters=num_iters))
    assert sinkgd < 1.01 * gradient_descent
