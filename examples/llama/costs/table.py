"""What `examples.llama.memory` prints: a table for each preset."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from examples.llama.config import Precision, PresetName
from examples.llama.costs.footprint import GIB, PUBLISHED, Compiled, Kept
from examples.llama.figures import figures_table

CARDS_GIB = (24, 80)
"""Memory of the accelerators that are asked about."""

_MIB = 2**20


@dataclass(frozen=True)
class Row:
    """One optimizer at one preset."""

    preset: PresetName
    optimizer: str
    title: str
    """The optimizer in words."""
    precision: Precision
    kept: Kept
    step: Compiled | None
    """None where nothing was compiled."""
    float32_state_bytes: int
    """The optimizer's state if all of it is float32."""

    @property
    def published_gib(self) -> float | None:
        """What the papers print for weights and state, which is for bfloat16."""
        if self.precision != "bfloat16":
            return None
        name = self.optimizer.removesuffix("-layerwise")  # which keeps the same from step to step
        return PUBLISHED.get(name, {}).get(self.preset)

    @property
    def total_with_float32_state(self) -> int:
        """Bytes of weights and of a state in float32."""
        return self.kept.weight_bytes + self.float32_state_bytes

    @property
    def total_bytes(self) -> int | None:
        """Weights, state and what the step needs besides."""
        return None if self.step is None else self.kept.total_bytes + self.step.temporary_bytes

    @property
    def fits_gib(self) -> int | None:
        """The smallest of the accelerators that the total fits into; None for none, or unknown."""
        total = self.total_bytes
        return next((c for c in CARDS_GIB if total is not None and total <= c * GIB), None)

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        return {
            "preset": self.preset,
            "optimizer": self.optimizer,
            "title": self.title,
            "precision": self.precision,
            **vars(self.kept),
            "state_per_weight": round(self.kept.state_per_weight, 4),
            "matrix_state_per_weight": round(self.kept.matrix_state_per_weight, 4),
            "weights_and_state_gib": round(self.kept.total_bytes / GIB, 6),
            "weights_and_float32_state_gib": round(self.total_with_float32_state / GIB, 6),
            "published_gib": self.published_gib,
            **({} if self.step is None else vars(self.step)),
            "total_bytes": self.total_bytes,
            "fits_gib": self.fits_gib,
        }


def unit_of(rows: Sequence[Row]) -> tuple[str, int]:
    """The unit in which a preset's figures are readable: its name and its bytes."""
    small = max(row.kept.weight_bytes for row in rows) < GIB // 20
    return ("MiB", _MIB) if small else ("GiB", GIB)


def _fits(row: Row) -> str:
    if row.total_bytes is None:
        return ""
    return "none" if row.fits_gib is None else f"{row.fits_gib} GiB"


def heading(rows: Sequence[Row]) -> str:
    """What is the same for one preset's rows, in a line."""
    first = rows[0]
    unit, size = unit_of(rows)
    return (
        f"{first.preset}: {first.kept.parameters / 1e6:.1f} M parameters, "
        f"{first.kept.matrix_parameters / 1e6:.1f} M of them in the matrices of the layers; "
        f"weights {first.kept.weight_bytes / size:.3f} {unit} ({first.precision})"
    )


def make_table(rows: Sequence[Row]) -> Table:
    """Lay out one preset's rows for a terminal."""
    unit, size = unit_of(rows)

    def text(count: int | None) -> str:
        return "" if count is None else f"{count / size:.3f}"

    published = any(row.published_gib for row in rows)
    narrow = any(row.precision == "bfloat16" for row in rows)
    with_step = any(row.step for row in rows)
    heads = [unit, "state", "and weights"]
    heads += ["papers"] * published + ["state in float32"] * narrow
    heads += ["temporary", "total", "fits"] * with_step
    lines = []
    for row in rows:
        cells = [row.title, text(row.kept.state_bytes), text(row.kept.total_bytes)]
        if published:
            cells.append("" if row.published_gib is None else f"{row.published_gib:.2f}")
        if narrow:
            cells.append(text(row.total_with_float32_state))
        if with_step:
            temporary = None if row.step is None else row.step.temporary_bytes
            cells += [text(temporary), text(row.total_bytes), _fits(row)]
        lines.append(cells)
    return figures_table(heads, lines)


def state_table(title: str, rows: Sequence[Row], of: Callable[[Kept], float]) -> Table:
    """One figure of what is kept: a line for each optimizer, a column for each preset."""
    found = {(row.optimizer, row.preset): of(row.kept) for row in rows}
    titles = {row.optimizer: row.title for row in rows}
    presets = list(dict.fromkeys(row.preset for row in rows))
    lines = []
    for optimizer, name in titles.items():
        figures = (found.get((optimizer, preset)) for preset in presets)
        lines.append([name, *("" if one is None else f"{one:.2f}" for one in figures)])
    return figures_table(["", *presets], lines, title=title)
