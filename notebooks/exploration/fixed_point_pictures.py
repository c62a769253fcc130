"""Pictures of alternations that end at once, that cannot end, and that circle."""

import itertools
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import multinorm_optax as mo
from exploration.convergence import follow, group_rms, singular_values
from exploration.energies import radius_of_sqrt_n, row_residuals
from exploration.matrices import draw_matrix
from exploration.pictures import AFTER, BEFORE, COLORS, legend, line_style, new_figure, style
from exploration.plane import square, walk

ORTHOGONALIZERS: Mapping[str, mo.SpectralNorm] = {
    "SVD": mo.SpectralNorm(mo.exact_svd()),
    "Polar Express, 12 steps": mo.SpectralNorm(mo.polar_express()),
    "Muon's quintic, 5 steps": mo.SpectralNorm(mo.muon_quintic()),
    "SWAN's whitening, 10 steps": mo.SpectralNorm(mo.swan_whitening()),
}
"""Ways to make the polar factor, by the name that menus give them."""
_ROUNDING = 1e-16


def one_sweep(orthogonalizer: str = "SVD", m: int = 64, n: int = 128, seed: int = 0) -> Figure:
    """(row, spectral) on an ill-scaled matrix: row sizes and singular values after one sweep."""
    spectral = ORTHOGONALIZERS[orthogonalizer]
    matrix = draw_matrix("ill-scaled", m, n, seed)
    longer = mo.RowNorm() if m <= n else mo.ColumnNorm()
    orders = {
        "row, spectral": (mo.RowNorm(), spectral),
        "longer side, spectral": (longer, spectral),
        "row, column": (mo.RowNorm(), mo.ColumnNorm()),
    }
    figure, (left, right) = new_figure(1, 2, height=4)
    style(left, f"residual of the first norm, {m} x {n}", "sweep", "residual (RMS)")
    for index, (name, norms) in enumerate(orders.items()):
        history = follow(matrix, norms, 4)
        values = np.maximum(history.residuals[:, 0], _ROUNDING)
        count = np.arange(1, len(values) + 1)
        left.semilogy(count, values, marker="o", markersize=4, label=name, **line_style(index))
        if index == 0:
            after = history.iterates[2]
    left.set_ylim(_ROUNDING / 2, 4)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(left)
    style(right, "after one sweep of (row, spectral)", "rank, from the smallest (%)", "size")
    for index, (name, values) in enumerate(
        {
            "RMS of a row": group_rms(after)[0],
            "RMS of a column": group_rms(after)[1],
            r"$\sigma_i\,/\sqrt{\max(m, n)}$": singular_values(after),
        }.items()
    ):
        rank = np.linspace(0, 100, len(values))
        right.plot(rank, np.sort(values), linewidth=2, label=name, **line_style(index))
    right.set_ylim(0, max(1.6, right.get_ylim()[1]))
    legend(right)
    return figure


def energy(radius: float = 0.75, m: int = 80, n: int = 32, seed: int = 0) -> Figure:
    """(row, r times spectral): what the row norm is off by, as a function of sweep and r."""
    matrix = draw_matrix("Gaussian", m, n, seed)
    radii = np.array([radius, 1.0, radius_of_sqrt_n(m, n), 0.5, 1.25, 1.5])
    residuals = row_residuals(matrix, radii, 12)
    figure, (left, right) = new_figure(1, 2, height=4)
    style(left, f"residual of the rows, {m} x {n}", "sweep", "residual (RMS)")
    count = np.arange(1, residuals.shape[1] + 1)
    for index, label in enumerate((f"r = {radius:.2f}", "r = 1: equal energies")):
        values = np.maximum(residuals[index], _ROUNDING)
        left.semilogy(count, values, marker="o", markersize=4, label=label, **line_style(index))
    left.set_ylim(_ROUNDING / 2, 4)
    legend(left)
    style(right, "residual after 12 sweeps", "r, radius of the spectral norm", "residual (RMS)")
    guide = np.linspace(0.4, 1.6, 25)
    right.plot(guide, abs(guide - 1), "k:", linewidth=1.5, label=r"$|1 - r|$")
    right.plot(radii, residuals[:, -1], "o", color=COLORS[5], markersize=6, label="measured")
    right.plot(radius, residuals[0, -1], "o", color=AFTER, markersize=10, label="the slider's r")
    papers = radii[2], residuals[2, -1]
    right.plot(*papers, "s", color=BEFORE, markersize=8, label=r"$\sqrt{n}$ for $\sqrt{\max(m,n)}$")
    right.set_ylim(-0.02, 0.85)
    legend(right, loc="upper center")
    return figure


def circle(angle: float = 30, direction: float = 35) -> Figure:
    """The max norm and the turned max norm in the plane: the walk, and its dual values."""
    points, dual_values = walk(direction, angle)
    figure, (left, right) = new_figure(1, 2, height=4.4)
    style(left, "unit balls and iterates", r"$w_1$", r"$w_2$")
    for index, (turn, label) in enumerate(((0, "max norm"), (angle, f"turned by {angle:g}°"))):
        outline = square(turn)
        left.plot(*outline.T, linewidth=2, label=label, **line_style(index))
    for start, end in itertools.pairwise(points):
        arrow = {"arrowstyle": "-|>", "color": "0.35", "shrinkA": 5, "shrinkB": 5, "linewidth": 1.4}
        left.annotate("", end, start, arrowprops={**arrow, "connectionstyle": "arc3,rad=0.25"})
    left.plot(*points[0], "k*", markersize=11, label="start")
    for index in (0, 1):
        left.plot(*points[1 + index :: 2].T, "o", markersize=8, color=COLORS[index])
    left.set(xlim=(-2.1, 2.1), ylim=(-1.8, 2.4), aspect="equal")
    legend(left, loc="upper left", ncols=3, columnspacing=0.8, handlelength=1.4)
    style(right, "the dual value stays below c²", "half-step k", r"$\langle x_k, x_{k+1}\rangle$")
    count = np.arange(1, len(dual_values))
    right.plot(count, dual_values[1:], "o-", color=AFTER, label="measured")
    right.axhline(2, color="k", linestyle=":", label=r"$c^2 = 2$: a common fixed point")
    right.set_ylim(0, 2.2)
    legend(right, loc="lower right")
    return figure
