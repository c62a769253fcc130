"""The time from gradients to new weights, on the matrices of every preset, beside the targets."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.llama.config import PresetName
from examples.measure.bench.options import Command
from examples.measure.bench.updates import (
    BASELINES,
    FAST,
    REFERENCE,
    SLOW,
    TITLES,
    Matrices,
    fitting_layers,
    layer_shapes,
    product_flops,
    product_speed,
)
from examples.measure.pictures import Ratios, plot_ratios
from examples.measure.tables import Table, short, unique, yes
from examples.measure.timing import NOTE, Spread, ratios, spread


@dataclass(frozen=True)
class Target:
    """Bounds of some ratios."""

    at_least: float = 0.0
    """Of every ratio."""
    at_most: float = math.inf
    """Of every ratio."""
    mean_at_most: float = math.inf
    """Of their geometric mean."""

    def __str__(self) -> str:
        """The bounds, in a few letters."""
        low, high = self.at_least > 0, self.at_most < math.inf
        each = f"{self.at_least:g} to {self.at_most:g}" if low and high else ""
        each = each or (f"≥ {self.at_least:g}" if low else f"≤ {self.at_most:g}" if high else "")
        mean = f"mean {self.mean_at_most:g}" if self.mean_at_most < math.inf else ""
        return ", ".join(filter(None, (each, mean)))

    def reached(self, measured: Sequence[float]) -> bool:
        """Whether all ratios and their mean are within the bounds."""
        inside = all(self.at_least <= ratio <= self.at_most for ratio in measured)
        return inside and geometric_mean(measured) <= self.mean_at_most


STEP_TARGETS: Mapping[tuple[str, str], Target] = {
    ("sinkgd", REFERENCE): Target(mean_at_most=2.2),
    ("sinkgd-1", REFERENCE): Target(at_most=0.9),
    ("multi-normalize", "sinkgd"): Target(at_least=0.95, at_most=1.05),
    ("literal", "sinkgd"): Target(at_least=3.0),
    ("muon", "sinkgd"): Target(at_least=30.0),
    ("swan-quintic", "muon"): Target(at_most=1.0),
}
"""Of the time of one optimizer over another's."""


def geometric_mean(measured: Sequence[float]) -> float:
    """The mean of ratios; a ratio and its inverse have the mean 1."""
    return math.exp(math.fsum(map(math.log, measured)) / len(measured))


def timed(
    preset: PresetName, layers: int, names: Sequence[str], command: Command, console: Console
) -> dict[str, Any]:
    """The times of one group of optimizers on some layers of a preset."""
    matrices = Matrices(
        layer_shapes(preset, layers), command.precision, steep=command.gradients == "steep"
    )
    what = f"{preset}: {layers} layers, {matrices.elements / 1e6:.1f} M weights"
    seconds = matrices.seconds(what, names, command.seconds, console)
    reference = seconds[REFERENCE]
    milliseconds = 1e3 * spread(reference).median
    console.print(f"{what}, {len(reference)} rounds; AdamW takes {milliseconds:.2f} ms")
    competitors = {
        name: {
            "title": TITLES[name],
            "seconds": spread(times)._asdict(),
            "ratio": ratios(times, reference)._asdict(),
            "seconds_by_round": [round(each, 6) for each in times],
        }
        for name, times in seconds.items()
    }
    about = {"preset": preset, "layers": layers, "elements": matrices.elements}
    return {**about, "competitors": competitors}


def compare(
    groups: Sequence[Mapping[str, Any]], targets: Mapping[tuple[str, str], Target] = STEP_TARGETS
) -> list[dict[str, Any]]:
    """All ratios to the reference, and all others that have a target.

    Where several groups of a preset have a ratio, the first one's counts.
    """
    found = []
    for over, under in unique([*((name, REFERENCE) for name in TITLES), *targets]):
        measured: dict[str, Spread] = {}
        for group in groups:
            times = {name: c["seconds_by_round"] for name, c in group["competitors"].items()}
            if over != under and {over, under} <= times.keys():
                measured.setdefault(group["preset"], ratios(times[over], times[under]))
        if measured:
            medians = [one.median for one in measured.values()]
            target = targets.get((over, under))
            found.append(
                {
                    "over": over,
                    "under": under,
                    "ratios": {preset: one._asdict() for preset, one in measured.items()},
                    "geometric_mean": geometric_mean(medians),
                    "target": None if target is None else str(target),
                    "reached": None if target is None else target.reached(medians),
                }
            )
    return found


