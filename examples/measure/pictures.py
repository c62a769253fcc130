"""What the pictures share: panels of one figure, stacked bars, ratios of times."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from examples.llama.run.plot import save, style
from examples.measure.timing import Spread


@contextlib.contextmanager
def panels(
    path: Path, title: str, heights: Sequence[float], columns: int = 1, width: float = 8.0
) -> Iterator[list[Axes]]:
    """Rows of panels, to be drawn; then one legend of all is added, and the file is written."""
    height = sum(heights) + 0.7
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    grid = figure.subplots(len(heights), columns, height_ratios=heights, squeeze=False)
    yield list(grid.flat)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    handles = [axes.get_legend_handles_labels() for axes in figure.axes]
    legend = {name: handle for each in handles for handle, name in zip(*each, strict=True)}
    if len(legend) > 1:
        fitting = max(1, int(14 * width / (6 + max(map(len, legend)))))
        figure.legend(
            list(legend.values()),
            list(legend),
            loc="outside lower center",
            ncols=min(6, fitting, len(legend)),
            frameon=False,
        )
    save(figure, path)


def name_lines(axes: Axes, title: str, label: str, names: Sequence[str]) -> None:
    """Name the lines of a panel, the first one on top."""
    style(axes, label, "")
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)


def look(index: int) -> dict[str, Any]:
    """The look of a curve by its number: ten colors, and then the same dashed."""
    return {"color": f"C{index % 10}", "linestyle": ("-", "--")[index // 10 % 2]}


def draw_stacks(
    axes: Axes, names: Sequence[str], parts: Mapping[str, tuple[str, Sequence[float]]]
) -> None:
    """Draw a bar for each name, made of parts with a color and a length each, with the sums."""
    left = [0.0] * len(names)
    for part, (color, widths) in parts.items():
        drawn = axes.barh(names, widths, left=left, color=color, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for text in axes.bar_label(drawn, [f"{t:.3g}" for t in left], padding=3, fontsize=8):
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axes.set_xlim(0, 1.13 * max(left))  # room for the numbers


def height_of_ratios(lines: int, series: int) -> float:
    """The height of a panel of `draw_ratios`."""
    return 0.9 + 0.17 * lines * (1 + series)


def draw_ratios(
    axes: Axes, series: Mapping[str, Sequence[Spread | None]], *, logarithmic: bool = False
) -> None:
    """Draw medians, with bars from quartile to quartile: a color for each series, line by line."""
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    for number, (name, spreads) in enumerate(series.items()):
        shift = 0.8 * ((number + 0.5) / len(series) - 0.5)
        found = [(line + shift, one) for line, one in enumerate(spreads) if one is not None]
        medians = [one.median for _, one in found]
        error = [[s.median - s.low for _, s in found], [s.high - s.median for _, s in found]]
        bars: dict[str, Any] = {"fmt": "o", "markersize": 4, "capsize": 2, "color": f"C{number}"}
        axes.errorbar(medians, [place for place, _ in found], xerr=error, label=name, **bars)
        for place, one in found:
            where: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 7}
            axes.annotate(f"{one.median:.3g}", (one.high, place), (5, 0), **where)
    axes.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.margins(x=0.12)
