"""Checkpoints of a run by orbax: weights, optimizer state, step, and the position in the data."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import grain
import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from examples.llama.loop import TrainState


class Checkpoints:
    """The newest few checkpoints below a folder; use it as a context manager."""

    def __init__(self, folder: Path, keep: int):
        """Open `folder`, which is created if need be."""
        self._checkpointer = ocp.training.Checkpointer(
            folder.absolute(),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the last save, then close."""
        self._checkpointer.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint, after any save under way has ended."""
        self._checkpointer.wait()
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: TrainState, batches: Iterator[np.ndarray]) -> None:
        """Save in the background; the state may be donated as soon as this returns."""
        # without force, orbax leaves a checkpoint out while the one before is still being written
        self._checkpointer.save_checkpointables_async(
            step, {"state": state, "data": batches}, force=True
        )

    def restore(self, step: int, like: TrainState, batches: grain.DatasetIterator) -> TrainState:
        """Load the state of `step`, shaped and sharded as `like`; move `batches` to its place."""
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like
        )
        loaded = self._checkpointer.load_checkpointables(step, {"state": abstract, "data": batches})
        return loaded["state"]