def titles_in(section: Mapping[str, Any]) -> dict[str, str]:
    """The display name of each optimizer of a section."""
    each = (group["competitors"].items() for group in section["groups"])
    return {name: one["title"] for group in each for name, one in group}


def make_table(section: Mapping[str, Any]) -> Table:
    """The ratios of a section, beside their targets."""
    titles, comparisons = titles_in(section), section["comparisons"]
    presets = unique(preset for one in comparisons for preset in one["ratios"])
    targets = any(one["target"] for one in comparisons)
    lines = []
    for one in comparisons:
        found = one["ratios"]
        cells = [short(found[p]["median"]) if p in found else "not run" for p in presets]
        judged = [short(one["geometric_mean"]), one["target"] or "", yes(one["reached"])]
        lines.append([f"{titles[one['over']]} / {titles[one['under']]}", *cells])
        lines[-1] += judged if targets else []
    return Table(["time of / over", *presets, *["mean", "target", "met"] * targets], lines)


def draw(path: Path, title: str, section: Mapping[str, Any]) -> None:
    """Draw the ratios with their targets: memory-bound optimizers to AdamW, and all others."""
    titles, panels = titles_in(section), []
    presets = unique(preset for one in section["comparisons"] for preset in one["ratios"])
    for label, logarithmic in (
        ("memory-bound optimizers, ratio to AdamW", False),
        ("other ratios of times", True),
    ):
        chosen = [
            one
            for one in section["comparisons"]
            if (one["under"] == REFERENCE and one["over"] in FAST) != logarithmic
        ]
        if not chosen:
            continue
        names = [f"{titles[one['over']]} / {titles[one['under']]}" for one in chosen]
        series = {
            preset: [Spread(**r) if (r := one["ratios"].get(preset)) else None for one in chosen]
            for preset in presets
        }
        bounds = [STEP_TARGETS.get((one["over"], one["under"]), Target()) for one in chosen]
        marks = [
            [b for b in (each.at_least, each.at_most, each.mean_at_most) if 0 < b < math.inf]
            for each in bounds
        ]
        panels.append(Ratios(label, "", names, series, marks, logarithmic))
    plot_ratios(path, title, panels)


def measure(command: Command, console: Console) -> dict[str, Any]:
    """Updates by memory-bound optimizers and, on fewer layers, by those that multiply matrices.

    The second group has as many layers as leave it three rounds in the same time.
    """
    groups, speed = [], product_speed(command.precision, console)
    for preset in unique(command.presets):
        layers = fitting_layers(preset, command.elements)
        groups.append(timed(preset, layers, FAST, command, console))
        each = 2 * product_flops(preset) / speed
        if affordable := int(command.seconds / (3 * each)):
            groups.append(timed(preset, min(layers, affordable), SLOW, command, console))
        else:
            console.print(
                f"{preset}: Muon and SWAN are left out, as a round of them would take about "
                f"{each:.0f} s for one layer; --seconds gives them more",
                soft_wrap=True,
            )
    section = _section(command, groups, console)
    title = f"From {command.gradients} gradients to new weights, {command.precision}"
    draw(command.results.with_suffix(".png"), title, section)
    return section


def measure_baselines(command: Command, console: Console) -> dict[str, Any]:
    """Updates by optimizers with less state than AdamW."""
    layers = {preset: fitting_layers(preset, command.elements) for preset in command.presets}
    groups = [timed(p, count, BASELINES, command, console) for p, count in layers.items()]
    return _section(command, groups, console, {})


def _section(
    command: Command,
    groups: Sequence[Mapping[str, Any]],
    console: Console,
    targets: Mapping[tuple[str, str], Target] = STEP_TARGETS,
) -> dict[str, Any]:
    about = {"precision": command.precision, "gradients": command.gradients, "notes": [NOTE]}
    section = {**about, "groups": groups, "comparisons": compare(groups, targets)}
    console.print(make_table(section), NOTE, sep="\n", soft_wrap=True)
    return section
