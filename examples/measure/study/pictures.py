"""Pictures of the findings: one panel for each cell, below one another."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from examples.llama.config import Experiment, OptimizerConfig
from examples.llama.optimizers import OPTIMIZERS
from examples.llama.presets import resolved
from examples.llama.run.plot import style
from examples.measure.footprint import kept
from examples.measure.pictures import look, panels
from examples.measure.study.findings import expected_best, first_box_losses
from examples.measure.study.plan import CELLS, SPACES
from examples.measure.study.search import Search, mean_loss


def _look(one: Search) -> dict[str, Any]:
    """The same label and color for an optimizer in all pictures."""
    number = list(SPACES).index(one.optimizer)
    return {"label": OPTIMIZERS[one.optimizer].title, **look(number)}


def _best_of(axes: Axes, cell: str, rows: Sequence[Search]) -> None:
    style(axes, "points tried", "expected best loss, nats (seed 0)")
    for one in rows:
        best_of = expected_best(first_box_losses(one))
        axes.plot(range(1, len(best_of) + 1), best_of, **_look(one))


def _memory(axes: Axes, cell: str, rows: Sequence[Search]) -> None:
    style(
        axes,
        "optimizer state, bytes for each float32 weight of the model",
        "final validation loss, nats",
    )
    points: dict[str, tuple[float, float]] = {}
    colors: dict[str, str] = {}
    for one in rows:
        memory = kept(resolved(Experiment(OptimizerConfig(one.optimizer), CELLS[cell].setup)))
        at = memory.state_bytes / memory.parameters, mean_loss(one.winner)
        if math.isfinite(at[1]):
            title, color = (_look(one)[key] for key in ("label", "color"))
            points[title], colors[title] = at, color
            spread = statistics.stdev(one.losses)
            axes.errorbar(*at, yerr=spread, fmt="o", capsize=3, color=color)
    most = max((state for state, _ in points.values()), default=1)
    axes.set_xlim(-0.02 * most, 1.4 * most)
    axes.margins(y=0.12)
    low, high = axes.get_ylim()
    last: dict[int, float] = {}
    for title, (x, y) in sorted(points.items(), key=lambda point: point[1][1]):
        # labels of points at nearly the same state stand apart, to the right of all of them
        last[int(x)] = max(y, last.get(int(x), -math.inf) + (high - low) / 20)
        right = max(other for other, _ in points.values() if int(other) == int(x))
        axes.annotate(
            title,
            (right, y),
            (8, last[int(x)]),
            textcoords=("offset points", "data"),
            fontsize=9,
            va="center",
            color=colors[title],
        )


PICTURES: Mapping[str, Callable[[Axes, str, Sequence[Search]], None]] = {
    "memory": _memory,
    "best_of": _best_of,
}
"""How a panel of each picture is drawn, for a cell and its findings, best first."""


def plot(name: str, path: Path, found: Mapping[str, Sequence[Search]]) -> None:
    """Draw one of `PICTURES`, with a panel for each cell."""
    heights = [max(3.2, 1.2 + 0.32 * len(rows)) for rows in found.values()]
    with panels(path, "", heights) as every:
        for axes, (cell, rows) in zip(every, found.items(), strict=True):
            PICTURES[name](axes, cell, rows)
            axes.set_title(CELLS[cell].title, loc="left", fontsize=10)
