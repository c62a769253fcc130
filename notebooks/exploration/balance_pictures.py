"""Pictures of one matrix on its way through an alternation."""

from collections.abc import Sequence
from typing import Any

import ipywidgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from exploration.controls import choice, integer, one_of
from exploration.convergence import (
    NO_NORM,
    NORMS,
    History,
    follow,
    group_rms,
    named,
    observed_rate,
    predicted_rate,
    singular_values,
    unit_rms,
)
from exploration.matrices import FAMILIES, draw_matrix, gaussian, sparse, triangular
from exploration.own_matrix import own_matrix
from exploration.pictures import (
    AFTER,
    BEFORE,
    color_bar,
    heat_map,
    legend,
    line_style,
    log_span,
    new_figure,
    style,
)

MOST_SWEEPS = 16
"""What every picture computes, so that a slider for the sweeps compiles nothing."""
SIZES = (16, 32, 64, 96, 128)
"""Numbers of rows and columns to choose from."""
_ROUNDING = 1e-13


def matrix_controls() -> dict[str, ipywidgets.DOMWidget]:
    """Menus and sliders for the matrix and up to three norms in order."""
    return {
        "family": choice("matrix", "ill-scaled", FAMILIES),
        "m": one_of("rows m", 64, SIZES),
        "n": one_of("columns n", 128, SIZES),
        **norm_controls(),
        "seed": integer("seed", 0, 0, 9),
    }


def norm_controls() -> dict[str, ipywidgets.DOMWidget]:
    """Menus for up to three norms in order."""
    return {
        "first": choice("first norm", "row", NORMS),
        "second": choice("second norm", "column", [NO_NORM, *NORMS]),
        "third": choice("third norm", NO_NORM, [NO_NORM, *NORMS]),
    }


def _history(family: str, m: int, n: int, names: Sequence[str], seed: int) -> History:
    return follow(draw_matrix(family, m, n, seed), named(*names), MOST_SWEEPS)


def _chosen(*names: str) -> list[str]:
    return [name for name in names if name != NO_NORM]


def before_and_after(
    family: str = "ill-scaled",
    m: int = 64,
    n: int = 128,
    first: str = "row",
    second: str = "column",
    third: str = NO_NORM,
    sweeps: int = 5,
    seed: int = 0,
) -> Figure:
    """The matrix, its rows, columns and singular values before and after some sweeps."""
    names = _chosen(first, second, third)
    history = _history(family, m, n, names, seed)
    return _after(history, names, sweeps)


def own_before_and_after(
    first: str = "row",
    second: str = "column",
    third: str = NO_NORM,
    sweeps: int = 5,
    **own: Any,
) -> Figure:
    """The reader's matrix, its rows, columns and singular values before and after some sweeps."""
    matrix, name = own_matrix(**own)
    names = _chosen(first, second, third)
    history = follow(matrix, named(*names), MOST_SWEEPS)
    figure = _after(history, names, sweeps)
    figure.axes[0].set_title(f"{name} {matrix.shape}, RMS 1"[-44:], loc="left", fontsize=12)
    return figure


def _after(history: History, names: Sequence[str], sweeps: int) -> Figure:
    before = unit_rms(history.iterates[0])
    after = history.iterates[sweeps * len(names)] if sweeps else before
    return compare(before, after, f"after L = {sweeps}: {', '.join(names)}")


def compare(before: np.ndarray, after: np.ndarray, title: str) -> Figure:
    """Two matrices: magnitudes, RMS of rows and columns, singular values."""
    figure, panels = new_figure(2, 2)
    span = log_span([before, after])
    heat_map(panels[0], before, "before, scaled to RMS 1", span)
    image = heat_map(panels[1], after, title, span)
    color_bar(panels[:2], image, "magnitude of an entry")
    _draw_groups(panels[2], before, after)
    _draw_singular_values(panels[3], before, after)
    return figure


def _draw_groups(axes: Axes, before: np.ndarray, after: np.ndarray) -> None:
    style(
        axes, "root mean squares, sorted", "rank, from the smallest (%)", "RMS of a row or column"
    )
    for matrix, when, color in ((before, "before", BEFORE), (after, "after", AFTER)):
        for values, what, dash in zip(group_rms(matrix), ("rows", "columns"), "-:", strict=True):
            live = np.sort(values[values > 0])
            rank = np.linspace(0, 100, len(live))
            axes.semilogy(rank, live, dash, color=color, linewidth=2, label=f"{what} {when}")
    _whole_decades(axes)
    legend(axes)


