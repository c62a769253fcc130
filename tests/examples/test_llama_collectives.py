"""What the devices of a mesh send one another in a step, read from the compiled programs."""

import math
import re
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from examples.llama.config import Experiment, ModelConfig, OptimizerConfig, Setup
from examples.llama.mesh import AXES, Placement, place
from examples.llama.model import abstract_llama
from examples.llama.presets import resolve
from examples.llama.schedule import make_optimizer
from examples.llama.step import TrainState, initial_state, mean_loss_and_gradients

pytestmark = pytest.mark.devices(8)
MODEL = ModelConfig(hidden=32, mlp=64, heads=4, layers=3)
COLLECTIVE = r"= (.*?) (all-gather|all-to-all|reduce-scatter|collective-permute|all-reduce)\S*\("


def _collectives(compiled: Any) -> list[tuple[str, int]]:
    """Kind and size of each array that the devices send one another."""
    return [
        (found[2], math.prod(int(size) for size in sizes.split(",") if size))
        for found in re.finditer(COLLECTIVE, compiled.as_text())
        for sizes in re.findall(r"\w+\[([\d,]*)\]", found[1])
    ]


def _compile_update(mode: AxisType, **options: Any) -> Any:
    """The compiled (gradients, state, weights) -> (weights, state) on a mesh 2 x 2 x 2."""
    experiment = Experiment(resolve(OptimizerConfig(**options)), Setup(model=MODEL))
    optimizer = make_optimizer(experiment.optimizer, experiment.setup)
    mesh = jax.make_mesh((2, 2, 2), AXES, axis_types=(mode,) * 3)
    placement = Placement(mesh)
    with jax.set_mesh(mesh):
        state = placement.abstract(lambda: initial_state(experiment))

        @jax.jit
        def update(gradients: Any, state: TrainState) -> TrainState:
            updates, new = optimizer.update(gradients, state.optimizer_state, state.params)
            return TrainState(state.step, optax.apply_updates(state.params, updates), new)

        compiled = update.lower(state.params, state).compile()
    results = jax.tree.leaves(compiled.output_shardings)
    for sharding, leaf in zip(results, jax.tree.leaves(state), strict=True):
        assert sharding.is_equivalent_to(leaf.sharding, leaf.ndim)
    return compiled


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        (AxisType.Auto, {}),
        (AxisType.Explicit, {}),
        (
            AxisType.Auto,
            {"rest": "sinkhorn", "momentum": 0.9, "clip_norm": 1.0, "weight_decay": 0.1},
        ),
    ],
    ids=["auto", "explicit", "every-option"],
)
def test_sinkgd_sends_vectors_only(mode: AxisType, options: dict[str, Any]) -> None:
    sent = _collectives(_compile_update(mode, **options))
    assert sent
    assert {kind for kind, _ in sent} == {"all-reduce"}
    # the largest vectors: a number per token of a table, or per layer and feature of the MLP
    assert max(size for _, size in sent) <= max(256, 3 * 64)


def test_muon_gathers_matrices() -> None:
    """What the test of SinkGD would see if it did."""
    assert ("all-gather", 3 * 32 * 32) in _collectives(_compile_update(AxisType.Auto, name="muon"))


def test_each_device_computes_with_its_own_rows() -> None:
    definition, params = abstract_llama(MODEL)
    placement = place((1, 8, 1))
    rows = jax.ShapeDtypeStruct(
        (64, 17), np.int32, sharding=placement.put_rows(np.zeros((64, 17))).sharding
    )
    with placement.mesh_context():
        gradients = jax.jit(
            lambda params, rows: mean_loss_and_gradients(definition, params, rows, 1)
        )
        compiled = gradients.lower(placement.abstract(lambda: params), rows).compile()
    sizes = [size for _, size in _collectives(compiled)]
    # weights are gathered whole, layer by layer; what is computed from the rows is not
    assert max(sizes) == 256 * 32 < 64 * 16 * 32 / 2
