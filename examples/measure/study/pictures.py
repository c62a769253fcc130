"""Pictures of the findings: one panel for each cell, below one another."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from examples.llama.config import Experiment, OptimizerConfig
from examples.llama.optimizers import OPTIMIZERS
from examples.llama.presets import resolved
from examples.llama.run.plot import style
from examples.measure.footprint import kept
from examples.measure.pictures import look, name_lines, panels
from examples.measure.study.findings import Finding
from examples.measure.study.plan import CELLS, SPACES


def _look(one: Finding) -> dict[str, Any]:
    """The same label and color for an optimizer in all pictures."""
    number = list(SPACES).index(one.optimizer)
    return {"label": OPTIMIZERS[one.optimizer].title, **look(number)}


def _losses(axes: Axes, cell: str, rows: Sequence[Finding]) -> None:
    names = [f"{OPTIMIZERS[o.optimizer].title} ({len(o.search.tries)} points)" for o in rows]
    name_lines(axes, CELLS[cell].title, "final validation loss, nats; a dot for each seed", names)
    for place, one in enumerate(rows):
        losses = [loss for loss in one.losses if math.isfinite(loss)]
        axes.plot(losses, [place] * len(losses), "o", color=_look(one)["color"])


def _best_of(axes: Axes, cell: str, rows: Sequence[Finding]) -> None:
    style(axes, "points tried", "expected best loss, nats (seed 0)")
    for one in rows:
        axes.plot(range(1, len(one.best_of) + 1), one.best_of, **_look(one))


def _lengths(axes: Axes, cell: str, rows: Sequence[Finding]) -> None:
    style(axes, "tokens of a run with its own schedule", "mean final loss, nats")
    for one in rows:
        axes.plot(*zip(*one.lengths, strict=True), marker="o", **_look(one))
    axes.set_xscale("log")
    ticks = sorted({tokens for one in rows for tokens, _ in one.lengths})
    axes.set_xticks(ticks, [f"{tokens / 1e3:,.0f} k" for tokens in ticks])
    axes.set_xticks([], minor=True)


def _memory(axes: Axes, cell: str, rows: Sequence[Finding]) -> None:
    style(
        axes,
        "optimizer state, bytes for each float32 weight of the model",
        "final validation loss, nats",
    )
    largest = 0.0
    for one in rows:
        memory = kept(resolved(Experiment(OptimizerConfig(one.optimizer), CELLS[cell].setup)))
        at = memory.state_bytes / memory.parameters, one.mean
        largest = max(largest, at[0])
        if math.isfinite(one.mean):
            axes.errorbar(*at, yerr=one.spread, fmt="o", capsize=3, color=_look(one)["color"])
            title = OPTIMIZERS[one.optimizer].title
            axes.annotate(title, at, (8, 0), textcoords="offset points", fontsize=9, va="center")
    axes.set_xlim(0, 1.4 * largest)
    axes.margins(y=0.12)


PICTURES: Mapping[str, Callable[[Axes, str, Sequence[Finding]], None]] = {
    "losses": _losses,
    "memory": _memory,
    "best_of": _best_of,
    "lengths": _lengths,
}
"""How a panel of each picture is drawn, for a cell and its findings, best first."""


def plot(name: str, path: Path, found: Mapping[str, Sequence[Finding]]) -> None:
    """Draw one of `PICTURES`, with a panel for each cell."""
    heights = [max(3.2, 1.2 + 0.32 * len(rows)) for rows in found.values()]
    with panels(path, "", heights) as every:
        for axes, (cell, rows) in zip(every, found.items(), strict=True):
            PICTURES[name](axes, cell, rows)
            axes.set_title(CELLS[cell].title, loc="left", fontsize=10)
