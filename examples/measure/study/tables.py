"""Findings and progress as tables, and durations as text."""

import math
import statistics
from collections.abc import Sequence

from examples.llama.optimizers import OPTIMIZERS
from examples.measure.study.due import Left
from examples.measure.study.findings import FLAT, Finding
from examples.measure.study.plan import CELLS, REFERENCE, SEEDS, SHORTER
from examples.measure.study.results import Run
from examples.measure.study.search import repetitions, search
from examples.measure.tables import Table, unique


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


def tabulate(cell: str, found: Sequence[Finding]) -> Table:
    """One cell's findings."""
    heads = [
        "",
        "points",
        "best rates: matrices / rest",
        "final loss, nats",
        f"minus {OPTIMIZERS[REFERENCE].title}",
        f"factor in a rate within {FLAT:g} nats",
        "tokens to its loss",
    ]
    rows = [
        [
            OPTIMIZERS[one.optimizer].title,
            f"{one.points}" + (f" ({one.moves} moved)" if one.moves else ""),
            str(one.rates),
            f"{one.mean:.3f} ± {one.spread:.3f}" if math.isfinite(one.mean) else "diverged",
            _difference(one),
            f"{one.flat:.1f}",
            _reached(one),
        ]
        for one in found
    ]
    return Table(heads, rows, CELLS[cell].title)


def tabulate_progress(cell: str, optimizers: Sequence[str], runs: Sequence[Run]) -> Table:
    """What has been tried in a cell so far; the losses are of one seed, for information only."""
    rows = []
    for name in optimizers:
        found = search(cell, name, runs)
        again = repetitions(found, runs)
        best = found.tries[0] if found.tries and found.tries[0].loss is not None else None
        edge = "at the edge, moves used up" if found.at_edge else ""
        rows.append(
            [
                OPTIMIZERS[name].title,
                f"{len(found.tries)} of {len(found.tries) + len(found.missing)}",
                str(len(found.boxes) - 1),
                "" if best is None else f"{best.loss:.3f}",
                "" if best is None else str(best.trial.rates),
                "inside" if found.complete else edge,
                "yes" if again.winner else f"{len(again.missing)} to go" if found.complete else "",
            ]
        )
    heads = ["", "points", "moves", "best, seed 0", "rates", "best point", f"{len(SEEDS)} seeds"]
    return Table(heads, rows, f"{CELLS[cell].title}: so far")


def tabulate_left(rest: Sequence[Left]) -> Table:
    """How many runs are left, and how long they take, by cell."""
    parts = {
        CELLS[c].title: [one for one in rest if one.cell == c] for c in unique(r.cell for r in rest)
    }
    rows = [
        [title, str(sum(one.runs for one in part)), duration(sum(one.seconds for one in part))]
        for title, part in (parts | {"all": rest}).items()
    ]
    notes = ["if no box moves; where nothing was timed, from the plan's guess"]
    return Table(["", "runs", "time"], rows, "Left", notes)


def duration(seconds: float) -> str:
    """Seconds, minutes, or hours and minutes."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