def _whole_decades(axes: Axes, most: int = 5) -> None:
    """Limits at powers of ten, so that few ticks are labelled; the highest `most` decades."""
    low, high = (
        10.0 ** np.round(np.log10(limit) + way)
        for limit, way in zip(axes.get_ylim(), (-0.5, 0.5), strict=True)
    )
    axes.set_ylim(max(min(low, 0.1), high * 10.0**-most), max(high, 10))


def _draw_singular_values(axes: Axes, before: np.ndarray, after: np.ndarray) -> None:
    style(axes, "singular values", "index", r"$\sigma_i\,/\sqrt{\max(m, n)}$")
    for matrix, label, color in ((before, "before", BEFORE), (after, "after", AFTER)):
        values = singular_values(matrix)
        index = np.arange(1, len(values) + 1)
        dash = "--" if label == "before" else "-"
        axes.semilogy(index, values, dash, color=color, linewidth=2, label=label)
    _whole_decades(axes)
    legend(axes)


def convergence(
    family: str = "ill-scaled",
    m: int = 64,
    n: int = 128,
    first: str = "row",
    second: str = "column",
    third: str = NO_NORM,
    sweeps: int = 12,
    seed: int = 0,
) -> Figure:
    """Residuals and the gap of the dual values, beside the predicted rate for rows and columns."""
    names = _chosen(first, second, third)
    history = _history(family, m, n, names, seed)
    figure, (left, right) = new_figure(1, 2, height=4)
    style(left, "how far each norm is from 1", "sweep", "residual of a norm (RMS)")
    for index, name in enumerate(names):
        values = history.residuals[:sweeps, index]
        exact = bool(np.all(values < _ROUNDING))
        label = f"{name}: below {_ROUNDING:g}" if exact else name
        _draw_decay(left, values, label, line_style(index))
    style(
        right, "what the dual value lacks", "half-step", r"$1 - \langle x_k, x_{k+1}\rangle / mn$"
    )
    gaps = history.gaps[: sweeps * len(names) - 1]
    _draw_decay(right, gaps, "measured", line_style(0))
    if sorted(names) == ["column", "row"]:
        rate = predicted_rate(history.last)
        residuals = history.residuals[:sweeps, names.index(first)]
        seen = observed_rate(residuals)
        _draw_guide(left, residuals, rate, rf"$\sigma_2^2$ = {rate:.3f} (slope seen: {seen:.3f})")
        _draw_guide(right, gaps, rate, r"$\sigma_2^2$ per half-step")
    for axes in (left, right):
        legend(axes)
    return figure


def _clear(values: np.ndarray) -> np.ndarray:
    """Which of them, up to the first that does not, stand out of rounding."""
    return np.logical_and.accumulate(values > _ROUNDING)


def _draw_decay(axes: Axes, values: np.ndarray, label: str, line: dict[str, Any]) -> None:
    count = np.arange(1, len(values) + 1)
    shown = np.where(_clear(values), values, np.nan)
    axes.semilogy(count, shown, marker="o", markersize=4, label=label, **line)
    axes.set_xlim(0.5, len(values) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(_ROUNDING, 4)


def _draw_guide(axes: Axes, values: np.ndarray, rate: float, label: str) -> None:
    """The line of the predicted slope through the last point that is clear of rounding."""
    last = np.count_nonzero(_clear(values))
    if last:
        count = np.arange(1, last + 1)
        guide = values[last - 1] * rate ** (count - float(last))
        axes.semilogy(count, guide, "k:", linewidth=2, label=label)


def patterns(density: float = 0.01, sweeps: int = 100, size: int = 64) -> Figure:
    """Rows and columns where there is no total support: residuals, and what the limit becomes."""
    rng = np.random.default_rng(0)
    cases = {
        "Gaussian": gaussian(size, size, rng),
        "triangular": triangular(size, size, rng),
        f"{density:.0%} dense": sparse(size, size, rng, density),
    }
    figure, (left, right) = new_figure(1, 2, height=4)
    style(left, "residual of the rows", "sweep", "residual (RMS)")
    count = np.arange(1, sweeps + 1)
    for index, (name, matrix) in enumerate(cases.items()):
        history = follow(matrix, named("row", "column"), sweeps)
        rows = np.maximum(history.residuals[:, 0], 1e-7)
        left.loglog(count, rows, linewidth=2, label=name, **line_style(index))
        if name == "triangular":
            last = history.last
    left.loglog(count, 2.5 / count, "k:", linewidth=1.2, label="1 / L")
    left.set_ylim(1e-4, 4)
    legend(left)
    image = heat_map(right, last, f"triangular, after {sweeps} sweeps", log_span([last], 3))
    color_bar([right], image, "magnitude of an entry")
    return figure
