"""How many runs are left, and how long they take."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from examples.measure.study.plan import CELLS, REPEATED, SEEDS, SHORTER
from examples.measure.study.results import Run
from examples.measure.study.search import repetitions, search


@dataclass(frozen=True)
class Left:
    """What one optimizer still needs in one cell, if its box does not move again."""

    cell: str
    optimizer: str
    runs: int
    steps: int
    seconds: float


def seconds_per_step(cell: str, optimizer: str, runs: Sequence[Run]) -> float:
    """The median of the optimizer's runs in the cell, else of all runs there, else the plan's."""
    there = [run for run in runs if run.trial.cell == cell]
    own = [run for run in there if run.trial.optimizer == optimizer]
    timed = [run.seconds / run.trial.steps for run in own or there if run.loss is not None]
    return statistics.median(timed) if timed else CELLS[cell].seconds / CELLS[cell].setup.steps


def left(cell: str, optimizer: str, runs: Sequence[Run]) -> Left:
    """What one optimizer still needs in one cell."""
    found, whole = search(cell, optimizer, runs), CELLS[cell].setup.steps
    again = repetitions(found, runs)
    lengths = [trial.steps for trial in (*found.missing, *again.missing, *again.missing_shorter)]
    if found.missing:
        lengths += [whole] * (REPEATED * len(SEEDS))
    if found.missing or again.missing:
        lengths += [whole // fraction for fraction in SHORTER for _ in SEEDS]
    seconds = sum(lengths) * seconds_per_step(cell, optimizer, runs)
    return Left(cell, optimizer, len(lengths), sum(lengths), seconds)


def duration(seconds: float) -> str:
    """Seconds as a reader takes them in."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
