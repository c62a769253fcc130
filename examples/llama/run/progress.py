"""Progress of a run on the terminal: a header, a bar or lines, and the events that they show."""

from dataclasses import dataclass
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from examples.llama.config import Experiment
from examples.llama.loss import Validation
from examples.llama.mesh import Placement
from examples.llama.model import abstract_llama
from examples.llama.run.flops import utilization


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
