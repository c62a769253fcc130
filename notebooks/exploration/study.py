"""The recorded curves of the learning study of `examples.llama`, as far as it has been run."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import examples.llama
from examples.llama.study.file import StudyFile
from examples.llama.study.plan import CELLS, REFERENCE, VARIANTS
from examples.llama.study.report import Finding, findings
from exploration.pictures import AFTER, BEFORE, new_figure, style

RECORDED = Path(examples.llama.__file__).parent / "results" / "study.json"
"""Where the study writes its runs."""
_OTHERS = "0.72"


class Study:
    """Findings of the study, by cell."""

    def __init__(self, path: Path | None = None):
        """Read the study's file, by default the one beside the example."""
        file = StudyFile(path or RECORDED, corpus="")
        found = {cell: findings(file, cell) for cell in CELLS}
        self.findings = {cell: each for cell, each in found.items() if each}

    @property
    def cells(self) -> dict[str, str]:
        """The cells that have findings: key by title."""
        return {CELLS[cell].title: cell for cell in self.findings}

    @property
    def variants(self) -> list[str]:
        """The titles of all variants that have findings."""
        keys = {each.variant for found in self.findings.values() for each in found}
        return [variant.title for key, variant in VARIANTS.items() if key in keys]

    def picture(self, cell: str | None = None, variant: str = VARIANTS["sinkgd"].title) -> Figure:
        """Curves of the mean validation loss, and the final loss of every seed.

        Args:
          cell: the title of a cell, by default that of the first.
          variant: the title of the variant to point out.
        """
        key = self.cells[cell] if cell else next(iter(self.findings))
        found = self.findings[key]
        reference = [one for one in found if one.variant == REFERENCE]
        pointed = [one for one in found if VARIANTS[one.variant].title == variant]
        figure, (left, right) = new_figure(1, 2, height=4.4)
        title = "validation loss, mean of the seeds"
        style(left, title, "thousand tokens", "nats per byte")
        style(right, "final loss of every seed", "nats per byte", "")
        for one in sorted(found, key=lambda one: (one in pointed, one in reference)):
            color = AFTER if one in pointed else BEFORE if one in reference else _OTHERS
            self._draw_curve(left, one, color)
            height = found.index(one)
            right.plot(one.losses, [height] * len(one.losses), "o", color=color, markersize=6)
        self._limit(left, right, found)
        titles = [textwrap.fill(VARIANTS[one.variant].title, 24) for one in found]
        right.set_yticks(range(len(found)), titles)
        right.set_ylim(len(found) - 0.4, -0.6)
        for label, one in zip(right.get_yticklabels(), found, strict=True):
            label.set_fontweight("bold" if one in pointed else "normal")
        figure.subplots_adjust(wspace=0.75)
        return figure

    @staticmethod
    def _draw_curve(axes: Axes, one: Finding, color: str) -> None:
        tokens, losses = one.curve
        width = 1.5 if color == _OTHERS else 2.5
        dash = "--" if color == BEFORE else "-"
        axes.plot(np.asarray(tokens) / 1e3, losses, dash, color=color, linewidth=width)

    @staticmethod
    def _limit(left: Axes, right: Axes, found: Sequence[Finding]) -> None:
        """Leave out the fall at the start, and those that end far above the others."""
        finals = sorted(one.mean for one in found)
        low, middle = finals[0], finals[len(finals) // 2]
        high = middle + max(0.3, 2 * (middle - low))
        left.set_ylim(low - 0.06, high + 0.3)
        right.set_xlim(low - 0.1, high)
        for height, one in enumerate(found):
            if one.mean > high:
                text = f"{one.mean:.2f} \N{RIGHTWARDS ARROW}"
                right.text(high, height, text, ha="right", va="center", fontsize=11)
