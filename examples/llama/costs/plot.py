"""Pictures of what optimizers cost: memory and time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from examples.llama.run.records import write_atomically

_PARTS = (("weights", "C7"), ("optimizer state", "C0"), ("temporary, during a step", "C1"))


@dataclass(frozen=True)
class MemoryBar:
    """One optimizer's memory, in the unit of its panel."""

    title: str
    weights: float
    state: float
    temporary: float


@dataclass(frozen=True)
class MemoryPanel:
    """One model."""

    title: str
    unit: str
    bars: Sequence[MemoryBar]
    marks: tuple[float, float]
    """Two amounts worth a line, in the same unit."""


@dataclass(frozen=True)
class RatioBar:
    """One optimizer's ratio to the reference: the median of all rounds, and its quartiles."""

    title: str
    low: float
    median: float
    high: float


@dataclass(frozen=True)
class RatioPanel:
    """One kind of ratio."""

    title: str
    label: str
    bars: Sequence[RatioBar]
    logarithmic: bool = False


def _panels(title: str, rows: int, columns: int, bars: int) -> tuple[Figure, list[Axes]]:
    """Panels of horizontal bars, high enough for that many bars each."""
    height = rows * (0.9 + 0.27 * bars) + 0.7
    figure = Figure(figsize=(5.4 * columns, height), dpi=130, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _style(axes: Axes, title: str, label: str, titles: Sequence[str]) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(label)
    axes.set_yticks(range(len(titles)), titles)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def plot_memory(path: Path, title: str, panels: Sequence[MemoryPanel]) -> None:
    """Draw weights, state and temporary memory of each optimizer, a panel with a scale per model.

    Args:
        path: the PNG file.
        title: above the picture.
        panels: the models, each with the same optimizers.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, every = _panels(title, rows, columns, max(len(panel.bars) for panel in panels))
    for axes in every[len(panels) :]:
        axes.remove()
    for axes, panel in zip(every, panels, strict=False):
        bars = panel.bars
        _style(axes, panel.title, panel.unit, [bar.title for bar in bars])
        left = [0.0] * len(bars)
        parts = zip(*((bar.weights, bar.state, bar.temporary) for bar in bars), strict=True)
        for (name, color), widths in zip(_PARTS, parts, strict=True):
            if not any(widths):
                continue
            drawn = axes.barh(range(len(bars)), widths, left=left, color=color, label=name)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        totals = axes.bar_label(drawn, [f"{total:.3g}" for total in left], padding=3, fontsize=8)
        for text in totals:
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        axes.set_xlim(0, 1.13 * max(left))  # room for the numbers
        for mark, line in zip(panel.marks, ("--", ":"), strict=True):
            if mark < axes.get_xlim()[1]:
                name = f"{mark:g} {panel.unit}"
                axes.axvline(mark, color="black", linewidth=1, linestyle=line, label=name)
    legend: dict[str, Artist] = {}
    for axes in every[: len(panels)]:
        handles, names = axes.get_legend_handles_labels()
        legend |= dict(zip(names, handles, strict=True))
    figure.legend(
        list(legend.values()),
        list(legend),
        loc="outside lower center",
        ncols=len(legend),
        frameon=False,
    )
    _save(figure, path)


def plot_throughput(path: Path, title: str, panels: Sequence[RatioPanel]) -> None:
    """Draw each optimizer's ratios to the reference, with lines from quartile to quartile.

    Args:
        path: the PNG file.
        title: above the picture.
        panels: the kinds of ratio, each with the same optimizers.
    """
    figure, every = _panels(title, 1, len(panels), max(len(panel.bars) for panel in panels))
    for axes, panel in zip(every, panels, strict=True):
        bars = panel.bars
        _style(axes, panel.title, panel.label, [bar.title for bar in bars])
        if panel.logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        medians = [bar.median for bar in bars]
        spread = [[bar.median - bar.low for bar in bars], [bar.high - bar.median for bar in bars]]
        axes.errorbar(medians, range(len(bars)), xerr=spread, fmt="o", markersize=5, capsize=3)
        for place, bar in enumerate(bars):
            axes.annotate(
                f"{bar.median:.3g}",
                (bar.high, place),
                (5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
        axes.margins(x=0.12)
        axes.label_outer()
    _save(figure, path)
