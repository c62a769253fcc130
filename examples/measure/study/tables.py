"""Findings and progress as tables, for a terminal and for a page."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from examples.llama.figures import figures_table
from examples.measure.study.findings import FLAT, Finding
from examples.measure.study.plan import CELLS, ENTRIES, REFERENCE, SEEDS, SHORTER
from examples.measure.study.results import Run
from examples.measure.study.search import repetitions, search


@dataclass(frozen=True)
class Tabulated:
    """One cell's table as text."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def _points(one: Finding) -> str:
    return f"{one.points}" + (f" ({one.moves} moved)" if one.moves else "")


def _difference(one: Finding) -> str:
    if one.optimizer == REFERENCE or not one.differences:
        return "-"
    mean, spread = statistics.fmean(one.differences), statistics.stdev(one.differences)
    return f"{mean:+.3f} ± {spread:.3f}"


def _reached(one: Finding) -> str:
    if len(one.lengths) <= len(SHORTER):
        return "not measured"
    if one.tokens_to_reference is None:
        return "not reached"
    share = one.tokens_to_reference / one.lengths[-1][0]
    limit = "at most " if one.tokens_to_reference == one.lengths[0][0] else ""
    return f"{limit}{share:.0%}"


def tabulate(cell: str, found: Sequence[Finding]) -> Tabulated:
    """One cell's findings."""
    return Tabulated(
        CELLS[cell].title,
        [
            "",
            "points",
            "best rates: matrices / rest",
            "final loss, nats",
            f"minus {ENTRIES[REFERENCE].title}",
            f"factor in a rate within {FLAT:g} nats",
            "tokens to its loss",
        ],
        [
            [
                ENTRIES[one.optimizer].title,
                _points(one),
                str(one.rates),
                f"{one.mean:.3f} ± {one.spread:.3f}" if math.isfinite(one.mean) else "diverged",
                _difference(one),
                f"{one.flat:.1f}",
                _reached(one),
            ]
            for one in found
        ],
    )


def tabulate_progress(cell: str, optimizers: Sequence[str], runs: Sequence[Run]) -> Tabulated:
    """What has been tried in a cell so far; the losses are of one seed, and for looking on only."""
    rows = []
    for name in optimizers:
        found = search(cell, name, runs)
        again = repetitions(found, runs)
        best = found.tries[0] if found.tries and found.tries[0].loss is not None else None
        done = "yes" if again.winner else f"{len(again.missing)} to go" if found.complete else ""
        place = (
            "at the edge, moves used up" if found.at_edge else "inside" if found.complete else ""
        )
        rows.append(
            [
                ENTRIES[name].title,
                f"{len(found.tries)} of {len(found.tries) + len(found.missing)}",
                str(len(found.boxes) - 1),
                "" if best is None else f"{best.loss:.3f}",
                "" if best is None else str(best.trial.rates),
                place,
                done,
            ]
        )
    heads = ["", "points", "moves", "best, seed 0", "rates", "best point", f"{len(SEEDS)} seeds"]
    return Tabulated(f"{CELLS[cell].title}: so far", heads, rows)


def as_rich(table: Tabulated) -> Table:
    """For a terminal."""
    return figures_table(table.heads, table.rows, title=table.title, notes=table.notes)


def as_markdown(table: Tabulated) -> str:
    """For a page."""
    lines = [
        f"**{table.title}**",
        "",
        "| " + " | ".join(table.heads) + " |",
        "|---" * len(table.heads) + "|",
        *("| " + " | ".join(row) + " |" for row in table.rows),
    ]
    return "\n".join(lines) + "\n"
