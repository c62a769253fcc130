"""How a run is shown and recorded: progress, metrics.jsonl, trackers, a trace."""

import contextlib
import hashlib
import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any, BinaryIO

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from examples.llama.config import Experiment, RunConfig, Tracker
from examples.llama.flops import utilization
from examples.llama.loss import Validation
from examples.llama.mesh import Placement
from examples.llama.model import abstract_llama
from examples.llama.run.folder import RunFolder
from examples.llama.run.options import InputError
from examples.llama.run.processes import is_main_process
from examples.llama.run.records import naming
from examples.llama.schedule import scheduled_rates


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


class Reporter:
    """Shows a bar on a terminal, plain lines elsewhere; use it as a context manager."""

    def __init__(
        self, console: Console, experiment: Experiment, devices: int, done: int, every: int
    ):
        """Prepare for a run that has done `done` steps, and a line every `every` steps."""
        self._console, self._every, self._setup = console, every, experiment.setup
        self._devices = devices
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(
            experiment.optimizer.name, total=self._setup.steps, completed=done, figures=""
        )

    def __enter__(self) -> "Reporter":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def step(self, step: Step) -> None:
        """Show a step: its loss, its speed, and the part of the devices' peak that it used."""
        data = self._setup.data
        speed = data.tokens_per_step / step.seconds
        used = utilization(self._setup.model, data.sequence_length, speed, self._devices)
        figures = f"loss {step.loss:.4f}  {speed:,.0f} tokens/s"
        figures += "" if used is None else f"  {used:.1%} of the peak FLOP/s"
        self._bar.update(self._task, completed=step.number, figures=figures)
        if not self._console.is_terminal and step.number % self._every == 0:
            self._console.print(f"step {step.number}/{self._setup.steps}  {figures}")

    def validation(self, event: Validated) -> None:
        """Show a validation."""
        self._console.print(f"step {event.number}/{self._setup.steps}  {event.validation}")


Log = Callable[[Mapping[str, Any]], None]
"""Takes a line of metrics.jsonl."""


def _import(package: str, tracker: Tracker) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"--track {tracker} needs the package {package}: pip install {package}"
        ) from error


def _scalars(line: Mapping[str, Any]) -> dict[str, float]:
    return {k: v for k, v in line.items() if k != "step" and isinstance(v, int | float)}


@contextlib.contextmanager
def _tensorboard(folder: Path, config: Mapping[str, Any], done: int) -> Iterator[Log]:
    # purges what a killed run wrote after its checkpoint: those steps are repeated
    writer = _import("tensorboardX", "tensorboard").SummaryWriter(
        str(folder / "tensorboard"), purge_step=done + 1
    )

    def log(line: Mapping[str, Any]) -> None:
        for name, value in _scalars(line).items():
            writer.add_scalar(name, value, line["step"])

    with contextlib.closing(writer):
        yield log


@contextlib.contextmanager
def _wandb(folder: Path, config: Mapping[str, Any], done: int) -> Iterator[Log]:
    # the same folder resumes the same run
    run = _import("wandb", "wandb").init(
        id=hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16],
        name=folder.name,
        dir=str(folder),
        config=dict(config),
        resume="allow",
    )
    try:
        yield lambda line: run.log(_scalars(line), step=line["step"])
    finally:
        run.finish()


_TRACKERS = {"tensorboard": _tensorboard, "wandb": _wandb}


@contextlib.contextmanager
def track(
    trackers: Sequence[Tracker], folder: Path, config: Mapping[str, Any], done: int
) -> Iterator[Log]:
    """Open the trackers for a run in `folder` of which `done` steps are done."""
    with contextlib.ExitStack() as stack:
        logs = [
            stack.enter_context(_TRACKERS[name](folder, config, done))
            for name in dict.fromkeys(trackers)
        ]

        def log(line: Mapping[str, Any]) -> None:
            for each in logs:
                each(line)

        yield log


_SKIPPED, _TRACED = 3, 10
"""Steps before the trace, compilation among them, and in it."""


@contextlib.contextmanager
def profile_steps(folder: Path | None) -> Iterator[Callable[[int], None]]:
    """Give a function to call with each step's number; it traces some steps into `folder`.

    The trace starts a few steps after the first call, so it leaves out compilation, and stops ten
    steps later or with the training. Nothing happens if `folder` is None.
    """
    first: int | None = None
    tracing = False

    def step(number: int) -> None:
        nonlocal first, tracing
        first = number if first is None else first
        if folder is not None and number == first + _SKIPPED:
            jax.profiler.start_trace(str(folder))
            tracing = True
        elif tracing and number == first + _SKIPPED + _TRACED:
            jax.profiler.stop_trace()
            tracing = False

    try:
        yield step
    finally:
        if tracing:
            jax.profiler.stop_trace()


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


class Recording:
    """Takes what happened, in order; this one shows and keeps nothing."""

    def __call__(self, event: Step | Validated) -> None:
        """Show and record an event."""

    def sync(self) -> dict[str, Any]:
        """Write the record through to the disk; return its mark, which a checkpoint keeps."""
        return {}


class _Kept(Recording):
    def __init__(
        self,
        experiment: Experiment,
        elapsed: float,
        bar: Reporter,
        log: MetricsLog,
        track: Log,
        profile: Callable[[int], None],
    ):
        self._tokens_per_step = experiment.setup.data.tokens_per_step
        self._rates = scheduled_rates(experiment.optimizer, experiment.setup)
        self._start = perf_counter() - elapsed
        self._bar, self._log, self._track, self._profile = bar, log, track, profile

    @property
    def _elapsed_seconds(self) -> float:
        return round(perf_counter() - self._start, 3)

    def __call__(self, event: Step | Validated) -> None:
        line: dict[str, Any] = {
            "step": event.number,
            "tokens": event.number * self._tokens_per_step,
            "elapsed_seconds": self._elapsed_seconds,
        }
        if isinstance(event, Step):
            line["loss"] = event.loss
            line |= {name: float(rates[event.number - 1]) for name, rates in self._rates.items()}
            line["tokens_per_second"] = round(self._tokens_per_step / event.seconds, 1)
            self._bar.step(event)
            self._profile(event.number)
        else:
            line |= event.validation.as_json()
            self._bar.validation(event)
        self._log.write(line)
        self._track(line)

    def sync(self) -> dict[str, Any]:
        return self._log.sync() | {"elapsed_seconds": self._elapsed_seconds}


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
        yield Recording()
        return
    with (
        Reporter(console, experiment, devices, done, run.log_every) as bar,
        MetricsLog(folder.metrics) as log,
        track(run.track, folder.path, config, done) as also_log,
        profile_steps(folder.profile if run.profile else None) as profile,
    ):
        yield _Kept(experiment, elapsed, bar, log, also_log, profile)
