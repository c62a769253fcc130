"""Pictures of runs, comparisons and studies."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from examples.llama.records import write_atomically

Curve = tuple[Sequence[float], Sequence[float]]
"""x and y values of the same length."""


def _style(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _figure(x_label: str, y_label: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    _style(axes, x_label, y_label)
    axes.set_title(title, loc="left", fontsize=11)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _millions(tokens: Sequence[float]) -> list[float]:
    return [value / 1e6 for value in tokens]


def _show_from(axes: Axes, curves: Sequence[Curve], share: float) -> None:
    """Let the first few per cent of training leave the picture, where every curve falls alike."""
    settled = [
        loss
        for tokens, losses in curves
        for t, loss in zip(tokens, losses, strict=True)
        if t >= share * max(tokens)
    ]
    low, high = min(settled), max(settled)
    margin = 0.06 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + margin)


def plot_run(path: Path, title: str, train: Curve, validation: Curve) -> None:
    """Draw training and validation loss against tokens."""
    figure, axes = _figure("million tokens", "loss (nats per byte)", title)
    axes.plot(_millions(train[0]), train[1], linewidth=0.8, alpha=0.55, label="training, each step")
    axes.plot(_millions(validation[0]), validation[1], "o-", markersize=4, label="validation")
    _show_from(axes, [train, validation], 0.03)
    axes.legend(frameon=False)
    _save(figure, path)


def plot_comparison(path: Path, title: str, curves: Mapping[str, Curve]) -> None:
    """Draw each optimizer's validation loss against tokens."""
    figure, axes = _figure("million tokens", "validation loss (nats per byte)", title)
    for name, (tokens, losses) in curves.items():
        axes.plot(
            _millions(tokens), losses, "o-", markersize=3.5, label=f"{name}: {losses[-1]:.3f}"
        )
    _show_from(axes, list(curves.values()), 0.15)
    axes.legend(frameon=False)
    _save(figure, path)


def plot_study(
    path: Path, title: str, by_rate: Mapping[str, Curve], by_rest_rate: Mapping[str, Curve]
) -> None:
    """Draw each optimizer's final validation loss against its rates; a cross is a diverged try.

    Args:
        path: the PNG file.
        title: above the picture.
        by_rate: per optimizer, rates of the matrices (or of all parameters) and losses; NaN is a
            diverged try.
        by_rest_rate: the same for the rates of embedding, head and norms; may be empty.
    """
    panels = [("peak rate of the matrices, or of all parameters", by_rate)]
    if by_rest_rate:
        panels.append(("peak rate of embedding, head and norms", by_rest_rate))
    figure = Figure(figsize=(2 + 5 * len(panels), 4.4), dpi=150, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    curves = (*by_rate.values(), *by_rest_rate.values())
    finite = [loss for _, losses in curves for loss in losses if not math.isnan(loss)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    # a rate far too large would squeeze all that matters into the lowest few pixels
    high = min(high, low + 1.5) + 0.05
    colors = {name: f"C{index}" for index, name in enumerate(by_rate)}
    for axes, (label, panel) in zip(row, panels, strict=True):
        _style(axes, label, "final validation loss (nats per byte)")
        axes.set_xscale("log")
        axes.set_ylim(low - 0.05, high)
        for name, (rates, losses) in panel.items():
            axes.plot(rates, losses, "o-", markersize=4, label=name, color=colors[name])
            lost = [rate for rate, loss in zip(rates, losses, strict=True) if math.isnan(loss)]
            height = [high - 0.03 * (high - low)] * len(lost)
            axes.plot(lost, height, "x", color=colors[name], markersize=8)
        left, right = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if right < 100 * left else (1,)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.label_outer()
    figure.legend(
        *row[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(colors)
    )
    _save(figure, path)
