"""The benchmark of updates, beside the targets: `python -m examples.measure.bench`."""

import functools
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
from rich.console import Console

import multinorm_optax as mo
from examples.llama.config import InputError, PresetName
from examples.llama.presets import PRESETS
from examples.llama.run.command import run_command
from examples.llama.run.options import Checked, Positive
from examples.measure import compilation, orthogonalizers
from examples.measure.pictures import draw_ratios, height_of_ratios, name_lines, panels
from examples.measure.results import write_results
from examples.measure.tables import Table, table, unique
from examples.measure.timing import NOTE, REFERENCE, Spread, ratios
from examples.measure.updates import (
    BASELINES,
    FAST,
    KERNEL,
    SLOW,
    TITLES,
    Matrices,
    Shape,
    fitting_layers,
    layer_shapes,
    product_flops,
    product_speed,
)

Section = Literal["step", "shapes", "baselines", "compilation", "orthogonalizers"]


@dataclass(frozen=True)
class Command(Checked):
    """Measure the time of an optimizer's update, beside the project's targets.

    Times are ratios to AdamW's: the optimizers take turns in one process, a step of each is a
    round, and ratios are taken within a round, which a machine that is now faster and now slower
    changes little. The figures go to a JSON file, with a picture of the first section beside it.
    """

    sections: tuple[Section, ...] = get_args(Section)[:2]
    """step: from gradients to new weights, on the matrices of every preset, with SinkGD, AdamW,
    SGD, Muon and SWAN. shapes: SinkGD on each shape separately, hostile ones too. baselines: as
    step, with optimizers that have less state than AdamW, some of which factorize every matrix of
    the largest models once. compilation: the time to compile an update of many unstacked matrices.
    orthogonalizers: what each arithmetic does to small singular values."""
    presets: tuple[PresetName, ...] = tuple(name for name in PRESETS if name != "cpu")
    """Models whose matrices are updated."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of weights, gradients and optimizer state that are timed."""
    gradients: Literal["gaussian", "steep"] = "gaussian"
    """Of the step. Gaussian ones are balanced after three sweeps; steep ones, whose entries span
    twelve powers of ten, are not balanced after five."""
    seconds: Positive = 20.0
    """Time for each group of optimizers on each preset, and a tenth of it for each shape,
    compilation not included; every group has at least three rounds."""
    megabytes: Positive = 128.0
    """Size of the weights that are updated: as many of a preset's layers as fit, at least one; a
    quarter of it for a shape separately."""
    results: Path = Path("runs/bench/bench.json")
    """The file of all figures; the picture is written beside it, as .png."""

    @property
    def elements(self) -> float:
        """The number of weights that are updated."""
        return 1e6 * self.megabytes / jnp.dtype(self.precision).itemsize

    def layers(self, preset: PresetName, count: int) -> Matrices:
        """The matrices of some of a preset's layers."""
        shapes = layer_shapes(preset, count)
        return Matrices(preset, shapes, self.precision, steep=self.gradients == "steep")


class Target(NamedTuple):
    """Bounds of the time of one optimizer over another's."""

    text: str
    low: float = 0.0
    high: float = math.inf
    of_mean: bool = False
    """Whether the bounds are those of the geometric mean of all ratios, or of every ratio."""

    def reached(self, measured: Sequence[float]) -> bool:
        """Whether the ratios are within the bounds."""
        judged = [statistics.geometric_mean(measured)] if self.of_mean else measured
        return all(self.low <= ratio <= self.high for ratio in judged)


TARGETS: Mapping[tuple[str, str], Target] = {
    ("sinkgd", REFERENCE): Target("mean 2.2", high=2.2, of_mean=True),
    ("sinkgd-1", REFERENCE): Target("≤ 0.9", high=0.9),
    ("multi-normalize", "sinkgd"): Target("0.95 to 1.05", low=0.95, high=1.05),
    ("literal", "sinkgd"): Target("≥ 3", low=3.0),
    ("muon", "sinkgd"): Target("≥ 30", low=30.0),
    ("swan-quintic", "muon"): Target("≤ 1", high=1.0),
}
"""By the two optimizers, on the matrices of every preset."""

