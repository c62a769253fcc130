"""Short trainings that tests share, how far apart two of them end, and how to stop one."""

import functools
import os
import signal
from typing import Any

import jax
import numpy as np
import pytest

from examples.llama.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, Setup
from examples.llama.mesh import ONE_DEVICE, Placement
from examples.llama.presets import resolve
from examples.llama.run.recording import Recording
from examples.llama.step import TrainState, initial_state, make_train_step
from examples.llama.train import Step

MODEL = ModelConfig(hidden=16, mlp=24, heads=2, layers=3)
BATCHES = np.random.default_rng(0).integers(0, 256, (4, 8, 17)).astype(np.int32)
BATCHES[:, 3, 9:] = -1  # padding, so that the rows of several devices do not count alike

COMBINED = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "rest": "sinkhorn"}
"""Options of SinkGD that are on together."""


def experiment_of(model: ModelConfig = MODEL, microbatches: int = 1, **options: Any) -> Experiment:
    """An experiment on `BATCHES`; tests that use the same one share its compiled steps."""
    data = DataConfig(batch_size=8, microbatches=microbatches, sequence_length=16)
    return Experiment(resolve(OptimizerConfig(**options)), Setup(model=model, data=data, steps=20))


def ordinary(**options: Any) -> tuple[list[float], TrainState, float]:
    """Losses and last state on one device, and how far rounding moves the weights.

    The same sums in other orders of the rows show what rounding does to an optimizer.
    """
    return _ordinary(tuple(options.items()))


@functools.cache
def _ordinary(options: tuple[tuple[str, Any], ...]) -> tuple[list[float], TrainState, float]:
    experiment = experiment_of(**dict(options))
    losses, state = trajectory(experiment, BATCHES)
    half = BATCHES.shape[1] // 2
    orders = BATCHES[:, ::-1], np.roll(BATCHES, half, axis=1)  # one alone may round alike by chance
    others = (trajectory(experiment, batches)[1] for batches in orders)
    return losses, state, max(distance(other.params, state.params) for other in others)


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
    show = Recording.take
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a script
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def show_and_signal(self: Any, event: Step) -> None:
        show(self, event)
        if isinstance(event, Step) and event.number == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Recording, "take", show_and_signal)
