"""Training on a mesh of eight devices gives the numbers of one."""

import dataclasses
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest
from jax.sharding import Sharding

from examples.llama.checkpoint import Checkpoints, Identity
from examples.llama.config import (
    Experiment,
    InputError,
)
from examples.llama.loss import make_validate
from examples.llama.mesh import ONE_DEVICE, MeshShape, Placement, place
from examples.llama.model import abstract_llama, init_llama
from examples.llama.step import TrainState, initial_state
from tests.examples.trajectories import (
    BATCHES,
    COMBINED,
    MODEL,
    distance,
    experiment_of,
    ordinary,
    trajectory,
)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (8, 1, 1)),
        ({"microbatches": 2}, (2, 2, 2)),
        (COMBINED, (1, 4, 2)),
        ({"name": "swan"}, (1, 8, 1)),
        ({"name": "muon", "microbatches": 2}, (1, 4, 2)),
        ({"name": "adamw2"}, (1, 8, 1)),
    ],
    ids=["sinkgd", "microbatches", "sinkgd-momentum-sinkhorn", "swan", "muon", "adamw2"],
)
def test_mesh_trains_as_one_device_does(options: dict[str, Any], shape: MeshShape) -> None:
    losses, state, rounding = ordinary(**options)
    assert rounding > 0
    experiment, placement = experiment_of(**options), place(shape)
    spread_losses, spread = trajectory(experiment, BATCHES, placement)
    np.testing.assert_allclose(spread_losses, losses, rtol=30 * np.finfo(np.float32).eps)
    assert distance(spread.params, state.params) < 10 * rounding
    _assert_in_place(spread, placement, experiment)


def _assert_in_place(state: TrainState, placement: Placement, experiment: Experiment) -> None:
    """Everything lies where it began, and optimizer state where its parameter is."""
    expected = placement.abstract(lambda: initial_state(experiment))
    jax.tree.map(lambda x, like: _assert_lies(x, like.sharding), state, expected)
    weights = dict(_named(state.params))
    for name, leaf in _named(state.optimizer_state):
        owners = [weight for path, weight in weights.items() if name.endswith("/" + path)]
        assert len(owners) == (leaf.ndim > 0 and not name.endswith("ns_coeffs")), name
        for owner in owners:
            assert leaf.shape == owner.shape
            _assert_lies(leaf, owner.sharding)


def _named(tree: Any) -> list[tuple[str, jax.Array]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _assert_lies(array: jax.Array, sharding: Sharding) -> None:
    assert array.sharding.is_equivalent_to(sharding, array.ndim)


def test_initial_state_is_that_of_one_device_and_no_device_holds_all() -> None:
    experiment, placement = experiment_of(name="adamw"), place((2, 2, 2))
    state = placement.create(lambda: initial_state(experiment))
    # XLA may round the draws of a mesh otherwise, as with jax 0.8.1
    chex.assert_trees_all_close(state, initial_state(experiment), rtol=3e-7, atol=0)
    _assert_in_place(state, placement, experiment)
    for name, leaf in _named(state):
        whole = leaf.ndim < 2 or name.endswith("norm/scale")
        assert leaf.addressable_shards[0].data.size == leaf.size // (1 if whole else 4), name


def test_checkpoint_moves_between_meshes(tmp_path: Path) -> None:
    experiment = experiment_of(momentum=0.9)

    class Nowhere:
        def get_state(self) -> dict[str, Any]:
            return {}

        def set_state(self, state: dict[str, Any]) -> None:
            pass

    def like(placement: Placement) -> TrainState:
        return placement.abstract(lambda: initial_state(experiment))

    state = initial_state(experiment)
    spread = jax.device_put(state, place((2, 2, 2)).shardings(lambda: initial_state(experiment)))
    identity = Identity("a run", {"setup": {}, "corpus": "a text"}, ["a text"])
    with Checkpoints(tmp_path / "checkpoints", identity) as checkpoints:
        checkpoints.save(3, spread, Nowhere(), {})
        for placement in (place((1, 8, 1)), ONE_DEVICE):
            restored = checkpoints.restore_newest(like(placement), Nowhere(), print)
            assert restored is not None
            chex.assert_trees_all_equal(restored[0], state)
            jax.tree.map(lambda x, y: _assert_lies(x, y.sharding), restored[0], like(placement))


def test_validation_on_a_mesh_is_that_of_one_device() -> None:
    definition, _ = abstract_llama(MODEL)
    params, placement = init_llama(MODEL, 0), place((2, 2, 2))
    spread = jax.device_put(params, placement.shardings(lambda: params))
    rows = BATCHES.reshape(-1, 17)[:29]
    alone = make_validate(definition, rows, 8)(params).loss
    together = make_validate(definition, rows, 8, placement=placement)(spread).loss
    assert together == pytest.approx(alone, rel=1e-6)


def test_impossible_meshes_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"--mesh 2 2 1 is for 4 devices, but .* is 8 .* 8 1 1, 1 8 1"
    ):
        place((2, 2, 1))
    with pytest.raises(InputError, match=r"--mesh -8 -1 1 .* positive"):
        place((-8, -1, 1))
    assert place((1, 1, 1)) is ONE_DEVICE


def test_indivisible_batches_heads_and_weights_are_refused() -> None:
    setup = experiment_of(microbatches=4).setup
    with pytest.raises(InputError, match=r"2 rows.* among 8 .* --batch-size as a multiple of 32"):
        place((8, 1, 1)).check(setup)
    with pytest.raises(InputError, match=r"2 attention heads .* among 4"):
        place((1, 2, 4)).check(setup)
    ONE_DEVICE.check(setup)
    odd = experiment_of(model=dataclasses.replace(MODEL, mlp=25))
    with pytest.raises(InputError, match=r"params/layers/mlp/down/kernel of shape \(3, 25, 16\)"):
        place((2, 2, 2)).shardings(lambda: initial_state(odd))


def test_leaf_that_no_spec_covers_is_refused() -> None:
    with pytest.raises(InputError, match=r"adapter/kernel of shape \(16, 4\)"):
        place((1, 8, 1)).shardings(lambda: {"adapter": {"kernel": np.zeros((16, 4))}})
