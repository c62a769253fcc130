"""Trackers that also get the metrics: TensorBoard, Weights & Biases."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from examples.llama.config import Tracker
from examples.llama.run.files import naming
from examples.llama.run.options import import_optional

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
    # not by SummaryWriter: it writes in a thread, of whose end on a full disk nobody would hear
    package, place = _package("tensorboard"), folder / "tensorboard"
    event, summary = package.proto.event_pb2, package.proto.summary_pb2.Summary
    name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"

    def write(step: int, **content: Any) -> None:
        line = event.Event(wall_time=time.time(), step=step, **content)
        with naming(place):
            writer.write(line.SerializeToString())

    def log(line: Mapping[str, Any]) -> None:
        values = [summary.Value(tag=k, simple_value=v) for k, v in _scalars(line).items()]
        write(line["step"], summary=summary(value=values))
        if "validation_loss" in line:
            with naming(place):
                writer.flush()  # for those who watch: the file is written in blocks

    with naming(place):
        place.mkdir(exist_ok=True)
        writer = package.record_writer.RecordWriter(str(place / name))
    try:
        write(0, file_version="brain.Event:2")
        # takes back what a killed run wrote after its checkpoint: those steps are repeated
        write(done + 1, session_log=event.SessionLog(status=event.SessionLog.START))
        yield log
    except BaseException:  # which is the one to hear of
        with contextlib.suppress(OSError):
            writer.close()
        raise
    with naming(place):
        writer.close()


@contextlib.contextmanager
def _wandb(folder: Path, run: str, config: Mapping[str, Any], done: int) -> Iterator[Log]:
    tracked = _package("wandb").init(
        id=run, name=folder.name, dir=str(folder), config=dict(config), resume="allow"
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
