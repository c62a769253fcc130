"""What each variant costs in each cell: time by turns, bytes of state, peak memory of a step."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.llama.costs.footprint import compiled, kept
from examples.llama.costs.rounds import ratios, rounds_of
from examples.llama.costs.turns import step_turn
from examples.llama.environment import machine, versions
from examples.llama.records import write_json
from examples.llama.study.plan import CELLS, REFERENCE, VARIANTS
from examples.llama.study.schedule import Due, experiment_of

_WARM_UP, _ROUNDS = 1, 7

Costs = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By cell and variant."""


def costs_path(results: Path) -> Path:
    """Where the costs are kept, beside the file of the runs."""
    return results.with_name(f"{results.stem}_costs.json")


def read_costs(results: Path) -> Costs:
    """The costs that were measured, perhaps none."""
    path = costs_path(results)
    return json.loads(path.read_text())["costs"] if path.exists() else {}


def measure_costs(
    cells: Sequence[str], variants: Sequence[str], results: Path, console: Console
) -> None:
    """Measure, and write the file; the variants take turns, so that all see the same machine."""
    costs: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in cells:
        setup = CELLS[cell].setup
        experiments = {
            name: experiment_of(Due(cell, name, VARIANTS[name].start, seed=0))
            for name in dict.fromkeys((REFERENCE, *variants))
        }
        turns = {name: step_turn(experiment) for name, experiment in experiments.items()}
        with console.status(f"{cell}: compiling and {_ROUNDS} rounds"):
            rounds = list(rounds_of(turns, _WARM_UP + 1 + _ROUNDS))[_WARM_UP + 1 :]
        reference = [seconds[REFERENCE] for seconds in rounds]
        costs[cell] = {}
        for name, experiment in experiments.items():
            with console.status(f"{cell}: memory of {VARIANTS[name].title}"):
                plan = compiled(experiment, setup.data.sequence_length + 1)
            bytes_kept = kept(experiment)
            seconds = [one[name] for one in rounds]
            costs[cell][name] = {
                "seconds_per_step": statistics.median(seconds),
                "time_ratio": vars(ratios(seconds, reference)),
                "state_bytes": bytes_kept.state_bytes,
                "matrix_state_bytes": bytes_kept.matrix_state_bytes,
                "weight_bytes": bytes_kept.weight_bytes,
                "peak_bytes": plan.argument_bytes
                + plan.output_bytes
                - plan.alias_bytes
                + plan.temporary_bytes,
            }
            console.print(f"{cell}, {VARIANTS[name].title}: {statistics.median(seconds):.4f} s")
    content = {
        "costs": costs,
        "rounds": _ROUNDS,
        "versions": versions(),
        "machine": machine(),
    }
    write_json(costs_path(results), content)
