"""How fast a step is with each optimizer: `python -m examples.llama.throughput`."""

from examples.llama.run.stop import end_quietly

if __name__ == "__main__":
    end_quietly()

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table

from examples.llama.config import Experiment, Setup
from examples.llama.costs.candidates import CANDIDATES, Candidate, choose
from examples.llama.costs.footprint import kept
from examples.llama.costs.plot import RatioBar, RatioPanel, plot_throughput
from examples.llama.costs.rounds import ratios, rounds_of, spread
from examples.llama.costs.turns import Turn, check_memory, gradients_of, step_turn, update_turn
from examples.llama.figures import figures_table
from examples.llama.run.command import run_command
from examples.llama.run.environment import machine, versions
from examples.llama.run.options import Checked, Count, as_json
from examples.llama.run.records import write_json

REFERENCE = "adamw"
"""The optimizer that all others are compared with; it always takes part."""

_WARM_UP = 1
"""Rounds left out after the compilation."""

_NOTES = (
    "Ratios are taken within each round, so that what slows the machine for a while slows both "
    "sides; shown are the median over the rounds and, in brackets, the quartiles.",
    "The speed is this machine's, and the optimizer's share of a step falls as the batch grows.",
)


@dataclass(frozen=True)
class Command(Checked):
    """Measure the tokens per second of the whole train step, and the optimizer's update alone.

    The optimizers take turns in one process: one step of each is a round, in another order every
    time. What counts is the ratio to AdamW within a round, which a machine that is now faster and
    now slower changes little. Text and rates are no matter of speed: tokens are random, rates are
    the defaults, nothing is saved. The figures go to a JSON file, with a picture beside it.
    """

    optimizers: tuple[str, ...] = tuple(CANDIDATES)
    """What to measure beside AdamW: optimizers, or variants of some."""
    setup: Setup = field(default_factory=Setup)
    rounds: Count = 15
    """Rounds that count, after one that does not."""
    results: Path = Path("runs/throughput/throughput.json")
    """The file of all figures; the picture is written beside it, as .png."""


def take_turns(
    what: str,
    turns: Mapping[str, Turn],
    candidates: Mapping[str, Candidate],
    rounds: int,
    console: Console,
) -> dict[str, list[float]]:
    """Seconds of every turn in the rounds that count."""
    console.rule(what)
    for name, turn in turns.items():
        with console.status(f"compiling {candidates[name].title}"):
            start = perf_counter()
            turn()
        seconds = perf_counter() - start
        console.print(f"{candidates[name].title}: compiled and run once in {seconds:.1f} s")
    counted = []
    console.print(f"{_WARM_UP + rounds} rounds, {rounds} of them count")
    with console.status("") as status:
        for number, seconds_of in enumerate(rounds_of(turns, _WARM_UP + rounds)):
            status.update(f"{number + 1} of {_WARM_UP + rounds} rounds done")
            if number >= _WARM_UP:
                counted.append(seconds_of)
    return {name: [seconds_of[name] for seconds_of in counted] for name in turns}


def compare(
    candidates: Mapping[str, Candidate],
    steps: Mapping[str, Sequence[float]],
    updates: Mapping[str, Sequence[float]],
    tokens: int,
) -> list[dict[str, Any]]:
    """The rows of the comparison; ratios are spreads over the rounds.

    Args:
        candidates: the optimizers that took part.
        steps: seconds of the whole steps, round by round.
        updates: seconds of the updates alone.
        tokens: tokens in a step.
    """
    return [
        {
            "optimizer": name,
            "title": candidate.title,
            "options": {k: v for k, v in as_json(candidate.optimizer).items() if v is not None},
            "tokens_per_second": spread([tokens / seconds for seconds in steps[name]]),
            "speed_ratio": ratios(steps[REFERENCE], steps[name]),
            "update_seconds": spread(updates[name]),
            "update_ratio": ratios(updates[name], updates[REFERENCE]),
            "step_seconds_by_round": [round(seconds, 6) for seconds in steps[name]],
            "update_seconds_by_round": [round(seconds, 6) for seconds in updates[name]],
        }
        for name, candidate in candidates.items()
    ]


def make_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Lay the rows out for a terminal."""
    return figures_table(
        ["", "tokens/s of a step", "ratio", "ms of an update", "ratio"],
        [
            [
                row["title"],
                f"{row['tokens_per_second'].median:,.0f}",
                str(row["speed_ratio"]),
                f"{1e3 * row['update_seconds'].median:.2f}",
                str(row["update_ratio"]),
            ]
            for row in rows
        ],
        title=f"Ratios are to {CANDIDATES[REFERENCE].title}",
    )


def draw(path: Path, title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Draw both ratios."""
    reference = CANDIDATES[REFERENCE].title

    def bars(key: str) -> list[RatioBar]:
        return [RatioBar(r["title"], r[key].low, r[key].median, r[key].high) for r in rows]

    whole = RatioPanel(
        "Whole train step", f"tokens/s, ratio to {reference} (more is faster)", bars("speed_ratio")
    )
    alone = RatioPanel(
        "The optimizer's update alone",
        f"time, ratio to {reference} (less is faster)",
        bars("update_ratio"),
        logarithmic=True,
    )
    plot_throughput(path, title, [whole, alone])


def run(command: Command, console: Console) -> int:
    """Measure and report; return the exit code."""
    setup = command.setup
    candidates = choose((REFERENCE, *command.optimizers), setup.preset)
    experiments = {name: Experiment(one.optimizer, setup) for name, one in candidates.items()}
    check_memory(experiments)
    steps = take_turns(
        "Whole steps",
        {name: step_turn(experiment) for name, experiment in experiments.items()},
        candidates,
        command.rounds,
        console,
    )
    gradients = gradients_of(setup)
    updates = take_turns(
        "Updates alone",
        {name: update_turn(experiment, gradients) for name, experiment in experiments.items()},
        candidates,
        command.rounds,
        console,
    )
    rows = compare(candidates, steps, updates, setup.data.tokens_per_step)
    console.print(make_table(rows))
    console.print(*_NOTES, sep="\n", soft_wrap=True)
    picture = command.results.with_suffix(".png")
    parameters = kept(experiments[REFERENCE]).parameters
    tokens = setup.data.tokens_per_step
    draw(picture, f"{parameters / 1e6:.2f} M parameters, {tokens} tokens a step", rows)
    write_json(
        command.results,
        {
            "reference": REFERENCE,
            "rounds": command.rounds,
            "rows": [
                {key: vars(v) if hasattr(v, "median") else v for key, v in row.items()}
                for row in rows
            ],
            "setup": as_json(setup),
            "notes": _NOTES,
            "versions": versions(),
            "machine": machine(),
        },
    )
    console.print(f"Written: {command.results}, {picture}", soft_wrap=True)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command("examples.llama.throughput", Command, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