HOSTILE: Sequence[tuple[str, Shape, mo.MatrixAxes]] = (
    ("odd side", (1, 2048, 5461), KERNEL),
    ("odd side", (1, 5461, 2048), KERNEL),
    ("prime sides", (1, 1021, 4093), KERNEL),
    ("head", (1, 256, 32_000), KERNEL),
    ("head", (32_000, 256), KERNEL),
    ("small", (8, 64, 64), KERNEL),
    ("tiny", (16_384, 8, 8), KERNEL),
    ("column", (1, 1, 100_000), KERNEL),
    ("row", (1, 100_000, 1), KERNEL),
    ("three columns", (1, 300_000, 3), KERNEL),
    ("layers in the middle", (1024, 4, 2736), mo.MatrixAxes(output=2, input=0)),
    ("layers at the end", (1024, 2736, 4), mo.MatrixAxes(output=1, input=0)),
    ("heads", (4, 1024, 16, 64), mo.MatrixAxes(output=(2, 3), input=1)),
)
"""Shapes on which an implementation that is quick on the usual ones may be slow."""


def step_groups(command: Command, console: Console) -> Iterator[dict[str, Any]]:
    """Memory-bound optimizers and, on fewer layers, those that multiply matrices.

    The second group has as many layers as leave it three rounds in the same time.
    """
    speed = product_speed(command.precision, console)
    for preset in unique(command.presets):
        layers = fitting_layers(preset, command.elements)
        yield command.layers(preset, layers).timed(FAST, command.seconds, console)
        each = 2 * product_flops(preset) / speed
        if affordable := int(command.seconds / (3 * each)):
            fewer = command.layers(preset, min(layers, affordable))
            yield fewer.timed(SLOW, command.seconds, console)
        else:
            console.print(
                f"{preset}: Muon and SWAN are left out, as a round of them would take about "
                f"{each:.0f} s for one layer; --seconds gives them more",
                soft_wrap=True,
            )


def shape_groups(command: Command, console: Console) -> Iterator[dict[str, Any]]:
    """SinkGD on one leaf of each shape of the presets, as many layers as fit, and hostile ones."""
    shapes: list[tuple[str, Shape, mo.MatrixAxes]] = []
    for preset in unique(command.presets):
        for _, *sides in dict.fromkeys(layer_shapes(preset, 1).values()):
            fitting = max(1, int(command.elements / 4 / math.prod(sides)))
            layers = min(PRESETS[preset].setup.model.layers, fitting)
            shapes.append((preset, (layers, *sides), KERNEL))
    for name, shape, axes in (*shapes, *HOSTILE):
        leaf = Matrices(name, {"kernel": shape}, command.precision, axes)
        yield leaf.timed((REFERENCE, "sinkgd"), command.seconds / 10, console)


def baseline_groups(command: Command, console: Console) -> Iterator[dict[str, Any]]:
    """Optimizers with less state than AdamW."""
    for preset in unique(command.presets):
        matrices = command.layers(preset, fitting_layers(preset, command.elements))
        yield matrices.timed(BASELINES, command.seconds, console)


Group = Mapping[str, Any]


def compare(
    groups: Sequence[Group], targets: Mapping[tuple[str, str], Target] = TARGETS
) -> dict[tuple[str, str], dict[str, Spread]]:
    """All ratios to the reference, and all others that have a target, by optimizers and preset.

    Where several groups of a preset have a ratio, the first one's counts.
    """
    found: dict[tuple[str, str], dict[str, Spread]] = {}
    for over, under in unique([*((name, REFERENCE) for name in TITLES), *targets]):
        for group in groups:
            times = {name: c["seconds_by_round"] for name, c in group["competitors"].items()}
            if over != under and {over, under} <= times.keys():
                here = found.setdefault((over, under), {})
                here.setdefault(group["name"], ratios(times[over], times[under]))
    return found


def _title(pair: tuple[str, str]) -> str:
    return f"{TITLES[pair[0]]} / {TITLES[pair[1]]}"


