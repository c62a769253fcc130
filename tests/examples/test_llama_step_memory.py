"""The memory plan of compiled train steps: what an optimizer adds to gradients and activations."""

import functools

import pytest

from examples.llama.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, Setup
from examples.llama.costs.footprint import compiled
from examples.llama.optimizers import settle

ROW = 256
MODEL = ModelConfig(hidden=1024, mlp=2736, heads=16, layers=24, vocabulary=4096)
"""Its gradients, 1243 MB, are nearly all that a step of one row needs."""


@functools.cache
def temporary_bytes(optimizer):
    setup = Setup(model=MODEL, data=DataConfig(batch_size=1, sequence_length=ROW))
    return compiled(Experiment(settle(optimizer), setup), ROW).temporary_bytes


@pytest.mark.parametrize("num_iters", [1, 5])
def test_sinkgd_needs_no_more_than_sgd(num_iters):
    gradient_descent = temporary_bytes(OptimizerConfig("sgd", momentum=0.0))
    sinkgd = temporary_bytes(OptimizerConfig("sinkgd", num_iters=num_iters))
    assert sinkgd < 1.01 * gradient_descent
