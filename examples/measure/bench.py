"""The benchmark of updates, beside the targets: `python -m examples.measure.bench`."""

import functools
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
from rich.console import Console

import multinorm_optax as mo
from examples.llama.config import PresetName
from examples.llama.presets import PRESETS
from examples.llama.run.command import run_command
from examples.llama.run.options import Checked, Positive, check_names
from examples.measure import compilation, orthogonalizers, updates
from examples.measure.pictures import draw_ratios, height_of_ratios, name_lines, panels
from examples.measure.results import check_results, write_results
from examples.measure.tables import Table, table, unique
from examples.measure.timing import NOTE, REFERENCE, Spread, ratios
from examples.measure.updates import KERNEL, WEIGHTS, Matrices, Shape, fitting_layers, layer_shapes

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
    compilation not included; every group has at least three rounds. On a CPU, Muon and SWAN are
    timed up to 350m: for a layer of 7b, a round would take minutes."""
    results: Path = Path("runs/bench/bench.json")
    """The file of all figures; the picture is written beside it, as .png."""


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


def preset_groups(
    command: Command, console: Console, *optimizers: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Groups of optimizers on the matrices of some of each preset's layers."""
    for preset in unique(command.presets):
        shapes = layer_shapes(preset, fitting_layers(preset))
        steep = command.gradients == "steep"
        matrices = Matrices(preset, shapes, command.precision, steep=steep)
        too_slow = jax.default_backend() == "cpu" and PRESETS[preset].setup.model.hidden > 1024
        for names in optimizers:
            if not (names is updates.SLOW and too_slow):
                yield matrices.timed(names, command.seconds, console)


def shape_groups(command: Command, console: Console) -> Iterator[dict[str, Any]]:
    """SinkGD on one leaf of each shape of the presets, as many layers as fit, and hostile ones."""
    shapes: list[tuple[str, Shape, mo.MatrixAxes]] = []
    for preset in unique(command.presets):
        for _, *sides in unique(layer_shapes(preset, 1).values()):
            fitting = max(1, WEIGHTS // 4 // math.prod(sides))
            layers = min(PRESETS[preset].setup.model.layers, fitting)
            shapes.append((preset, (layers, *sides), KERNEL))
    for name, shape, axes in (*shapes, *HOSTILE):
        leaf = Matrices(name, {"kernel": shape}, command.precision, axes)
        yield leaf.timed((REFERENCE, "sinkgd"), command.seconds / 10, console)


Group = Mapping[str, Any]


def compare(
    groups: Sequence[Group], targets: Mapping[tuple[str, str], Target] = TARGETS
) -> dict[tuple[str, str], dict[str, Spread]]:
    """All ratios to the reference, and all others that have a target, by optimizers and preset.

    Where several groups of a preset have a ratio, the first one's counts.
    """
    found: dict[tuple[str, str], dict[str, Spread]] = {}
    for over, under in unique([*((name, REFERENCE) for name in updates.TITLES), *targets]):
        for group in groups:
            times = {name: c["seconds_by_round"] for name, c in group["competitors"].items()}
            if over != under and {over, under} <= times.keys():
                here = found.setdefault((over, under), {})
                here.setdefault(group["name"], ratios(times[over], times[under]))
    return found


def _title(pair: tuple[str, str]) -> str:
    return f"{updates.TITLES[pair[0]]} / {updates.TITLES[pair[1]]}"


def ratio_table(
    groups: Sequence[Group], targets: Mapping[tuple[str, str], Target] = TARGETS
) -> Table:
    """The ratios of all groups, beside their targets."""

    def digits(value: float) -> str:
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    presets, lines = unique(group["name"] for group in groups), []
    for pair, found in compare(groups, targets).items():
        medians = [one.median for one in found.values()]
        cells = [digits(found[p].median) if p in found else "not run" for p in presets]
        target, mean = targets.get(pair), digits(statistics.geometric_mean(medians))
        met = [target.text, "yes" if target.reached(medians) else "no"] if target else ["", ""]
        lines.append([_title(pair), *cells, *([mean, *met] if targets else [])])
    heads = ["mean", "target", "met"] if targets else []
    return Table(["time of / over", *presets, *heads], lines)


def shape_table(groups: Sequence[Group]) -> Table:
    """The times for each shape, the slowest first."""

    def ratio(group: Group) -> Spread:
        return Spread(**group["competitors"]["sinkgd"]["ratio"])

    def nanoseconds(group: Group, name: str) -> str:
        seconds = group["competitors"][name]["seconds"]["median"]
        return f"{1e9 * seconds / group['elements']:.3f}"

    return table(
        sorted(groups, key=lambda group: -ratio(group).median),
        {
            "one leaf, ns per weight": lambda group: (
                f"{group['name']} {'x'.join(map(str, group['shapes']['kernel']))}"
            ),
            "AdamW": lambda group: nanoseconds(group, REFERENCE),
            "SinkGD": lambda group: nanoseconds(group, "sinkgd"),
            "ratio": lambda group: str(ratio(group)),
        },
    )


def draw(path: Path, title: str, groups: Sequence[Group]) -> None:
    """Draw the ratios with their targets: memory-bound optimizers to AdamW, and all others."""
    presets, found = unique(group["name"] for group in groups), compare(groups)
    fast = [pair for pair in found if pair[0] in updates.FAST and pair[1] == REFERENCE]
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


def measure(section: Section, command: Command, console: Console) -> dict[str, Any]:
    """The figures of one section, which are shown."""
    if section == "compilation":
        return compilation.measure(console)
    if section == "orthogonalizers":
        return orthogonalizers.measure(console)
    if section == "shapes":
        groups = list(shape_groups(command, console))
        console.print(shape_table(groups))
    elif section == "baselines":
        groups = list(preset_groups(command, console, updates.BASELINES))
        console.print(ratio_table(groups, {}))
    else:
        groups = list(preset_groups(command, console, updates.FAST, updates.SLOW))
        console.print(ratio_table(groups))
        title = f"From {command.gradients} gradients to new weights, {command.precision}"
        draw(command.results.with_suffix(".png"), title, groups)
    console.print(NOTE, soft_wrap=True)
    about = {"precision": command.precision, "gradients": command.gradients, "notes": [NOTE]}
    return {**about, "groups": groups}


def run(command: Command, console: Console) -> int:
    """Measure and report; return the exit code."""
    check_names("--sections", command.sections, get_args(Section))
    check_names("--presets", command.presets, PRESETS)
    check_results(command.results, ".png")
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
