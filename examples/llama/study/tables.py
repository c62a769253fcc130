"""The findings of a learning study as tables, for a terminal and for a page."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from examples.llama.study.plan import CELLS, REFERENCE, VARIANTS
from examples.llama.study.report import Finding


@dataclass(frozen=True)
class Tabulated:
    """One cell's table as text."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def difference_text(found: Finding) -> str:
    """Mean and standard deviation of the differences to the reference, seed by seed."""
    if not found.differences or found.variant == REFERENCE:
        return "-"
    mean, spread = statistics.fmean(found.differences), statistics.stdev(found.differences)
    return f"{mean:+.3f} ± {spread:.3f}"


def reached_text(found: Finding) -> str:
    """Tokens to the reference's final loss, absolute and as a share of the run's."""
    if found.tokens_to_reference is None:
        return "not reached"
    return (
        f"{found.tokens_to_reference / 1e3:.0f} k "
        f"({found.tokens_to_reference / found.curve[0][-1]:.0%})"
    )


def _costs_texts(found: Finding, costs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if found.variant not in costs:
        return ["", "", ""]
    cost = costs[found.variant]
    seconds = cost["seconds_per_step"] * CELLS[found.cell].setup.steps
    return [
        f"{seconds:.1f} s ({cost['time_ratio']['median']:.2f})",
        f"{cost['state_bytes'] / 1e6:.2f} / {cost['matrix_state_bytes'] / 1e6:.2f} MB",
        f"{cost['peak_bytes'] / 1e6:.1f} MB",
    ]


def tabulate(
    cell: str, found: Sequence[Finding], costs: Mapping[str, Mapping[str, Any]]
) -> Tabulated:
    """Lay out one cell; `costs` are what was measured of its variants, perhaps of some or none."""
    reference = VARIANTS[REFERENCE].title
    measured = ["seconds of training (ratio)", "state: all / matrices", "peak memory of a step"]
    with_costs = any(one.variant in costs for one in found)
    rows = [
        [
            VARIANTS[one.variant].title,
            str(one.rates),
            f"{one.mean:.3f} ± {one.spread:.3f}" if math.isfinite(one.mean) else "diverged",
            difference_text(one),
            reached_text(one),
            *(_costs_texts(one, costs) if with_costs else []),
        ]
        for one in found
    ]
    notes = [
        f"{VARIANTS[one.variant].title}: {'; '.join(one.open_ends)}"
        for one in found
        if one.open_ends
    ]
    return Tabulated(
        CELLS[cell].title,
        [
            "",
            "peak rates: matrices / rest",
            "validation loss, nats/byte",
            f"minus {reference}",
            "tokens to its loss",
            *(measured if with_costs else []),
        ],
        rows,
        notes,
    )


def as_rich(tabulated: Tabulated) -> Table:
    """For a terminal."""
    table = Table(title=tabulated.title, title_justify="left", caption="\n".join(tabulated.notes))
    for number, head in enumerate(tabulated.heads):
        table.add_column(head, justify="right" if number else "left")
    for row in tabulated.rows:
        table.add_row(*row)
    return table


def as_markdown(tabulated: Tabulated) -> str:
    """For a page."""
    heads, rows = tabulated.heads, tabulated.rows
    lines = [
        f"**{tabulated.title}**",
        "",
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        *(f"- {note}" for note in tabulated.notes),
    ]
    return "\n".join(lines).rstrip() + "\n"
