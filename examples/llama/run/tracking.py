"""Trackers that also get the metrics: TensorBoard, Weights & Biases."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from examples.llama.config import Tracker
from examples.llama.run.options import import_optional
from examples.llama.run.records import naming

Log = Callable[[Mapping[str, Any]], None]
"""Takes a line of metrics.jsonl."""


_PACKAGES: Mapping[Tracker, str] = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def _package(tracker: Tracker) -> ModuleType:
    return import_optional(_PACKAGES[tracker], _PACKAGES[tracker], f"--track {tracker}")


def check_packages(trackers: Sequence[Tracker]) -> None:
    """Import the packages of these trackers; one that is not installed is an `InputError`."""
    for tracker in trackers:
        _package(tracker)


def _scalars(line: Mapping[str, Any]) -> dict[str, float]:
    return {k: v for k, v in line.items() if k != "step" and isinstance(v, int | float)}


@contextlib.contextmanager
def _tensorboard(folder: Path, run: str, config: Mapping[str, Any], done: int) -> Iterator[Log]:
    place, others, hook = folder / "tensorboard", set(threading.enumerate()), threading.excepthook
    own: set[threading.Thread] = set()
    failed: list[OSError] = []

    def remember(error: threading.ExceptHookArgs) -> None:
        """Keep what ends the writer's thread, which nobody would hear of."""
        ours = error.thread in own or not own
        if ours and isinstance(error.exc_value, OSError):
            failed.append(error.exc_value)
        else:
            hook(error)

    def check() -> None:
        with naming(place):
            if failed:
                raise failed[0]

    def log(line: Mapping[str, Any]) -> None:
        check()
        for name, value in _scalars(line).items():
            writer.add_scalar(name, value, line["step"])

    threading.excepthook = remember
    try:
        # purges what a killed run wrote after its checkpoint: those steps are repeated; a queue of
        # 1000, because nothing makes room in it when its thread has failed
        make = _package("tensorboard").SummaryWriter
        with naming(place):
            writer = make(str(place), purge_step=done + 1, max_queue=1000)
        own = set(threading.enumerate()) - others
        try:
            yield log
        except BaseException:  # which is the one to hear of
            with contextlib.suppress(OSError):
                writer.close()
            raise
        with naming(place):
            writer.close()
        check()
    finally:
        threading.excepthook = hook


@contextlib.contextmanager
def _wandb(folder: Path, run: str, config: Mapping[str, Any], done: int) -> Iterator[Log]:
    tracked = _package("wandb").init(
        id=run,
        name=folder.name,
        dir=str(folder),
        config=dict(config),
        resume="allow",
    )
    try:
        yield lambda line: tracked.log(_scalars(line), step=line["step"])
    finally:
        tracked.finish()


_TRACKERS = {"tensorboard": _tensorboard, "wandb": _wandb}


@contextlib.contextmanager
def track(
    trackers: Sequence[Tracker], folder: Path, run: str, config: Mapping[str, Any], done: int
) -> Iterator[Log]:
    """Open the trackers for the run of this name in `folder`, of which `done` steps are done."""
    with contextlib.ExitStack() as stack:
        logs = [
            stack.enter_context(_TRACKERS[name](folder, run, config, done))
            for name in dict.fromkeys(trackers)
        ]

        def log(line: Mapping[str, Any]) -> None:
            for each in logs:
                each(line)

        yield log
