"""The record of a run: metrics.jsonl, and everything else that gets its lines."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO, NamedTuple

from rich.console import Console

from examples.llama.config import Experiment, RunConfig
from examples.llama.run.folder import RunFolder
from examples.llama.run.processes import is_main_process
from examples.llama.run.profile import profile_steps
from examples.llama.run.progress import Reporter, Step, Validated
from examples.llama.run.records import naming
from examples.llama.run.tracking import track
from examples.llama.schedule import scheduled_rates


class MetricsLog:
    """Appends a JSON line per event; use it as a context manager."""

    def __init__(self, path: Path):
        """Name the file."""
        self._path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> "MetricsLog":
        with naming(self._path):
            self._file = self._path.open("ab")
            content = self._path.read_bytes()
        self._digest, self._lines = hashlib.sha256(content), content.count(b"\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        assert self._file is not None
        # on a full disk, closing fails as the write before it did
        with naming(self._path) if kind is None else contextlib.suppress(OSError):
            self._file.close()

    def write(self, line: dict[str, Any]) -> None:
        """Append one line."""
        assert self._file is not None
        content = json.dumps(line, allow_nan=False).encode() + b"\n"
        with naming(self._path):
            self._file.write(content)
            self._file.flush()
        self._digest.update(content)
        self._lines += 1

    def sync(self) -> dict[str, Any]:
        """Write through to the disk; return the mark that tells these lines from any others."""
        assert self._file is not None
        with naming(self._path):
            os.fsync(self._file.fileno())
        return {"lines": self._lines, "sha256": self._digest.hexdigest()}


class Recording(NamedTuple):
    """Takes what happened, in order."""

    record: Callable[[Step | Validated], None]
    """Show and record an event."""
    sync: Callable[[], dict[str, Any]]
    """Write the record through to the disk; return its mark, which a checkpoint keeps."""


@contextlib.contextmanager
def recording(
    experiment: Experiment,
    devices: int,
    folder: RunFolder,
    run: RunConfig,
    config: Mapping[str, Any],
    done: int,
    elapsed: float,
    console: Console,
) -> Iterator[Recording]:
    """Show and record a run after its first `done` steps, which took `elapsed` seconds.

    Process 0 does it; the others get a recording that does nothing.
    """
    if not is_main_process():
        yield Recording(lambda event: None, dict)
        return
    tokens_per_step = experiment.setup.data.tokens_per_step
    schedules = scheduled_rates(experiment.optimizer, experiment.setup)
    start = perf_counter() - elapsed

    def elapsed_seconds() -> dict[str, float]:
        return {"elapsed_seconds": round(perf_counter() - start, 3)}

    with (
        Reporter(console, experiment, devices, done, run.log_every) as bar,
        MetricsLog(folder.metrics) as log,
        track(run.track, folder.path, config, done) as also_log,
        profile_steps(folder.profile if run.profile else None) as profile,
    ):

        def record(event: Step | Validated) -> None:
            number = event.number
            line = {"step": number, "tokens": number * tokens_per_step, **elapsed_seconds()}
            if isinstance(event, Step):
                line["loss"] = event.loss
                line |= {name: float(rates[number - 1]) for name, rates in schedules.items()}
                line["tokens_per_second"] = round(tokens_per_step / event.seconds, 1)
                bar.step(event)
                profile(number)
            else:
                line |= event.validation.as_json()
                bar.validation(event)
            log.write(line)
            also_log(line)

        yield Recording(record, lambda: log.sync() | elapsed_seconds())
