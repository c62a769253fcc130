"""What all pictures share: colours that the colour-blind can tell apart, labels, PNG files."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette without its yellow, which is too light for lines."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
"""One dash pattern for each colour: a line can be told without its colour."""
BEFORE, AFTER = COLORS[1], COLORS[0]
MAP = "cividis"

_FONT = {"font.size": 12, "axes.titlesize": 12, "legend.fontsize": 10.5}


def new_figure(
    rows: int, columns: int, height: float = 3.6, gap: float = 0.32
) -> tuple[Figure, list[Axes]]:
    """A figure of 8.4 inches' width with a grid of panels, row by row, `gap` between columns.

    Margins are fixed: a layout that is fitted takes longer than all the rest of a picture.
    """
    whole = height * rows
    figure = Figure(figsize=(8.4, whole), dpi=100)
    panels = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.095,
        right=0.985,
        bottom=0.62 / whole,
        top=1 - 0.4 / whole,
        wspace=gap,
        hspace=1.05 / (height - 1.05),
    )
    return figure, panels.ravel().tolist()


def style(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Title and labels; no more ink than needed."""
    axes.set_title(title, loc="left", fontsize=_FONT["axes.titlesize"])
    axes.set_xlabel(x_label, fontsize=_FONT["font.size"])
    axes.set_ylabel(y_label, fontsize=_FONT["font.size"])
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def legend(axes: Axes, **options: Any) -> None:
    """A legend without a frame."""
    axes.legend(frameon=False, fontsize=_FONT["legend.fontsize"], **options)


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the line of this index."""
    return {"color": COLORS[index % len(COLORS)], "linestyle": DASHES[index % len(DASHES)]}


def heat_map(axes: Axes, matrix: np.ndarray, title: str, span: LogNorm) -> AxesImage:
    """The magnitudes of a matrix: output features downwards, input features to the right."""
    style(axes, title, "input feature (column)", "output feature (row)")
    axes.grid(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins="auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.set_facecolor("white")
    shown = np.where(matrix == 0, np.nan, np.abs(matrix))
    return axes.imshow(shown, norm=span, cmap=MAP, aspect="auto", interpolation="nearest")


def log_span(matrices: Sequence[np.ndarray], decades: float = 4) -> LogNorm:
    """One logarithmic colour scale for several matrices, at most so many decades."""
    largest = max(float(np.max(np.abs(matrix))) for matrix in matrices)
    live = [np.abs(matrix[matrix != 0]) for matrix in matrices]
    smallest = min(float(np.quantile(values, 0.01)) for values in live)
    return LogNorm(max(smallest, largest * 10.0**-decades), largest)


def color_bar(axes: Sequence[Axes], image: AxesImage, label: str) -> None:
    """The colour scale of one or more heat maps, beside the last, where all give up some room."""
    room = 0.1 / len(axes)
    for index, panel in enumerate(axes):
        box = panel.get_position()
        left = box.x0 - room * index
        panel.set_position((left, box.y0, box.width - room, box.height))
    box = axes[-1].get_position()
    place = (box.x1 + 0.015, box.y0, 0.018, box.height)
    bar = image.figure.colorbar(image, cax=image.figure.add_axes(place, label="<colorbar>"))
    bar.set_label(label, fontsize=_FONT["font.size"])
    bar.ax.tick_params(labelsize=11)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, without anything that depends on when and by what it was made."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def show(figure: Figure) -> None:
    """Display a picture that stays in the notebook."""
    display(Image(png(figure)))
