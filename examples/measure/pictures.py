"""Pictures that compare optimizers: memory as stacked bars, ratios of times as points; curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from examples.llama.run.plot import Curve, save, show_from, style
from examples.measure.timing import Spread

_COLORS = {"weights": "C7", "optimizer state": "C0", "temporary, during a step": "C1"}


@dataclass(frozen=True)
class Stack:
    """One panel of stacked bars."""

    title: str
    unit: str
    names: Sequence[str]
    """One for each bar."""
    parts: Mapping[str, Sequence[float]]
    """The lengths of each part, bar by bar."""
    marks: Sequence[float]
    """Amounts worth a line."""


@dataclass(frozen=True)
class Ratios:
    """One panel of ratios."""

    title: str
    label: str
    names: Sequence[str]
    """One for each line."""
    series: Mapping[str, Sequence[Spread | None]]
    """Points of one color, line by line."""
    targets: Sequence[Sequence[float]] = ()
    """Values worth a mark, line by line."""
    logarithmic: bool = False


def _style(axes: Axes, title: str, label: str, names: Sequence[str]) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(label)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _finish(figure: Figure, title: str, path: Path) -> None:
    """Add the title and one legend of all panels, and write the file."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    handles = [axes.get_legend_handles_labels() for axes in figure.axes]
    legend = {name: handle for each in handles for handle, name in zip(*each, strict=True)}
    if len(legend) > 1:
        figure.legend(
            list(legend.values()),
            list(legend),
            loc="outside lower center",
            ncols=min(6, len(legend)),
            frameon=False,
        )
    save(figure, path)


def plot_stacks(path: Path, title: str, stacks: Sequence[Stack]) -> None:
    """Draw panels of stacked bars, two in a row, each with its own scale."""
    columns = min(2, len(stacks))
    rows = -(-len(stacks) // columns)
    height = rows * (0.9 + 0.27 * max(len(stack.names) for stack in stacks)) + 0.7
    figure = Figure(figsize=(5.4 * columns, height), dpi=130, layout="constrained")
    for place, stack in enumerate(stacks, start=1):
        axes = figure.add_subplot(rows, columns, place)
        _style(axes, stack.title, stack.unit, stack.names)
        left = [0.0] * len(stack.names)
        for name, widths in stack.parts.items():
            drawn = axes.barh(stack.names, widths, left=left, color=_COLORS[name], label=name)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        for text in axes.bar_label(drawn, [f"{t:.3g}" for t in left], padding=3, fontsize=8):
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        axes.set_xlim(0, 1.13 * max(left))  # room for the numbers
        for mark, line in zip(stack.marks, ("--", ":"), strict=True):
            if mark < axes.get_xlim()[1]:
                label = f"{mark:g} {stack.unit}"
                axes.axvline(mark, color="black", linewidth=1, linestyle=line, label=label)
    _finish(figure, title, path)


def plot_ratios(path: Path, title: str, panels: Sequence[Ratios]) -> None:
    """Draw panels of ratios: medians, with lines from quartile to quartile."""
    heights = [0.9 + 0.17 * len(panel.names) * (1 + len(panel.series)) for panel in panels]
    figure = Figure(figsize=(8, 0.7 + sum(heights)), dpi=130, layout="constrained")
    every = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, panel in zip(every, panels, strict=True):
        _style(axes, panel.title, panel.label, panel.names)
        if panel.logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        for number, (name, spreads) in enumerate(panel.series.items()):
            shift = 0.8 * ((number + 0.5) / len(panel.series) - 0.5)
            found = [(line + shift, one) for line, one in enumerate(spreads) if one is not None]
            medians = [one.median for _, one in found]
            error = [[s.median - s.low for _, s in found], [s.high - s.median for _, s in found]]
            places = [place for place, _ in found]
            look = {"fmt": "o", "markersize": 4, "capsize": 2, "color": f"C{number}"}
            axes.errorbar(medians, places, xerr=error, label=name, **look)
            for place, one in found:
                where = {"textcoords": "offset points", "va": "center", "fontsize": 7}
                axes.annotate(f"{one.median:.3g}", (one.high, place), (5, 0), **where)
        for line, targets in enumerate(panel.targets):
            if targets:
                label = "target" if not any(panel.targets[:line]) else ""
                axes.vlines(targets, line - 0.45, line + 0.45, color="crimson", label=label)
        axes.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
        axes.margins(x=0.12)
    _finish(figure, title, path)


def look(index: int) -> dict[str, Any]:
    """The look of a curve by its number: ten colors, and then the same dashed."""
    return {"color": f"C{index % 10}", "linestyle": ("-", "--")[index // 10 % 2]}


def plot_curves(path: Path, title: str, curves: Mapping[str, Curve]) -> None:
    """Draw each optimizer's validation loss against tokens."""
    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    style(axes, "million tokens", "validation loss (nats per token)")
    axes.set_title(title, loc="left", fontsize=11)
    for index, (name, (tokens, losses)) in enumerate(curves.items()):
        millions, label = [t / 1e6 for t in tokens], f"{name}: {losses[-1]:.3f}"
        axes.plot(millions, losses, marker="o", markersize=3.5, label=label, **look(index))
    show_from(axes, list(curves.values()), 0.15)
    axes.legend(frameon=False, fontsize="small" if len(curves) > 6 else "medium")
    save(figure, path)
