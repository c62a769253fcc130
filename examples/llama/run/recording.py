"""The record of a run: its progress on the terminal, metrics.jsonl, trackers, a trace of steps."""

import contextlib
import json
import os
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from examples.llama.checkpoint import Identity
from examples.llama.config import Experiment, RunConfig, Setup
from examples.llama.loss import Validation
from examples.llama.mesh import Placement
from examples.llama.model import abstract_llama
from examples.llama.run.files import naming, write_atomically
from examples.llama.run.flops import flops_per_token, peak_flops
from examples.llama.run.folder import RunFolder
from examples.llama.run.processes import is_main_process
from examples.llama.run.tracking import track
from examples.llama.schedule import scheduled_rates

SKIPPED, TRACED = 3, 10
"""Steps before the trace of --profile, compilation among them, and in it."""


@dataclass(frozen=True)
class Step:
    """A step's metrics."""

    number: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Validated:
    """The weights after `number` steps, on the validation text."""

    number: int
    validation: Validation


def header(experiment: Experiment, placement: Placement, folder: Path) -> str:
    """Describe model, data, devices and folder in two lines."""
    setup, model, data = experiment.setup, experiment.setup.model, experiment.setup.data
    _, params = abstract_llama(model)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    return (
        f"{experiment.optimizer.name} trains a LLaMA of {parameters:,} parameters: "
        f"{model.layers} layers, width {model.hidden}, {model.heads} heads, {model.vocabulary} "
        f"tokens, {model.precision}\n"
        f"{setup.steps} steps of {data.batch_size} x {data.sequence_length} tokens on "
        f"{placement.devices} of {jax.device_count()} devices ({jax.devices()[0].device_kind}); "
        f"run folder {folder}"
    )


def figures(setup: Setup, devices: int, step: Step) -> str:
    """A step's loss, its speed, and the part of the devices' peak that it used if known."""
    speed = setup.data.tokens_per_step / step.seconds
    text = f"loss {step.loss:.4f}  {speed:,.0f} tokens/s"
    if peak := peak_flops(jax.devices()[0].device_kind):
        used = flops_per_token(setup.model, setup.data.sequence_length) * speed
        text += f"  {used / (peak * devices):.1%} of the peak FLOP/s"
    return text


def write_kept(path: Path, kept: str) -> bytes:
    """Write the lines that a checkpoint kept, compressed; return them."""
    lines = zlib.decompress(b64decode(kept)) if kept else b""
    write_atomically(path, lambda file: file.write(lines))
    return lines


class MetricsLog:
    """Appends a JSON line per event to a file; use it as a context manager.

    The file begins with the lines that a checkpoint kept, compressed: it follows from them,
    whatever became of the file before.
    """

    def __init__(self, path: Path, kept: str):
        before = write_kept(path, kept)
        self._path, self._compressor = path, zlib.compressobj()
        self._compressed = [self._compressor.compress(before)]
        with naming(path):
            self._file = path.open("ab")

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        # on a full disk, closing fails as the write before it did
        with naming(self._path) if kind is None else contextlib.suppress(OSError):
            self._file.close()

    def write(self, line: dict[str, Any]) -> None:
        """Append one line."""
        added = json.dumps(line, allow_nan=False).encode() + b"\n"
        with naming(self._path):
            self._file.write(added)
            self._file.flush()
        self._compressed.append(self._compressor.compress(added))

    def sync(self) -> str:
        """Write through to the disk; return all lines, compressed."""
        with naming(self._path):
            os.fsync(self._file.fileno())
        return b64encode(b"".join([*self._compressed, self._compressor.copy().flush()])).decode()


class Recording:
    """Shows and records what happens, in order, on process 0; use it as a context manager.

    On a terminal it shows a bar, elsewhere lines. `record` is that of the first `done` steps.
    """

    def __init__(
        self,
        experiment: Experiment,
        devices: int,
        folder: RunFolder,
        run: RunConfig,
        identity: Identity,
        done: int,
        record: Mapping[str, Any],
        console: Console,
    ):
        self._setup, self._devices, self._run, self._done = experiment.setup, devices, run, done
        self._folder, self._identity, self._console = folder, identity, console
        self._start = perf_counter() - record.get("elapsed_seconds", 0.0)
        self._rates = scheduled_rates(experiment.optimizer, experiment.setup)
        self._kept = record["metrics"] if record else ""
        self._open, self._trace = contextlib.ExitStack(), contextlib.ExitStack()
        self._has_bar = console.is_interactive and console.file.isatty()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._has_bar,
        )
        self._task = self._bar.add_task(
            experiment.optimizer.name, total=self._setup.steps, completed=done, figures=""
        )

    def __enter__(self) -> "Recording":
        if is_main_process():
            if self._run.profile and self._setup.steps - self._done <= SKIPPED:
                self._console.print(f"--profile skips {SKIPPED} steps: there will be no trace")
            elif self._run.profile:
                with naming(self._folder.profile):
                    self._folder.profile.mkdir(exist_ok=True)
            run, config = self._identity.run, self._identity.config
            tracked = track(self._run.track, self._folder.path, run, config, self._done)
            with self._open as opening:  # what was opened is closed if the next cannot be
                opening.enter_context(self._bar)
                self._log = opening.enter_context(MetricsLog(self._folder.metrics, self._kept))
                self._also_log = opening.enter_context(tracked)
                opening.enter_context(self._trace)
                self._open = opening.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def take(self, event: Step | Validated) -> None:
        """Show and record an event."""
        if not is_main_process():
            return
        number, tokens = event.number, self._setup.data.tokens_per_step
        place = f"step {number}/{self._setup.steps}  "
        line: dict[str, Any] = {"step": number, "tokens": number * tokens}
        line["elapsed_seconds"] = self._elapsed()
        if isinstance(event, Validated):
            line |= event.validation.as_json()
            self._console.print(f"{place}{event.validation}", soft_wrap=True)
        else:
            line["loss"] = event.loss
            line |= self._rates(number)
            line["tokens_per_second"] = round(tokens / event.seconds, 1)
            text = figures(self._setup, self._devices, event)
            self._bar.update(self._task, completed=number, figures=text)
            if not self._has_bar and number % self._run.log_every == 0:
                self._console.print(f"{place}{text}", soft_wrap=True)
            if self._run.profile and number == self._done + SKIPPED + 1:
                jax.profiler.start_trace(str(self._folder.profile))
                self._trace.callback(jax.profiler.stop_trace)
            elif number == self._done + SKIPPED + TRACED + 1:
                self._trace.close()
        self._log.write(line)
        self._also_log(line)

    def sync(self) -> dict[str, Any]:
        """Write the record through to the disk; return it, for a checkpoint to keep."""
        if not is_main_process():
            return {}
        return {"metrics": self._log.sync(), "elapsed_seconds": self._elapsed()}

    def _elapsed(self) -> float:
        return round(perf_counter() - self._start, 3)
