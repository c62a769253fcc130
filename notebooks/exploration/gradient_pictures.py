"""Pictures of the recorded gradients of a LLaMA."""

from collections.abc import Mapping, Sequence

import ipywidgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from exploration.balance_pictures import compare
from exploration.candidates import candidates, operator_norm, times, unequal
from exploration.controls import choice, integer, one_of
from exploration.convergence import singular_values, unit_rms
from exploration.directions import (
    cosine,
    cosines,
    directions,
    row_residual,
    sinkhorn_directions,
)
from exploration.gradients import Moment, imbalance
from exploration.pictures import AFTER, COLORS, legend, line_style, new_figure, style

_MOST_SWEEPS = 12
_MARKERS = "osD^vP"


class GradientPictures:
    """Pictures of gradients that `record` has kept."""

    def __init__(self, moments: Sequence[Moment]):
        """Keep the gradients by step."""
        self.moments = {moment.step: moment for moment in moments}
        self.steps = list(self.moments)
        self.names = list(moments[0].gradients)
        self.layers = len(moments[0].gradients[self.names[0]])
        shapes = {stack.shape[1:]: stack[0] for stack in moments[0].gradients.values()}
        print(f"Compiling every direction for the shapes {sorted(shapes)}")
        for gradient in shapes.values():
            directions(gradient), candidates(gradient), sinkhorn_directions(gradient, _MOST_SWEEPS)

    def gradient(self, name: str, layer: int, step: int) -> np.ndarray:
        """One gradient, scaled to root mean square 1."""
        return unit_rms(self.moments[step].gradients[name][layer])

    def controls(self) -> dict[str, ipywidgets.DOMWidget]:
        """A menu of matrices and sliders for layer and step."""
        return {
            "name": choice("matrix", "mlp/down", self.names),
            "layer": integer("layer", 0, 0, self.layers - 1),
            "step": one_of("step", self.steps[-1], self.steps),
        }

    def how_balanced(self) -> Figure:
        """How unequal rows and columns are, by matrix; one dot a layer."""
        figure, panels = new_figure(1, 2, height=4.6)
        for axis, (axes, what) in enumerate(zip(panels, ("rows", "columns"), strict=True)):
            style(axes, f"unequal {what}", "90th / 10th percentile of their RMS", "")
            for shift, step in enumerate(self.steps):
                stacks = self.moments[step].gradients.values()
                values = [[imbalance(each)[axis] for each in stack] for stack in stacks]
                self._draw_dots(axes, values, shift, f"step {step}")
            axes.set_xscale("log")
            axes.axvline(1, color="k", linestyle=":", linewidth=1.5)
            _plain_ticks(axes, [1, 2, 5, 10, 20])
        self._label_matrices(panels)
        legend(panels[1], loc="upper right", handletextpad=0.2)
        return figure

    def _draw_dots(
        self, axes: Axes, values: Sequence[Sequence[float]], shift: int, label: str
    ) -> None:
        for height, row in enumerate(values):
            axes.plot(
                row,
                [height + 0.22 * (shift - 1)] * len(row),
                _MARKERS[shift],
                color=COLORS[shift],
                markersize=5,
                label=label if height == 0 else None,
            )

    def _label_matrices(self, panels: Sequence[Axes]) -> None:
        for axes in panels:
            axes.set_yticks(range(len(self.names)), [""] * len(self.names))
            axes.set_ylim(len(self.names) - 0.4, -0.6)
        panels[0].set_yticklabels(self.names)
        panels[0].figure.subplots_adjust(left=0.19, wspace=0.08)

    def before_and_after(
        self, name: str = "mlp/down", layer: int = 0, step: int = 80, sweeps: int = 5
    ) -> Figure:
        """One gradient and SinkGD's direction."""
        gradient = self.gradient(name, layer, step)
        after = sinkhorn_directions(gradient, _MOST_SWEEPS)[sweeps - 1]
        return compare(gradient, after, f"SinkGD's direction, L = {sweeps}")

    def what_sweeps_change(self, name: str = "mlp/down", layer: int = 0, step: int = 80) -> Figure:
        """Row residual and angle to the limit against L, beside those of all other matrices."""
        figure, (left, right) = new_figure(1, 2, height=4)
        style(left, "how unequal rows still are", "sweeps L", "largest |RMS of a row - 1|")
        style(right, "angle to the limit", "sweeps L", "angle (degrees)")
        count = np.arange(1, _MOST_SWEEPS)
        for other, stack in self.moments[step].gradients.items():
            for index, gradient in enumerate(stack):
                found = sinkhorn_directions(unit_rms(gradient), _MOST_SWEEPS)
                chosen = (other, index) == (name, layer)
                line = {"color": AFTER, "marker": "o", "zorder": 3} if chosen else {"color": "0.75"}
                residuals = [row_residual(x) for x in found[:-1]]
                angles = [_angle(x, found[-1]) for x in found[:-1]]
                left.semilogy(count, residuals, **line)
                right.semilogy(count, angles, **line)
        for axes in (left, right):
            axes.set_xlim(0.7, 7.3)
            for sweeps in (1, 2, 5):
                axes.axvline(sweeps, color=COLORS[1], linestyle=":", linewidth=1.2, zorder=0)
        left.set_ylim(1e-6, 2)
        right.set_ylim(1e-3, 90)
        left.plot([], color=AFTER, marker="o", label=f"{name}, layer {layer}")
        left.plot([], color="0.75", label="all other matrices")
        legend(left)
        return figure

    def compare_directions(self, name: str = "mlp/down", layer: int = 0, step: int = 80) -> Figure:
        """Cosines between the directions of one gradient, and their singular values."""
        found = directions(self.gradient(name, layer, step))
        figure, (left, right) = new_figure(1, 2, height=4.4)
        names = list(found)
        table = cosines(found)
        left.imshow(table, vmin=0, vmax=1, cmap="cividis")
        for i, j in np.ndindex(*table.shape):
            color = "black" if table[i, j] > 0.55 else "white"
            left.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", color=color)
        left.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=11)
        left.set_yticks(range(len(names)), names, fontsize=11)
        left.set_title("cosine of two directions", loc="left", fontsize=12)
        style(right, "singular values", "index", r"$\sigma_i\,/\sqrt{\max(m, n)}$")
        for index, (label, direction) in enumerate(found.items()):
            values = singular_values(direction)
            rank = np.arange(1, len(values) + 1)
            right.semilogy(rank, values, linewidth=2, label=label, **line_style(index))
        right.set_ylim(1e-3, 12)
        legend(right, loc="lower left")
        figure.subplots_adjust(left=0.15, bottom=0.24, wspace=0.3)
        return figure

    def compare_candidates(self, name: str = "mlp/down", layer: int = 0, step: int = 80) -> Figure:
        """What each candidate does to one gradient, and what it costs on a matrix of 512 x 1376."""
        found = candidates(self.gradient(name, layer, step))
        figure, panels = new_figure(2, 2, height=4.2)
        style(panels[0], "singular values, at RMS 1", "index", r"$\sigma_i\,/\sqrt{\max(m, n)}$")
        for index, label in enumerate(list(found)[-len(COLORS) :]):
            values = singular_values(unit_rms(found[label]))
            rank = np.arange(1, len(values) + 1)
            panels[0].semilogy(rank, values, linewidth=2, label=label, **line_style(index))
        panels[0].set_ylim(1e-7, 12)
        legend(panels[0], loc="lower left")
        norms = {label: operator_norm(direction) for label, direction in found.items()}
        rows, columns = (
            {label: max(unequal(direction)[axis], 1e-7) for label, direction in found.items()}
            for axis in (0, 1)
        )
        _bars(panels[1], [norms], "operator norm", r"$\sigma_1\,/\sqrt{m/n}$")
        _bars(panels[2], [rows, columns], "rows blue, columns orange", "largest error of an RMS")
        _bars(panels[3], [times()], "time for 512 x 1376", "milliseconds, on this CPU")
        figure.subplots_adjust(left=0.205, wspace=0.75)
        return figure

    def how_alike(self, step: int = 80) -> Figure:
        """The cosines of SinkGD and of SWAN with the others, by matrix; one dot a layer."""
        stacks = self.moments[step].gradients.values()
        found = [[directions(unit_rms(gradient)) for gradient in stack] for stack in stacks]
        figure, panels = new_figure(1, 2, height=4.6)
        for axes, pivot in zip(panels, ("SinkGD, L = 5", "SWAN"), strict=True):
            others = ("gradient", "sign", "Muon")
            style(axes, f"{pivot} and ...", "cosine", "")
            for shift, other in enumerate(others):
                values = [[cosine(each[pivot], each[other]) for each in row] for row in found]
                self._draw_dots(axes, values, shift, other)
            axes.set_xlim(0, 1)
            axes.set_xticks([0.2, 0.4, 0.6, 0.8])
        self._label_matrices(panels)
        legend(panels[0], loc="upper left", handletextpad=0.2)
        return figure


def _bars(axes: Axes, kinds: Sequence[Mapping[str, float]], title: str, label: str) -> None:
    """One bar for each name and kind, from the top, on a logarithmic scale."""
    style(axes, title, label, "")
    height = 0.8 / len(kinds)
    for shift, values in enumerate(kinds):
        places = np.arange(len(values)) + height * (shift - (len(kinds) - 1) / 2)
        axes.barh(places, list(values.values()), height, color=COLORS[shift])
    axes.set_yticks(range(len(kinds[0])), list(kinds[0]), fontsize=10)
    axes.set_xscale("log")
    axes.invert_yaxis()


def _angle(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    half = np.linalg.norm(x / np.linalg.norm(x) - y / np.linalg.norm(y)) / 2
    return float(np.degrees(2 * np.arcsin(half)))


def _plain_ticks(axes: Axes, values: Sequence[int]) -> None:
    axes.set_xticks(values, [str(value) for value in values])
    axes.set_xticks([], minor=True)
