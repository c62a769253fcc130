"""What a run shows while it trains: a bar on a terminal, plain lines elsewhere."""

from pathlib import Path
from types import TracebackType

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from examples.llama.config import Experiment
from examples.llama.loop import Step
from examples.llama.loss import Validation
from examples.llama.mesh import Placement
from examples.llama.model import abstract_llama


def header(experiment: Experiment, placement: Placement, folder: Path) -> str:
    """What is trained, on what and where to, in two lines."""
    setup, model, data = experiment.setup, experiment.setup.model, experiment.setup.data
    _, params = abstract_llama(model)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    devices = 1 if placement.mesh is None else placement.mesh.size
    return (
        f"{experiment.optimizer.name} trains a LLaMA of {parameters:,} parameters: "
        f"{model.layers} layers, width {model.hidden}, {model.heads} heads, {model.vocabulary} "
        f"tokens, {model.precision}\n"
        f"{setup.steps} steps of {data.batch_size} x {data.sequence_length} tokens on {devices} "
        f"of {jax.device_count()} devices ({jax.devices()[0].device_kind}); run folder {folder}"
    )


class Reporter:
    """Shows steps and validations; use it as a context manager."""

    def __init__(
        self, console: Console, name: str, steps: int, done: int, tokens_per_step: int, every: int
    ):
        """Prepare for `steps` steps, `done` of them done, and a line every `every` steps."""
        self._console, self._steps, self._every = console, steps, every
        self._tokens_per_step = tokens_per_step
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TextColumn("loss {task.fields[loss]}  {task.fields[speed]} tokens/s"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(name, total=steps, completed=done, loss="-", speed="-")

    def __enter__(self) -> "Reporter":
        """Start the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the bar."""
        self._bar.stop()

    def step(self, step: Step) -> None:
        """Show a step."""
        speed = f"{self._tokens_per_step / step.seconds:,.0f}"
        self._bar.update(self._task, completed=step.number, loss=f"{step.loss:.4f}", speed=speed)
        if not self._console.is_terminal and step.number % self._every == 0:
            self._console.print(
                f"step {step.number}/{self._steps}  loss {step.loss:.4f}  {speed} tokens/s"
            )

    def validation(self, number: int, validation: Validation) -> None:
        """Show a validation."""
        self._console.print(f"step {number}/{self._steps}  {validation}")
