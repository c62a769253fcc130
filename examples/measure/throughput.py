"""How fast a step is with each optimizer: `python -m examples.measure.throughput`."""

import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from examples.llama.config import (
    Experiment,
    InputError,
    OptimizerConfig,
    OptimizerName,
    Setup,
    as_json,
)
from examples.llama.flops import utilization
from examples.llama.optimizers import OPTIMIZERS
from examples.llama.presets import resolve
from examples.llama.run.command import run_command
from examples.llama.run.options import Checked, Count
from examples.llama.run.stop import end_quietly
from examples.llama.step import initial_state, make_train_step
from examples.measure.footprint import GIB, device_memory, kept, random_rows
from examples.measure.pictures import draw_ratios, height_of_ratios, name_lines, panels
from examples.measure.results import write_results
from examples.measure.tables import Table, table, unique
from examples.measure.timing import NOTE, REFERENCE, Spread, Turn, ratios, spread, take_turns

_NOTES = (
    NOTE,
    "The speed is this machine's, and the optimizer's share of a step falls as the batch grows.",
)


@dataclass(frozen=True)
class Command(Checked):
    """Measure the tokens per second of the whole train step, and the model FLOPs utilization.

    The optimizers take turns in one process: one step of each is a round, in another order every
    time. What counts is the ratio to AdamW within a round, which a machine that is now faster and
    now slower changes little. Tokens are random and rates are the defaults, as neither changes the
    speed; nothing is saved. The utilization is known for the devices in `examples.llama.flops`, not
    for CPUs. The figures go to a JSON file, with a picture beside it.
    """

    optimizers: tuple[OptimizerName, ...] = tuple(OPTIMIZERS)
    """What to measure beside AdamW: optimizers, or variants such as sinkgd-momentum."""
    setup: Setup = field(default_factory=Setup)
    rounds: Count = 15
    """Rounds that count, after one that does not."""
    results: Path = Path("runs/throughput/throughput.json")
    """The file of all figures; the picture is written beside it, as .png."""


def check_memory(experiments: Mapping[str, Experiment]) -> None:
    """Refuse what cannot fit: to take turns, all weights and states are in memory together."""
    each = [kept(experiment) for experiment in experiments.values()]
    needed = sum(one.total_bytes for one in each)
    needed += max(one.weight_bytes for one in each)  # a gradient
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # a CPU reports no limit
    if needed > (limit := device_memory("bytes_limit") or machine):
        raise InputError(
            f"{len(each)} optimizers take turns, each with weights and a state of its own: at "
            f"least {needed / GIB:.1f} GiB together, but there are {limit / GIB:.1f}; "
            f"choose fewer --optimizers or a smaller model"
        )


def step_turn(experiment: Experiment) -> Turn:
    """A turn is one whole train step, with a state of its own."""
    setup = experiment.setup
    state = initial_state(experiment)
    step, rows_BxS = make_train_step(experiment), random_rows(setup)

    def turn() -> None:
        nonlocal state
        state = jax.block_until_ready(step(state, rows_BxS))[0]

    return turn


def compare(
    experiments: Mapping[str, Experiment], steps: Mapping[str, Sequence[float]]
) -> list[dict[str, Any]]:
    """The rows of the comparison, from the seconds of the steps, round by round."""
    rows = []
    for name, one in experiments.items():
        data = one.setup.data
        speed = spread([data.tokens_per_step / seconds for seconds in steps[name]])
        used = utilization(one.setup.model, data.sequence_length, speed.median, devices=1)
        rows.append(
            {
                "optimizer": name,
                "title": OPTIMIZERS[name].title,
                "options": {k: v for k, v in as_json(one.optimizer).items() if v is not None},
                "tokens_per_second": speed._asdict(),
                "speed_ratio": ratios(steps[REFERENCE], steps[name])._asdict(),
                "utilization": used,
                "step_seconds_by_round": [round(seconds, 6) for seconds in steps[name]],
            }
        )
    return rows


def make_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Tokens per second, and their ratio to the reference's."""
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "optimizer": lambda row: row["title"],
        "tokens/s": lambda row: f"{row['tokens_per_second']['median']:,.0f}",
        f"ratio to {OPTIMIZERS[REFERENCE].title}": lambda row: str(Spread(**row["speed_ratio"])),
    }
    if rows[0]["utilization"] is not None:
        columns["of the device's peak FLOPs"] = lambda row: f"{row['utilization']:.1%}"
    return table(rows, columns)


def draw(path: Path, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw the ratios of the speeds."""
    with panels(path, "Whole train steps", [height_of_ratios(len(rows), 1)]) as (axes,):
        label = f"tokens/s, ratio to {OPTIMIZERS[REFERENCE].title} (more is faster)"
        name_lines(axes, title, label, [row["title"] for row in rows])
        draw_ratios(axes, {"ratio": [Spread(**row["speed_ratio"]) for row in rows]})


def run(command: Command, console: Console) -> int:
    """Measure and report; return the exit code."""
    setup = command.setup
    experiments = {
        name: Experiment(resolve(OptimizerConfig(name), setup.preset), setup)
        for name in unique((REFERENCE, *command.optimizers))
    }
    check_memory(experiments)
    turns = {name: step_turn(experiment) for name, experiment in experiments.items()}
    steps = take_turns("whole steps", turns, lambda _: command.rounds, console)
    rows = compare(experiments, steps)
    console.print(make_table(rows), *_NOTES, sep="\n", soft_wrap=True)
    parameters = kept(experiments[REFERENCE]).parameters
    title = f"{parameters / 1e6:.2f} M parameters, {setup.data.tokens_per_step} tokens a step"
    draw(command.results.with_suffix(".png"), title, rows)
    figures = {"reference": REFERENCE, "rounds": command.rounds, "rows": rows}
    figures |= {"setup": as_json(setup), "notes": _NOTES}
    write_results(command.results, figures, console, picture=True)
    return 0


main = functools.partial(run_command, "examples.measure.throughput", Command, run)
"""Run the command line with these arguments; return the exit code."""

if __name__ == "__main__":
    end_quietly()
    sys.exit(main(None))
