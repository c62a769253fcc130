"""Draws `idea.png`, a gradient before and after SinkGD: `python docs/pictures/idea.py`."""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from multinorm_optax import MatrixAxes, scale_by_sinkhorn

ROWS_FIRST = MatrixAxes(output=0, input=1)
"""As a matrix is drawn: rows, the output features, from top to bottom."""


def gradient() -> jax.Array:
    """16 x 24 normal numbers times scales of rows and columns over a factor of 25."""
    noise, rows, columns = jax.random.split(jax.random.key(3), 3)
    rows = 10 ** jax.random.uniform(rows, (16, 1), minval=-0.7, maxval=0.7)
    columns = 10 ** jax.random.uniform(columns, (1, 24), minval=-0.7, maxval=0.7)
    matrix = jax.random.normal(noise, (16, 24)) * rows * columns
    return matrix / jnp.sqrt(jnp.mean(matrix**2))


def draw(matrix: np.ndarray, title: str, place: Axes) -> None:
    """The matrix, with the root mean square of each column above it and of each row beside it."""
    image = place.imshow(matrix, cmap="RdBu", vmin=-2.5, vmax=2.5, aspect="auto")
    image.set_rasterized(True)
    place.set(xticks=[], yticks=[])
    place.set_xlabel("input features (columns)")
    place.set_ylabel("output features (rows)")
    rows, columns = (np.sqrt(np.mean(matrix**2, axis=axis)) for axis in (1, 0))
    above = place.inset_axes((0, 1.03, 1, 0.24), sharex=place)
    above.bar(range(len(columns)), columns, color="0.35")
    above.set_title(title, fontsize=12, loc="left", fontweight="bold")
    above.set_ylabel("RMS")
    beside = place.inset_axes((1.02, 0, 0.2, 1), sharey=place)
    beside.barh(range(len(rows)), rows, color="0.35")
    beside.set_xlabel("RMS")
    for bars, along in ((above, "y"), (beside, "x")):
        bars.set(**{f"{along}lim": (0, 2.9), f"{along}ticks": [0, 1, 2]})
        bars.tick_params(labelbottom=bars is beside, labelleft=bars is above, length=0)
        bars.grid(axis=along, color="0.8")
        bars.set_axisbelow(True)
        bars.spines[:].set_visible(False)


def main() -> None:
    """Writes the picture beside this file."""
    before = gradient()
    after, _ = scale_by_sinkhorn(ROWS_FIRST).update(before, scale_by_sinkhorn().init({}))
    with matplotlib.rc_context({"font.size": 11, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(4.6, 7.4), layout="constrained")
        upper, lower = figure.subplots(2, 1)
        draw(np.asarray(before), "The gradient", upper)
        draw(np.asarray(after), "The update of SinkGD", lower)
        figure.savefig(Path(__file__).with_suffix(".png"), dpi=190)


if __name__ == "__main__":
    main()
