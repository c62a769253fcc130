"""The findings of a learning study as tables, for a terminal and for a page."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group

from examples.llama.figures import figures_table
from examples.llama.study.plan import CELLS, REFERENCE, VARIANTS
from examples.llama.study.report import Finding

_LEARNED = 5
"""Columns that say what was learned; those after them say what it cost."""


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


def as_rich(tabulated: Tabulated) -> Group:
    """For a terminal: what was learned, and below it, where it was measured, what that cost."""
    heads, rows = tabulated.heads, tabulated.rows
    learned = figures_table(
        heads[:_LEARNED],
        [row[:_LEARNED] for row in rows],
        title=tabulated.title,
        notes=tabulated.notes,
    )
    if len(heads) == _LEARNED:
        return Group(learned, "")
    costs = figures_table(
        [heads[0], *heads[_LEARNED:]],
        [[row[0], *row[_LEARNED:]] for row in rows if any(row[_LEARNED:])],
    )
    return Group(learned, "", costs, "")


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
