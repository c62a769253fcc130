"""The benchmark: `python -m examples.benchmark`."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, get_args

import jax.numpy as jnp
from rich.console import Console

from examples.benchmark import memory, report, shapes, step
from examples.benchmark.plot import plot_ratios
from examples.llama.config import InputError, PresetName
from examples.llama.presets import PRESETS
from examples.llama.run.command import run_command
from examples.llama.run.environment import machine, versions
from examples.llama.run.records import read_json, write_json

Section = Literal["step", "shapes", "memory", "collectives", "baselines"]


@dataclass(frozen=True)
class Command:
    """Measure what the library costs, and hold it against what the project aims at.

    Times are ratios to AdamW's: the competitors take turns in one process, a step of each is a
    round, and ratios are taken within a round, which a machine that is now faster and now slower
    changes little. Memory and collectives are read from compiled programs. The figures go to a JSON
    file, with a picture of the first section beside it.
    """

    sections: tuple[Section, ...] = get_args(Section)[:4]
    """step: from gradients to new weights, on the matrices of every preset, with SinkGD, AdamW,
    SGD, Muon and SWAN. shapes: SinkGD on each shape by itself, hostile ones too. memory: what a
    whole train step needs besides weights and state. collectives: what devices send one another
    where weights are sharded. baselines: as step, with those that have less state than AdamW; only
    when asked for, as some of them factorize every matrix of the largest models once."""
    presets: tuple[PresetName, ...] = tuple(name for name in PRESETS if name != "cpu")
    """Models whose matrices are updated."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of weights, gradients and optimizer state that are timed."""
    gradients: Literal["gaussian", "steep"] = "gaussian"
    """Of the step. Gaussian ones are balanced after three sweeps, and SinkGD leaves the others out;
    steep ones, whose entries span twelve powers of ten, take all sweeps."""
    seconds: float = 20.0
    """Time for each group of competitors on each preset, and a tenth of it for each shape,
    compilation not included; every group has at least three rounds."""
    megabytes: float = 128.0
    """Size of the weights that are updated: as many of a preset's layers as fit, at least one; for
    a shape by itself a quarter of it."""
    results: Path = Path("runs/benchmark/benchmark.json")
    """The file of all figures; the picture is written beside it, as .png."""


def _step(command: Command, console: Console) -> dict[str, Any]:
    dtype = jnp.dtype(command.precision)
    groups = []
    for preset in dict.fromkeys(command.presets):
        found = step.measure(
            preset,
            dtype,
            1e6 * command.megabytes,
            command.seconds,
            console,
            steep=command.gradients == "steep",
        )
        for group in found:
            console.print(report.times_table(group))
        groups += found
    comparisons = step.compare(groups)
    console.print(report.comparison_table(comparisons))
    console.print(*report.NOTES, sep="\n", soft_wrap=True)
    picture = command.results.with_suffix(".png")
    title = (
        f"From {command.gradients} gradients to new weights, {command.precision}; "
        f"SinkGD with 5 sweeps or as named"
    )
    plot_ratios(picture, title, comparisons)
    console.print(f"Written: {picture}", soft_wrap=True)
    return {
        "precision": command.precision,
        "gradients": command.gradients,
        "groups": [group.as_json() for group in groups],
        "comparisons": [each.as_json() for each in comparisons],
        "notes": report.NOTES,
    }


def _baselines(command: Command, console: Console) -> dict[str, Any]:
    dtype = jnp.dtype(command.precision)
    groups = []
    for preset in dict.fromkeys(command.presets):
        found = step.measure_baselines(
            preset, dtype, 1e6 * command.megabytes, command.seconds, console
        )
        console.print(report.times_table(found))
        groups.append(found)
    comparisons = step.compare(groups)
    console.print(report.comparison_table(comparisons))
    return {
        "precision": command.precision,
        "groups": [group.as_json() for group in groups],
        "comparisons": [each.as_json() for each in comparisons],
    }


def _shapes(command: Command, console: Console) -> dict[str, Any]:
    dtype = jnp.dtype(command.precision)
    of_one = 1e6 * command.megabytes / 4
    cases = shapes.cases(dict.fromkeys(command.presets), of_one, dtype.itemsize)
    measured = [shapes.measure(case, dtype, command.seconds / 10, console) for case in cases]
    console.print(report.shapes_table(measured))
    worst = shapes.worst(measured)
    console.print(f"Worst: {worst.case.title}, {worst.ratio}", soft_wrap=True)
    return {
        "precision": command.precision,
        "shapes": [one.as_json() for one in measured],
        "worst": worst.as_json(),
    }


def _memory(command: Command, console: Console) -> dict[str, Any]:
    del command
    measured = memory.measure(console)
    console.print(report.memory_table(measured))
    return {"optimizers": [one.as_json() for one in measured]}


def _collectives(command: Command, console: Console) -> dict[str, Any]:
    """In a process of its own, as it simulates devices; it prints its tables itself."""
    written = command.results.with_name(f"{command.results.stem}_collectives.json")
    arguments = ["-m", "examples.benchmark.collectives", "--json", str(written)]
    console.file.flush()  # what was printed before is to stand before its tables
    code = subprocess.run([sys.executable, *arguments], check=False).returncode
    if code:
        raise InputError(
            f"python {' '.join(arguments)} ended with code {code}; its message is above"
        )
    return read_json(written)


_RUN: Mapping[Section, Callable[[Command, Console], dict[str, Any]]] = {
    "step": _step,
    "shapes": _shapes,
    "memory": _memory,
    "collectives": _collectives,
    "baselines": _baselines,
}


def run(command: Command, console: Console) -> int:
    """Measure and report; return the exit code."""
    for option in ("sections", "presets"):
        if not getattr(command, option):
            raise InputError(f"--{option} names none; leave the option out to take all")
    for option in ("seconds", "megabytes"):
        if not getattr(command, option) > 0:
            raise InputError(f"--{option} is {getattr(command, option):g}, but must be positive")
    found: dict[str, Any] = {}
    for section in dict.fromkeys(command.sections):
        console.rule(section)
        start = perf_counter()
        found[section] = _RUN[section](command, console)
        console.print(f"{section}: {perf_counter() - start:.0f} s")
        # after each section: an error in the next one loses nothing
        write_json(command.results, {**found, "versions": versions(), "machine": machine()})
    console.print(f"Written: {command.results}", soft_wrap=True)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command("examples.benchmark", Command, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
