"""Short trainings, how far apart two of them end, and how to stop one."""

import os
import signal
from typing import Any

import jax
import numpy as np
import pytest

from examples.llama.config import Experiment
from examples.llama.mesh import ONE_DEVICE, Placement
from examples.llama.run.recording import Reporter
from examples.llama.step import TrainState, initial_state, make_train_step
from examples.llama.train import Step


def trajectory(
    experiment: Experiment,
    batches: np.ndarray,
    placement: Placement = ONE_DEVICE,
    *,
    layerwise: bool = False,
) -> tuple[list[float], TrainState]:
    """The loss of each batch, and the last state."""
    state = placement.create(lambda: initial_state(experiment, layerwise=layerwise))
    step, losses = make_train_step(experiment, placement, layerwise=layerwise), []
    for rows in batches:
        state, loss = step(state, rows)
        losses.append(float(loss))
    return losses, state


def distance(a: Any, b: Any) -> float:
    """The largest root mean square of a leaf's difference."""
    return max(
        float(np.sqrt(np.mean((np.float32(x) - np.float32(y)) ** 2)))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process SIGINT, as Ctrl-C does, when the metrics of a step are shown."""
    show = Reporter.step

    def show_and_signal(self: Any, event: Step) -> None:
        show(self, event)
        if event.number == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Reporter, "step", show_and_signal)
