"""How fast a step is with each optimizer: `python -m examples.measure.throughput`."""

import functools
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from examples.llama.config import Experiment, InputError, OptimizerConfig, OptimizerName, Setup
from examples.llama.optimizers import OPTIMIZERS
from examples.llama.presets import resolved
from examples.llama.run.command import run_command
from examples.llama.run.flops import flops_per_token, peak_flops
from examples.llama.run.options import Checked, Count, as_json, check_names
from examples.llama.step import initial_state, make_train_step
from examples.measure.footprint import GIB, device_memory, kept, random_rows
from examples.measure.pictures import draw_ratios, height_of_ratios, name_lines, panels
from examples.measure.results import check_results, write_results
from examples.measure.tables import Table, table, unique
from examples.measure.timing import NOTE, REFERENCE, Spread, Turn, competitors, ratios, take_turns

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
    speed; nothing is saved. The utilization is known for the devices in
    `examples.llama.run.flops`, not for CPUs. The figures go to a JSON file, with a picture beside
    it.
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


Group = Mapping[str, Any]


def speed_ratios(group: Group) -> dict[str, Spread]:
    """Tokens per second over the reference's, by optimizer."""
    times = {name: one["seconds_by_round"] for name, one in group["competitors"].items()}
    return {name: ratios(times[REFERENCE], each) for name, each in times.items()}


def make_table(group: Group) -> Table:
    """Tokens per second, and their ratio to the reference's."""
    found = speed_ratios(group)

    def speed(name: str) -> float:
        return group["tokens_per_step"] / group["competitors"][name]["seconds"]["median"]

    columns: dict[str, Callable[[str], str]] = {
        "optimizer": lambda name: group["competitors"][name]["title"],
        "tokens/s": lambda name: f"{speed(name):,.0f}",
        f"ratio to {OPTIMIZERS[REFERENCE].title}": lambda name: str(found[name]),
    }
    if group["peak_flops"] is not None:
        used = group["flops_per_token"] / group["peak_flops"]
        columns["of the device's peak FLOPs"] = lambda name: f"{speed(name) * used:.1%}"
    return table(found, columns)


def draw(path: Path, group: Group) -> None:
    """Draw the ratios of the speeds."""
    found = speed_ratios(group)
    with panels(path, "Whole train steps", [height_of_ratios(len(found), 1)]) as (axes,):
        label = f"tokens/s, ratio to {OPTIMIZERS[REFERENCE].title} (more is faster)"
        title = f"{group['parameters'] / 1e6:.2f} M parameters, {group['tokens_per_step']} tokens"
        names = [one["title"] for one in group["competitors"].values()]
        name_lines(axes, f"{title} a step", label, names)
        draw_ratios(axes, {"ratio": list(found.values())})


def run(command: Command, console: Console) -> int:
    """Measure and report; return the exit code."""
    check_results(command.results, ".png")
    check_names("--optimizers", command.optimizers, OPTIMIZERS)
    setup = command.setup
    experiments = {
        name: resolved(Experiment(OptimizerConfig(name), setup))
        for name in unique((REFERENCE, *command.optimizers))
    }
    check_memory(experiments)
    turns = {name: step_turn(experiment) for name, experiment in experiments.items()}
    seconds = take_turns("whole steps", turns, lambda _: command.rounds, console)
    group = {
        "setup": as_json(setup),
        "parameters": kept(experiments[REFERENCE]).parameters,
        "tokens_per_step": setup.data.tokens_per_step,
        "flops_per_token": flops_per_token(setup.model, setup.data.sequence_length),
        "peak_flops": peak_flops(jax.devices()[0].device_kind),
        "competitors": competitors(seconds, {name: OPTIMIZERS[name].title for name in seconds}),
    }
    console.print(make_table(group), *_NOTES, sep="\n", soft_wrap=True)
    draw(command.results.with_suffix(".png"), group)
    write_results(command.results, {**group, "notes": _NOTES}, console, picture=True)
    return 0


main = functools.partial(run_command, "examples.measure.throughput", Command, run)
"""Run the command line with these arguments; return the exit code."""

if __name__ == "__main__":
    sys.exit(main(None))