def _digits(value: float) -> str:
    """Three digits, without an exponent below a million."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio_table(
    groups: Sequence[Group], targets: Mapping[tuple[str, str], Target] = TARGETS
) -> Table:
    """The ratios of all groups, beside their targets."""
    presets, lines = unique(group["name"] for group in groups), []
    for pair, found in compare(groups, targets).items():
        medians = [one.median for one in found.values()]
        cells = [_digits(found[p].median) if p in found else "not run" for p in presets]
        lines.append([_title(pair), *cells])
        if targets:
            target = targets.get(pair)
            met = "" if target is None else "yes" if target.reached(medians) else "no"
            mean = _digits(statistics.geometric_mean(medians))
            lines[-1] += [mean, "" if target is None else target.text, met]
    heads = ["mean", "target", "met"] if targets else []
    return Table(["time of / over", *presets, *heads], lines)


def baseline_table(groups: Sequence[Group]) -> Table:
    """The ratios to AdamW, which have no targets."""
    return ratio_table(groups, {})


def shape_table(groups: Sequence[Group]) -> Table:
    """The times for each shape, the slowest first."""

    def time(name: str) -> Callable[[Group], str]:
        def per_weight(group: Group) -> str:
            seconds = group["competitors"][name]["seconds"]["median"]
            return f"{1e9 * seconds / group['elements']:.3f}"

        return per_weight

    def ratio(group: Group) -> Spread:
        return Spread(**group["competitors"]["sinkgd"]["ratio"])

    return table(
        sorted(groups, key=lambda group: -ratio(group).median),
        {
            "one leaf, ns per weight": lambda group: (
                f"{group['name']} {'x'.join(map(str, group['shapes']['kernel']))}"
            ),
            "AdamW": time(REFERENCE),
            "SinkGD": time("sinkgd"),
            "ratio": lambda group: str(ratio(group)),
        },
    )


def draw(path: Path, title: str, groups: Sequence[Group]) -> None:
    """Draw the ratios with their targets: memory-bound optimizers to AdamW, and all others."""
    presets, found = unique(group["name"] for group in groups), compare(groups)
    fast = [pair for pair in found if pair[0] in FAST and pair[1] == REFERENCE]
    parts = {
        "memory-bound optimizers, ratio to AdamW": fast,
        "other ratios of times": [pair for pair in found if pair not in fast],
    }
    shown = {name: pairs for name, pairs in parts.items() if pairs}
    heights = [height_of_ratios(len(pairs), len(presets)) for pairs in shown.values()]
    with panels(path, title, heights) as every:
        for axes, (name, pairs) in zip(every, shown.items(), strict=True):
            name_lines(axes, name, "", [_title(pair) for pair in pairs])
            series = {preset: [found[pair].get(preset) for pair in pairs] for preset in presets}
            draw_ratios(axes, series, logarithmic=pairs is not fast)
            for line, pair in enumerate(pairs):
                target = TARGETS.get(pair, Target(""))
                for bound in (target.low, target.high):
                    if 0 < bound < math.inf:
                        axes.vlines(bound, line - 0.45, line + 0.45, "crimson", label="target")


Timed = Callable[[Command, Console], Iterator[dict[str, Any]]]
TIMED: Mapping[str, tuple[Timed, Callable[[Sequence[Group]], Table]]] = {
    "step": (step_groups, ratio_table),
    "shapes": (shape_groups, shape_table),
    "baselines": (baseline_groups, baseline_table),
}
"""What a section times, and its table."""


def measure(section: Section, command: Command, console: Console) -> dict[str, Any]:
    """The figures of one section, which are shown."""
    if section == "compilation":
        return compilation.measure(console)
    if section == "orthogonalizers":
        return orthogonalizers.measure(console)
    time, tabulate = TIMED[section]
    groups = list(time(command, console))
    console.print(tabulate(groups), NOTE, sep="\n", soft_wrap=True)
    if section == "step":
        title = f"From {command.gradients} gradients to new weights, {command.precision}"
        draw(command.results.with_suffix(".png"), title, groups)
    about = {"precision": command.precision, "gradients": command.gradients, "notes": [NOTE]}
    return {**about, "groups": groups}


def run(command: Command, console: Console) -> int:
    """Measure and report; return the exit code."""
    for option in ("sections", "presets"):
        if not getattr(command, option):
            raise InputError(f"--{option} names none; leave the option out to take all")
    found: dict[str, Any] = {}
    for section in unique(command.sections):
        console.rule(section)
        found[section] = measure(section, command, console)
        # an error in the next section loses nothing
        write_results(command.results, found, console, picture="step" in found)
    return 0


main = functools.partial(run_command, "examples.measure.bench", Command, run)
"""Run the command line with these arguments; return the exit code."""

if __name__ == "__main__":
    sys.exit(main(None))
