"""Pictures of the findings: one panel for each cell, below one another."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.llama.optimizers import OPTIMIZERS
from examples.llama.run.plot import save, style
from examples.measure.pictures import look
from examples.measure.study.findings import Finding
from examples.measure.study.plan import CELLS, SPACES

Found = Mapping[str, Sequence[Finding]]
"""Findings by cell, best first."""


def _look(one: Finding) -> dict[str, Any]:
    """The same label and color for an optimizer in all pictures."""
    number = list(SPACES).index(one.optimizer)
    return {"label": OPTIMIZERS[one.optimizer].title, **look(number)}


def _losses(axes: Axes, rows: Sequence[Finding]) -> None:
    for place, one in enumerate(rows):
        losses = [loss for loss in one.losses if math.isfinite(loss)]
        axes.plot(losses, [place] * len(losses), "o", color=_look(one)["color"])
    names = [f"{OPTIMIZERS[one.optimizer].title} ({one.points} points)" for one in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.6)


def _best_of(axes: Axes, rows: Sequence[Finding]) -> None:
    for one in rows:
        axes.plot(range(1, len(one.best_of) + 1), one.best_of, **_look(one))


def _lengths(axes: Axes, rows: Sequence[Finding]) -> None:
    for one in rows:
        axes.plot(*zip(*one.lengths, strict=True), marker="o", **_look(one))
    axes.set_xscale("log")
    ticks = sorted({tokens for one in rows for tokens, _ in one.lengths})
    axes.set_xticks(ticks, [f"{tokens / 1e3:,.0f} k" for tokens in ticks])
    axes.set_xticks([], minor=True)


def _memory(axes: Axes, rows: Sequence[Finding]) -> None:
    for one in rows:
        if math.isfinite(one.mean):
            at = one.state_per_weight, one.mean
            axes.errorbar(*at, yerr=one.spread, fmt="o", capsize=3, color=_look(one)["color"])
            title = OPTIMIZERS[one.optimizer].title
            axes.annotate(title, at, (8, 0), textcoords="offset points", fontsize=9, va="center")
    axes.set_xlim(0, 1.4 * max(one.state_per_weight for one in rows))
    axes.margins(y=0.12)


PICTURES: Mapping[str, tuple[str, str, Callable[[Axes, Sequence[Finding]], None]]] = {
    "losses": ("final validation loss, nats; a dot for each seed", "", _losses),
    "memory": (
        "optimizer state, bytes for each float32 weight of the model",
        "final validation loss, nats",
        _memory,
    ),
    "best_of": ("points tried", "expected best loss, nats (seed 0)", _best_of),
    "lengths": ("tokens of a run with its own schedule", "mean final loss, nats", _lengths),
}
"""Labels of the axes, and how a panel is drawn."""


def plot(name: str, path: Path, found: Found) -> None:
    """Draw one of `PICTURES`."""
    x_label, y_label, draw = PICTURES[name]
    heights = [max(3.2, 1.2 + 0.32 * len(rows)) for rows in found.values()]
    figure = Figure(figsize=(8.0, sum(heights)), dpi=130, layout="constrained")
    panels = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (cell, rows) in zip(panels, found.items(), strict=True):
        style(axes, x_label, y_label)
        axes.set_title(CELLS[cell].title, loc="left", fontsize=10)
        draw(axes, rows)
        if axes.get_legend_handles_labels()[1]:
            where = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
            axes.legend(frameon=False, fontsize="small", **where)
    save(figure, path)
