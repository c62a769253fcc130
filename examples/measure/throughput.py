"""How fast a step is with each optimizer: `python -m examples.measure.throughput`."""

from examples.llama.run.stop import end_quietly

if __name__ == "__main__":
    end_quietly()

import os
import sys
from collections.abc import Mapping, Sequence
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
from examples.llama.optimizers import OPTIMIZERS
from examples.llama.presets import resolve
from examples.llama.run.command import run_command
from examples.llama.run.flops import utilization
from examples.llama.run.options import Checked, Count
from examples.llama.step import initial_state, make_train_step
from examples.measure.footprint import GIB, kept, random_rows
from examples.measure.pictures import Ratios, plot_ratios
from examples.measure.results import write_results
from examples.measure.tables import Table, unique
from examples.measure.timing import NOTE, Spread, Turn, ratios, spread, take_turns

REFERENCE = "adamw"
"""The optimizer that all others are compared with; it always takes part."""

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


def device_memory() -> int:
    """Bytes of memory of the first device; on a CPU, of the machine."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory(experiments: Mapping[str, Experiment]) -> None:
    """Refuse what cannot fit: to take turns, all weights and states are in memory together."""
    each = [kept(experiment) for experiment in experiments.values()]
    needed = sum(one.total_bytes for one in each)
    needed += max(one.weight_bytes for one in each)  # a gradient
    if needed > device_memory():
        raise InputError(
            f"{len(each)} optimizers take turns, each with weights and a state of its own: at "
            f"least {needed / GIB:.1f} GiB together, but there are {device_memory() / GIB:.1f}; "
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
    return [
        {
            "optimizer": name,
            "title": OPTIMIZERS[name].title,
            "options": {k: v for k, v in as_json(one.optimizer).items() if v is not None},
            "tokens_per_second": spread(
                [one.setup.data.tokens_per_step / seconds for seconds in steps[name]]
            )._asdict(),
            "speed_ratio": ratios(steps[REFERENCE], steps[name])._asdict(),
            "utilization": utilization(
                one.setup.model,
                one.setup.data.sequence_length,
                one.setup.data.tokens_per_step / spread(steps[name]).median,
                devices=1,
            ),
            "step_seconds_by_round": [round(seconds, 6) for seconds in steps[name]],
        }
        for name, one in experiments.items()
    ]


def make_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Tokens per second, and their ratio to the reference's."""
    heads, lines = ["optimizer", "tokens/s", f"ratio to {OPTIMIZERS[REFERENCE].title}"], []
    for row in rows:
        speed, ratio = row["tokens_per_second"]["median"], Spread(**row["speed_ratio"])
        lines.append([row["title"], f"{speed:,.0f}", str(ratio)])
        if (used := row.get("utilization")) is not None:
            lines[-1].append(f"{used:.1%}")
    known = len(lines[0]) > len(heads)
    return Table([*heads, *["of the device's peak FLOPs"] * known], lines)


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
    parameters, tokens = kept(experiments[REFERENCE]).parameters, setup.data.tokens_per_step
    panel = Ratios(
        f"{parameters / 1e6:.2f} M parameters, {tokens} tokens a step",
        f"tokens/s, ratio to {OPTIMIZERS[REFERENCE].title} (more is faster)",
        [row["title"] for row in rows],
        {"ratio": [Spread(**row["speed_ratio"]) for row in rows]},
    )
    picture = command.results.with_suffix(".png")
    plot_ratios(picture, "Whole train steps", [panel])
    write_results(
        command.results,
        {
            "reference": REFERENCE,
            "rounds": command.rounds,
            "rows": rows,
            "setup": as_json(setup),
            "notes": _NOTES,
        },
    )
    console.print(f"Written: {command.results}, {picture}", soft_wrap=True)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command("examples.measure.throughput", Command, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
