"""Validate a trained model: `python -m examples.llama.evaluate --run-dir runs/sinkgd`."""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from examples.llama.run.command import run_command
from examples.llama.run.files import write_json
from examples.llama.run.options import Checked, InputError, Natural
from examples.llama.run.trained import TrainedConfig, load_trained
from examples.llama.train import prepare


@dataclass(frozen=True)
class Command(Checked):
    """The validation loss of a checkpoint, on the text of its training or on another.

    The loss is the sum over all predicted tokens divided by their number, padding left out.
    """

    trained: TrainedConfig = field(default_factory=TrainedConfig)
    validation_rows: Natural | None = None
    """Rows of validation text, 0 for all; by default as many as in training."""
    results: Path | None = None
    """File for the result, as JSON."""


def run(command: Command, console: Console) -> int:
    """Validate; return the exit code."""
    trained = load_trained(command.trained, console)
    if trained.changed_text:
        raise InputError(
            f"the text is not what {command.trained.run_dir} was trained on: it is now "
            f"{trained.corpus.name}; to evaluate on it, name it with --text or --corpus-root"
        )
    setup = trained.experiment.setup
    if command.validation_rows is not None:
        data = dataclasses.replace(setup.data, validation_rows=command.validation_rows)
        setup = dataclasses.replace(setup, data=data)
    task = prepare(dataclasses.replace(trained.experiment, setup=setup), trained.corpus)
    result = task.validate(trained.params)
    console.print(f"{command.trained.run_dir}, step {trained.step}: {result}", soft_wrap=True)
    if command.results is not None:
        found = {"step": trained.step, "corpus": trained.corpus.name, **result.as_json()}
        write_json(command.results, {"run": str(command.trained.run_dir), **found})
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command("examples.llama.evaluate", Command, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
