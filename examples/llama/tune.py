"""A study of learning rates: `python -m examples.llama.tune`."""

import math
import signal
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from examples.llama.command import run_command
from examples.llama.config import CorpusConfig, InputError, OptimizerName, Setup
from examples.llama.corpus import load_corpus
from examples.llama.optimizers import RECIPES, rates_text
from examples.llama.plot import Curve, plot_study
from examples.llama.study import GRIDS, Grid, Study, edges, loss_of, search


@dataclass(frozen=True)
class Command:
    """Train with each optimizer at several rates, as often with one as with another.

    Optimizers with two rates are searched one rate after the other: rates of the matrices at one
    rate of the rest, then other rates of the rest at the best of them. Each try is written to the
    results file as soon as it is done, and a try that is there is not repeated: the same command
    goes on with a study that was stopped, and other rates can be added to it.
    """

    optimizers: tuple[OptimizerName, ...] = ("sinkgd", "swan", "adamw", "adamw2", "sgd")
    """What to tune."""
    show: bool = False
    """Show what the results file holds, and try nothing."""
    setup: Setup = field(default_factory=Setup)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    results: Path = Path("runs/tune.json")
    """The file of all tries; the picture has its name with .png."""
    learning_rates: tuple[float, ...] = ()
    """Rates to try instead of the built-in grid, for a single optimizer."""
    rest_learning_rates: tuple[float, ...] = ()
    """Rates of the rest to try instead of the built-in grid, for a single optimizer; the matrices'
    rates are tried at the first."""


def make_table(results: Mapping[OptimizerName, Sequence[dict[str, Any]]], steps: int) -> Table:
    """All tries and the best of each optimizer."""
    table = Table(title=f"Final validation loss after {steps} steps, one seed")
    table.add_column("optimizer")
    table.add_column("rates: matrices / rest")
    table.add_column("nats per byte", justify="right")
    table.add_column("")
    for name, tries in results.items():
        best = min(tries, key=loss_of)
        ordered = sorted(
            tries,
            key=lambda one: (
                one["optimizer"]["rest_learning_rate"] or 0.0,
                one["optimizer"]["learning_rate"],
            ),
        )
        for one in ordered:
            loss = f"{loss_of(one):.4f}"
            if one["validation_loss"] is None:
                loss = f"diverged at step {one['diverged_at_step']}"
            note = "; ".join(["best of its tries", *edges(tries)]) if one is best else ""
            style = "bold" if one is best else None
            table.add_row(
                RECIPES[name].title, rates_text(one["optimizer"]), loss, note, style=style
            )
        table.add_section()
    return table


def _curve(tries: Sequence[dict[str, Any]], key: str, fixed: str) -> Curve:
    """Loss against one rate; the other as in the most tries."""
    common = statistics.mode(one["optimizer"][fixed] for one in tries)
    along = [one for one in tries if one["optimizer"][fixed] == common]
    points = sorted(
        (one["optimizer"][key], math.nan if one["validation_loss"] is None else loss_of(one))
        for one in along
    )
    return [rate for rate, _ in points], [loss for _, loss in points]


def run(command: Command, console: Console) -> int:
    """Carry out the study; return the exit code."""
    own = command.learning_rates or command.rest_learning_rates
    if own and len(command.optimizers) != 1:
        raise InputError("--learning-rates and --rest-learning-rates need a single --optimizers")
    corpus = load_corpus(command.corpus, console)
    study = Study(command.results, command.setup, corpus, console)
    for name in () if command.show else command.optimizers:
        grid = Grid(
            command.learning_rates or GRIDS[name].learning_rates,
            command.rest_learning_rates or GRIDS[name].rest_learning_rates,
        )
        search(name, grid, study.attempt)
    results = {name: tries for name in command.optimizers if (tries := study.tries(name))}
    if not results:
        raise InputError(f"{command.results} has no tries of {', '.join(command.optimizers)}")
    console.print(make_table(results, command.setup.steps))
    rate, rest = "learning_rate", "rest_learning_rate"
    picture = command.results.with_suffix(".png")
    plot_study(
        picture,
        f"Final validation loss after {command.setup.steps} steps",
        {RECIPES[name].title: _curve(tries, rate, rest) for name, tries in results.items()},
        {
            RECIPES[name].title: _curve(tries, rest, rate)
            for name, tries in results.items()
            if RECIPES[name].has_two_rates
        },
    )
    console.print(f"Written: {command.results}, {picture}", soft_wrap=True)
    return 0


def _run_or_stop(command: Command, console: Console) -> int:
    try:
        return run(command, console)
    except KeyboardInterrupt:
        console.print(f"Stopped; the same command goes on after the tries in {command.results}")
        return 128 + signal.SIGINT


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command("examples.llama.tune", Command, _run_or_stop, arguments)


if __name__ == "__main__":
    sys.exit(main())
