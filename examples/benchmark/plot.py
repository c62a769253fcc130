"""The picture of the benchmark: ratios of times, with what is wanted of them."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from examples.benchmark.competitors import FAST, REFERENCE, TITLES
from examples.benchmark.targets import Comparison
from examples.llama.config import PresetName
from examples.llama.run.plot import save

_GROUP = 0.8
"""Height of the bars of a comparison together; from one comparison to the next it is 1."""


def plot_ratios(path: Path, title: str, comparisons: Sequence[Comparison]) -> None:
    """Draw ratios on each preset as bars, with lines where the targets are.

    One panel compares optimizers that pass over the weights with the reference. Another one has
    every other comparison with a target, on a logarithmic axis.

    Args:
        path: the PNG file.
        title: above the picture.
        comparisons: what was measured.
    """
    to_reference = [one for one in comparisons if one.under == REFERENCE and one.over in FAST]
    others = [one for one in comparisons if one.under != REFERENCE]
    panels = [panel for panel in (to_reference, others) if panel]
    presets = list(dict.fromkeys(preset for one in comparisons for preset in one.ratios))
    rows = len(to_reference) + len(others)
    height = 1.9 + rows * (0.14 + 0.13 * max(3, len(presets)))
    figure = Figure(figsize=(8, height), dpi=130, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    heights = [len(panel) for panel in panels]
    every = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False).ravel()
    for axes, panel in zip(every, panels, strict=True):
        if panel is to_reference:
            _bars(axes, panel, presets, start=0.0)
            axes.set_xlabel(f"time, ratio to {TITLES[REFERENCE]}; less is faster")
        else:
            axes.set_xscale("log")
            _bars(axes, panel, presets, start=1.0)
            axes.set_xlabel("time, ratio of the first to the second")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
    legend: dict[str, Artist] = {}
    for axes in every:
        found = axes.get_legend_handles_labels()
        legend |= dict(zip(found[1], found[0], strict=True))
    names = [*presets, *(name for name in legend if name not in presets)]
    handles = [legend[name] for name in names]
    figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False)
    save(figure, path)


def _bars(
    axes: Axes, panel: Sequence[Comparison], presets: Sequence[PresetName], start: float
) -> None:
    height = _GROUP / len(presets)
    for index, preset in enumerate(presets):
        found = [(row, one.ratios[preset]) for row, one in enumerate(panel) if preset in one.ratios]
        drawn = axes.barh(
            [row - _GROUP / 2 + (index + 0.5) * height for row, _ in found],
            [ratio.median - start for _, ratio in found],
            height,
            left=start,
            color=f"C{index}",
            xerr=[[r.median - r.low for _, r in found], [r.high - r.median for _, r in found]],
            error_kw={"elinewidth": 0.8, "ecolor": "0.3"},
            label=preset,
        )
        numbers = [f"{ratio.median:.2f}" for _, ratio in found]
        for text in axes.bar_label(drawn, numbers, padding=3, fontsize=6):
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.4})
    for row, one in enumerate(panel):
        axes.plot(one.mean, row, "D", color="black", markersize=4, label="" if row else "mean")
        bounds = [] if one.target is None else [one.target.at_least, one.target.at_most]
        bounds = [bound for bound in bounds if 0 < bound < math.inf]
        _marks(axes, bounds, row, "-", "target")
        means = [] if one.target is None else [one.target.mean_at_most]
        _marks(axes, [mean for mean in means if mean < math.inf], row, "--", "target of the mean")
    axes.set_yticks(
        range(len(panel)), [one.title.removesuffix(f" / {TITLES[REFERENCE]}") for one in panel]
    )
    axes.invert_yaxis()
    axes.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.margins(x=0.1)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _marks(axes: Axes, places: Sequence[float], row: int, line: str, name: str) -> None:
    if places:
        known = name in axes.get_legend_handles_labels()[1]
        axes.vlines(
            places,
            row - 0.46,
            row + 0.46,
            color="crimson",
            linestyle=line,
            linewidth=1.6,
            label="" if known else name,
        )
