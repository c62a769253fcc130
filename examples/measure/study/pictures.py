"""Pictures of the findings: one panel for each cell."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.llama.plot import look, save, style
from examples.measure.study.findings import Finding
from examples.measure.study.plan import CELLS, ENTRIES

Found = Mapping[str, Sequence[Finding]]
"""Findings by cell, best first."""


def _panels(
    path: Path, found: Found, labels: tuple[str, str], draw: Callable[[Axes, Finding, int], None]
) -> None:
    height = 1.6 + 0.3 * max(map(len, found.values()))
    figure = Figure(figsize=(5.6 * len(found), max(4.2, height)), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (cell, rows) in zip(panels, found.items(), strict=True):
        style(axes, *labels)
        axes.set_title(CELLS[cell].title, loc="left", fontsize=10)
        for place, one in enumerate(rows):
            draw(axes, one, place)
    save(figure, path)


def _color(one: Finding) -> int:
    return list(ENTRIES).index(one.optimizer)


def plot_losses(path: Path, found: Found) -> None:
    """Draw the final losses, a dot for each seed."""

    def draw(axes: Axes, one: Finding, place: int) -> None:
        losses = [loss for loss in one.losses if math.isfinite(loss)]
        axes.plot(losses, [place] * len(losses), "o", **look(_color(one)) | {"linestyle": ""})
        name = f"{ENTRIES[one.optimizer].title} ({one.points} points)"
        axes.set_yticks([*axes.get_yticks()[:place], place])
        labels = [text.get_text() for text in axes.get_yticklabels()[:place]]
        axes.set_yticklabels([*labels, name])
        axes.set_ylim(place + 0.6, -0.6)

    _panels(path, found, ("final validation loss, nats; a dot for each seed", ""), draw)


def plot_best_of(path: Path, found: Found) -> None:
    """Draw the best loss that can be expected of k points of the first box."""

    def draw(axes: Axes, one: Finding, place: int) -> None:
        count = range(1, len(one.best_of) + 1)
        title = ENTRIES[one.optimizer].title
        axes.plot(count, one.best_of, label=title, **look(_color(one)))
        axes.legend(frameon=False, fontsize="small")

    _panels(path, found, ("points tried", "expected best loss, nats (seed 0)"), draw)


def plot_lengths(path: Path, found: Found) -> None:
    """Draw the mean final loss of runs of several lengths."""

    def draw(axes: Axes, one: Finding, place: int) -> None:
        tokens, losses = zip(*one.lengths, strict=True)
        title = ENTRIES[one.optimizer].title
        thousands = [each / 1e3 for each in tokens]
        axes.plot(thousands, losses, marker="o", label=title, **look(_color(one)))
        axes.set_xscale("log")
        axes.legend(frameon=False, fontsize="small")

    _panels(
        path,
        found,
        ("thousand tokens of a run with its own schedule", "mean final loss, nats"),
        draw,
    )
