"""Pictures of a learning study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.llama.plot import look, save, style
from examples.llama.study.plan import CELLS, REFERENCE, VARIANTS
from examples.llama.study.report import Finding

_LOOKS = {variant: look(index) for index, variant in enumerate(VARIANTS)}
_SEED: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 3.5,
    "alpha": 0.6,
}


def _panels(count: int, width: float, height: float) -> tuple[Figure, Sequence[Axes]]:
    columns = min(2, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), dpi=150, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in panels[count:]:
        unused.remove()
    return figure, panels[:count]


def _far_off(found: Sequence[Finding]) -> list[Finding]:
    """Those so much worse than the median that they would squeeze all others together."""
    ordered = sorted(one.mean for one in found)
    median = ordered[len(ordered) // 2]
    return [one for one in found if not one.mean - median < 1.5 * max(0.2, median - ordered[0])]


def plot_losses(path: Path, findings: Mapping[str, Sequence[Finding]]) -> None:
    """Draw each variant's final losses: a dot for each seed, a bar at their mean.

    Of a variant far off, only the mean is written.
    """
    figure, panels = _panels(len(findings), 7.0, 3.6)
    for axes, (cell, found) in zip(panels, findings.items(), strict=True):
        style(axes, "final validation loss (nats per byte)", "")
        axes.set_title(CELLS[cell].title, loc="left", fontsize=10)
        far_off = _far_off(found)
        for height, one in enumerate(reversed(found)):
            color = _LOOKS[one.variant]["color"]
            if one in far_off:
                text = f"{one.mean:.2f} \N{RIGHTWARDS ARROW}"
                at_edge = axes.get_yaxis_transform()
                axes.text(0.99, height, text, transform=at_edge, ha="right", va="center")
                continue
            axes.plot(one.losses, [height] * len(one.losses), color=color, **_SEED)
            axes.plot([one.mean], [height], "|", color=color, markersize=14, markeredgewidth=2.5)
            if one.variant == REFERENCE:
                axes.axvline(one.mean, color=color, linewidth=0.8, alpha=0.5)
        axes.set_ylim(-0.7, len(found) - 0.3)
        axes.set_yticks(range(len(found)), [VARIANTS[one.variant].title for one in reversed(found)])
    save(figure, path)


def _show_ends(axes: Axes, finals: Sequence[float]) -> None:
    """Let the fall from the start leave the picture, and what soars on the way down."""
    low, high = min(finals), max(finals)
    span = high - low or 0.5
    axes.set_ylim(low - 0.08 * span, high + 0.8 * span)


def plot_curves(path: Path, findings: Mapping[str, Sequence[Finding]]) -> None:
    """Draw each variant's mean validation loss against tokens, but for those far off."""
    figure, panels = _panels(len(findings), 6.6, 3.8)
    for axes, (cell, found) in zip(panels, findings.items(), strict=True):
        style(axes, "thousand tokens", "validation loss (nats per byte)")
        axes.set_title(CELLS[cell].title, loc="left", fontsize=10)
        far_off = _far_off(found)
        curves = {one.variant: one.curve for one in found if one.curve[0] and one not in far_off}
        for variant, (tokens, losses) in curves.items():
            thousands = [value / 1e3 for value in tokens]
            axes.plot(thousands, losses, label=VARIANTS[variant].title, **_LOOKS[variant])
        if curves:
            _show_ends(axes, [losses[-1] for _, losses in curves.values()])
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=2 if len(panels) == 1 else 4,
    )
    save(figure, path)
