"""The picture of a run, and what all pictures share."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.llama.run.files import write_atomically

Curve = tuple[Sequence[float], Sequence[float]]
"""x and y values of the same length."""


def style(axes: Axes, x_label: str, y_label: str) -> None:
    """Label the axes, and leave out what says nothing."""
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG file, whole or not at all."""
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def show_from(axes: Axes, curves: Sequence[Curve], share: float) -> None:
    """Let the first few per cent of training leave the picture, where every curve falls alike."""
    later = [
        loss
        for tokens, losses in curves
        for t, loss in zip(tokens, losses, strict=True)
        if t >= share * max(tokens)
    ]
    low, high = min(later), max(later)
    margin = 0.06 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + margin)


def plot_run(path: Path, title: str, train: Curve, validation: Curve) -> None:
    """Draw training and validation loss against millions of tokens."""
    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    style(axes, "million tokens", "loss (nats per token)")
    axes.set_title(title, loc="left", fontsize=11)
    axes.plot(*train, linewidth=0.8, alpha=0.55, label="training, each step")
    axes.plot(*validation, "o-", markersize=4, label="validation")
    show_from(axes, [train, validation], 0.03)
    axes.legend(frameon=False)
    save(figure, path)
