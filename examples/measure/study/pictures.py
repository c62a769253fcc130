"""Pictures of the findings: one panel for each cell, below one another."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.llama.run.plot import look, save, style
from examples.measure.study.findings import Finding
from examples.measure.study.plan import CELLS, ENTRIES

Found = Mapping[str, Sequence[Finding]]
"""Findings by cell, best first."""


def _panels(
    path: Path,
    found: Found,
    labels: tuple[str, str],
    draw: Callable[[Axes, Sequence[Finding]], None],
) -> None:
    heights = [max(3.2, 1.2 + 0.32 * len(rows)) for rows in found.values()]
    figure = Figure(figsize=(8.0, sum(heights)), dpi=130, layout="constrained")
    panels = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (cell, rows) in zip(panels, found.items(), strict=True):
        style(axes, *labels)
        axes.set_title(CELLS[cell].title, loc="left", fontsize=10)
        draw(axes, rows)
    save(figure, path)


def _look(one: Finding) -> dict[str, Any]:
    """The same color for an optimizer in all pictures."""
    return look(list(ENTRIES).index(one.optimizer))


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


def plot_losses(path: Path, found: Found) -> None:
    """Draw the final losses, a dot for each seed."""

    def draw(axes: Axes, rows: Sequence[Finding]) -> None:
        for place, one in enumerate(rows):
            losses = [loss for loss in one.losses if math.isfinite(loss)]
            axes.plot(losses, [place] * len(losses), "o", color=_look(one)["color"])
        names = [f"{ENTRIES[one.optimizer].title} ({one.points} points)" for one in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.4, -0.6)

    _panels(path, found, ("final validation loss, nats; a dot for each seed", ""), draw)


def plot_best_of(path: Path, found: Found) -> None:
    """Draw the best loss that can be expected of k points of the first box."""

    def draw(axes: Axes, rows: Sequence[Finding]) -> None:
        for one in rows:
            title = ENTRIES[one.optimizer].title
            axes.plot(range(1, len(one.best_of) + 1), one.best_of, label=title, **_look(one))
        _legend(axes)

    _panels(path, found, ("points tried", "expected best loss, nats (seed 0)"), draw)


def plot_lengths(path: Path, found: Found) -> None:
    """Draw the mean final loss of runs of several lengths."""

    def draw(axes: Axes, rows: Sequence[Finding]) -> None:
        for one in rows:
            tokens, losses = zip(*one.lengths, strict=True)
            title = ENTRIES[one.optimizer].title
            axes.plot(tokens, losses, marker="o", label=title, **_look(one))
        axes.set_xscale("log")
        ticks = sorted({tokens for one in rows for tokens, _ in one.lengths})
        axes.set_xticks(ticks, [f"{tokens / 1e3:,.0f} k" for tokens in ticks])
        axes.set_xticks([], minor=True)
        _legend(axes)

    labels = "tokens of a run with its own schedule", "mean final loss, nats"
    _panels(path, found, labels, draw)
