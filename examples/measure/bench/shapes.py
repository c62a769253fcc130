"""The time of an update for each shape separately."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

import multinorm_optax as mo
from examples.llama.presets import PRESETS
from examples.measure.bench.options import Command
from examples.measure.bench.updates import KERNEL, REFERENCE, Matrices, Shape, layer_shapes
from examples.measure.tables import Table, unique
from examples.measure.timing import Spread, ratios, spread

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


def cases(command: Command) -> list[tuple[str, Shape, mo.MatrixAxes]]:
    """Each shape of the presets, as many layers of it as fit, and the hostile ones."""
    found = []
    for preset in unique(command.presets):
        for _, *sides in dict.fromkeys(layer_shapes(preset, 1).values()):
            fitting = max(1, int(command.elements / 4 / math.prod(sides)))
            layers = min(PRESETS[preset].setup.model.layers, fitting)
            found.append((preset, (layers, *sides), KERNEL))
    return [*found, *HOSTILE]


def measure(command: Command, console: Console) -> dict[str, Any]:
    """SinkGD with five sweeps, and AdamW, on one leaf of each shape."""
    rows: list[dict[str, Any]] = []
    for name, shape, axes in cases(command):
        matrices, both = Matrices({"kernel": shape}, command.precision, axes), (REFERENCE, "sinkgd")
        found = matrices.seconds(f"{name} {shape}", both, command.seconds / 10, console)
        rows.append(
            {
                "name": name,
                "shape": shape,
                "output_axes": axes.output,
                "input_axes": axes.input,
                "elements": matrices.elements,
                "seconds": spread(found["sinkgd"])._asdict(),
                "adamw_seconds": spread(found[REFERENCE])._asdict(),
                "ratio": ratios(found["sinkgd"], found[REFERENCE])._asdict(),
            }
        )
    console.print(make_table(rows))
    worst = max(rows, key=lambda row: row["ratio"]["median"])
    return {"precision": command.precision, "shapes": rows, "worst": worst}


def make_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The times for each shape, the slowest first."""
    lines = []
    for row in sorted(rows, key=lambda row: -row["ratio"]["median"]):
        times = (row[key]["median"] / row["elements"] for key in ("adamw_seconds", "seconds"))
        title = f"{row['name']} {'x'.join(map(str, row['shape']))}"
        lines.append([title, *(f"{1e9 * t:.3f}" for t in times), str(Spread(**row["ratio"]))])
    return Table(["one leaf, ns per weight", "AdamW", "SinkGD", "ratio"], lines)
