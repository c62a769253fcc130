"""The benchmark of updates: `python -m examples.measure.bench`."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from examples.llama.config import InputError
from examples.llama.run.command import run_command
from examples.measure.bench import compilation, orthogonalizers, shapes, step
from examples.measure.bench.options import Command, Section
from examples.measure.results import write_results
from examples.measure.tables import unique

SECTIONS: Mapping[Section, Callable[[Command, Console], dict[str, Any]]] = {
    "step": step.measure,
    "shapes": shapes.measure,
    "baselines": step.measure_baselines,
    "compilation": lambda _, console: compilation.measure(console),
    "orthogonalizers": lambda _, console: orthogonalizers.measure(console),
}


def run(command: Command, console: Console) -> int:
    """Measure and report; return the exit code."""
    for option in ("sections", "presets"):
        if not getattr(command, option):
            raise InputError(f"--{option} names none; leave the option out to take all")
    found: dict[str, Any] = {}
    for section in unique(command.sections):
        console.rule(section)
        found[section] = SECTIONS[section](command, console)
        write_results(command.results, found)  # an error in the next section loses nothing
    console.print(f"Written: {command.results}", soft_wrap=True)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command("examples.measure.bench", Command, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
