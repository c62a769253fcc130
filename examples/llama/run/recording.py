"""The record of a run: metrics.jsonl, and everything else that gets its lines."""

import contextlib
import json
import os
import zlib
from base64 import b64decode, b64encode
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
from examples.llama.run.records import naming, write_atomically
from examples.llama.run.tracking import track
from examples.llama.schedule import scheduled_rates


class MetricsLog:
    """Appends a JSON line per event to a file; use it as a context manager.

    The file begins with the lines that a checkpoint kept, compressed: it follows from them,
    whatever became of the file before.
    """

    def __init__(self, path: Path, kept: str):
        self._path, self._before = path, zlib.decompress(b64decode(kept)) if kept else b""
        self._compressor = zlib.compressobj()
        self._compressed = [self._compressor.compress(self._before)]
        self._file: BinaryIO | None = None

    def __enter__(self) -> "MetricsLog":
        write_atomically(self._path, lambda file: file.write(self._before))
        with naming(self._path):
            self._file = self._path.open("ab")
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        assert self._file is not None
        # on a full disk, closing fails as the write before it did
        with naming(self._path) if kind is None else contextlib.suppress(OSError):
            self._file.close()

    def write(self, line: dict[str, Any]) -> None:
        """Append one line."""
        assert self._file is not None
        added = json.dumps(line, allow_nan=False).encode() + b"\n"
        with naming(self._path):
            self._file.write(added)
            self._file.flush()
        self._compressed.append(self._compressor.compress(added))

    def sync(self) -> str:
        """Write through to the disk; return all lines, compressed."""
        assert self._file is not None
        with naming(self._path):
            os.fsync(self._file.fileno())
        return b64encode(b"".join([*self._compressed, self._compressor.copy().flush()])).decode()


class Recording(NamedTuple):
    """Takes what happened, in order."""

    take: Callable[[Step | Validated], None]
    """Show and record an event."""
    sync: Callable[[], dict[str, Any]]
    """Write the record through to the disk; return it, for a checkpoint to keep."""


@contextlib.contextmanager
def recording(
    experiment: Experiment,
    devices: int,
    folder: RunFolder,
    run: RunConfig,
    config: Mapping[str, Any],
    done: int,
    record: Mapping[str, Any],
    console: Console,
) -> Iterator[Recording]:
    """Show and record a run after its first `done` steps, whose record is given.

    Process 0 does it; the others get a recording that does nothing.
    """
    if not is_main_process():
        yield Recording(lambda event: None, dict)
        return
    tokens_per_step = experiment.setup.data.tokens_per_step
    schedules = scheduled_rates(experiment.optimizer, experiment.setup)
    start = perf_counter() - record.get("elapsed_seconds", 0.0)

    def elapsed_seconds() -> dict[str, float]:
        return {"elapsed_seconds": round(perf_counter() - start, 3)}

    with (
        Reporter(console, experiment, devices, done, run.log_every) as bar,
        MetricsLog(folder.metrics, record["metrics"] if record else "") as log,
        track(run.track, folder.path, config, done) as also_log,
        profile_steps(folder.profile if run.profile else None) as profile,
    ):

        def take(event: Step | Validated) -> None:
            number = event.number
            line: dict[str, Any] = {
                "step": number,
                "tokens": number * tokens_per_step,
                **elapsed_seconds(),
            }
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

        def sync() -> dict[str, Any]:
            return {"metrics": log.sync(), **elapsed_seconds()}

        yield Recording(take, sync)
