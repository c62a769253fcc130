"""Pictures of descents on small losses."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from exploration.descent import (
    OPTIMIZERS,
    descend,
    loss,
    loss_and_point,
    loss_and_rows,
    loss_and_spectrum,
)
from exploration.landscapes import factorization, valley, zipf_regression
from exploration.pictures import legend, line_style, new_figure, style

_GRID = np.geomspace(1e-3, 1.0, 13)
_SGD_GRID = np.geomspace(2e-3, 1.9, 13)


def _rates(step: float, sgd: float) -> dict[str, float]:
    return {name: sgd if name == "SGD" else step for name in OPTIMIZERS}


def _losses(axes: Axes, losses: dict[str, np.ndarray], lowest: float = 1e-6) -> None:
    style(axes, "loss, over that at the start", "step", "f / f at the start")
    for index, (name, values) in enumerate(losses.items()):
        shown = np.maximum(values / values[0], lowest)
        axes.semilogy(shown, linewidth=2, label=name, **line_style(index))
    axes.set_ylim(lowest, 30)


def two_parameters(
    condition: float = 20,
    angle: float = 0,
    step: float = 0.1,
    sgd: float = 1.5,
    cosine: bool = True,
    noise: float = 0.0,
    steps: int = 50,
) -> Figure:
    """The walks through a valley, and their losses."""
    problem = valley(condition, angle)
    seen = descend(problem, _rates(step, sgd), steps, loss_and_point, cosine=cosine, noise=noise)
    figure, (left, right) = new_figure(1, 2, height=4.4)
    style(left, "walks through the valley", r"$w_1$", r"$w_2$")
    grid = np.linspace(-2, 2, 121)
    points = np.stack(np.meshgrid(grid, grid), axis=-1)
    height = 0.5 * np.einsum("ijk,kl,ijl->ij", points, problem.hessian, points)
    levels = np.geomspace(1e-3, 1, 10) * height.max()
    left.contour(grid, grid, height, levels, colors="0.75", linewidths=0.8)
    for index, (name, (_, walk)) in enumerate(seen.items()):
        left.plot(*walk.T, marker=".", markersize=4, label=name, **line_style(index))
    left.plot(*problem.start()["w"][0], "k*", markersize=11)
    left.plot(0, 0, "k+", markersize=12)
    left.set(xlim=(-2, 2), ylim=(-2, 2))
    _losses(right, {name: losses for name, (losses, _) in seen.items()})
    legend(right)
    return figure


def regression(
    exponent: float = 1.0,
    condition: float = 100,
    turned: bool = False,
    sweeps: int = 5,
    step: float = 0.03,
    sgd: float = 1.5,
    noise: float = 0.0,
    at: int = 30,
    steps: int = 150,
) -> Figure:
    """Loss, and what each output still loses after some steps, from the frequent to the rare."""
    problem = zipf_regression(exponent, condition, turned)
    seen = descend(problem, _rates(step, sgd), steps, loss_and_rows, sweeps, noise=noise)
    figure, (left, right) = new_figure(1, 2, height=4)
    _losses(left, {name: losses for name, (losses, _) in seen.items()})
    legend(left)
    title = f"after {at} steps, output by output"
    style(right, title, "output, from frequent to rare", "error left over")
    for index, (name, (_, rows)) in enumerate(seen.items()):
        rank = np.arange(1, rows.shape[1] + 1)
        last = np.maximum(rows[at], 1e-6)
        right.loglog(rank, last, marker="o", markersize=3, label=name, **line_style(index))
    right.set_ylim(1e-6, 30)
    return figure


def rate_sweep(
    exponent: float = 1.0,
    condition: float = 100,
    turned: bool = False,
    sweeps: int = 5,
    noise: float = 0.0,
) -> Figure:
    """The final loss of the regression against the rate, and each optimizer at its best."""
    problem = zipf_regression(exponent, condition, turned)
    grids = {name: _SGD_GRID if name == "SGD" else _GRID for name in OPTIMIZERS}
    seen = descend(problem, grids, 150, loss, sweeps, noise=noise)
    figure, (left, right) = new_figure(1, 2, height=4)
    best = {}
    style(left, "final loss by rate", "rate (SGD: over 1 / curvature)", "f / f at the start")
    for index, (name, losses) in enumerate(seen.items()):
        final = np.maximum(np.nan_to_num(losses[:, -1] / losses[:, 0], nan=np.inf), 1e-6)
        top = int(np.argmin(final))
        best[name] = losses[top]
        label = f"{name}, best: {grids[name][top]:.2g}"
        left.loglog(grids[name], final, marker="o", markersize=4, label=label, **line_style(index))
    left.set_ylim(5e-7, 1e3)
    legend(left)
    _losses(right, best)
    right.set_title("each at its best rate", loc="left", fontsize=12)
    return figure


def factors(
    condition: float = 10, step: float = 0.03, sgd: float = 0.5, steps: int = 200
) -> Figure:
    """The singular values of the product on their way to those of the target."""
    problem = factorization(condition)
    seen = descend(problem, _rates(step, sgd), steps, loss_and_spectrum)
    goal = np.linalg.svd(problem.target, compute_uv=False)
    rank = problem.factors["a"].shape[1]
    figure, panels = new_figure(2, 2, height=3.2)
    for axes, (name, (losses, values)) in zip(panels, seen.items(), strict=True):
        final = losses[-1] / losses[0]
        style(axes, f"{name}: f / f at the start = {final:.1e}", "step", r"$\sigma_i(AB)$")
        for index in range(rank):
            axes.axhline(goal[index], color="k", linestyle=":", linewidth=1)
            axes.plot(values[:, index], linewidth=2, color=line_style(index)["color"])
        axes.set_ylim(-0.5, 1.25 * goal[0])
    return figure
