"""Which runs can be made now, the most telling first, and how many are left."""

import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from examples.measure.study.plan import CELLS, FIRST, REPEATED, SEEDS, SHORTER, SPACES
from examples.measure.study.results import Run, Trial
from examples.measure.study.search import repetitions, search


def due_trials(cells: Sequence[str], optimizers: Sequence[str], runs: Sequence[Run]) -> list[Trial]:
    """All runs that can be made now, in the order in which they should be.

    In each cell: the first points of the optimizers with many of them, their other points, the
    points of the others, the repetitions, the shorter lengths. Every optimizer has its turn before
    any has its next.
    """
    ranked = [
        ((cells.index(cell), stage, turn, optimizers.index(optimizer)), trial)
        for cell in cells
        for optimizer in optimizers
        for stage, turn, trial in _staged(cell, optimizer, runs)
    ]
    return [trial for _, trial in sorted(ranked, key=lambda one: one[0])]


def _staged(cell: str, optimizer: str, runs: Sequence[Run]) -> Iterator[tuple[int, int, Trial]]:
    found = search(cell, optimizer, runs)
    points, box = SPACES[optimizer].points, found.boxes[-1]

    def distance(trial: Trial) -> float:
        return max(abs(share - 0.5) for share in box.place(trial.rates))

    missing = sorted(found.missing, key=distance) if CELLS[cell].center_first else found.missing
    tried = sum(run.trial.box == len(found.boxes) - 1 for run in found.tries)
    for turn, trial in enumerate(missing, start=tried):
        many = points > FIRST
        first = many and trial.box == 0 and turn < FIRST
        yield (0 if first else 1 if many else 2), trial.box * points + turn, trial
    again = repetitions(found, runs)
    for stage, trials in ((3, again.missing), (4, again.missing_shorter)):
        for turn, trial in enumerate(trials):
            yield stage, turn, trial


class Left(NamedTuple):
    """What one optimizer still needs in one cell, if its box does not move again."""

    cell: str
    runs: int
    seconds: float


def seconds_per_step(cell: str, optimizer: str, runs: Sequence[Run]) -> float:
    """The median of the optimizer's runs in the cell, else of all runs there, else the plan's."""
    there = [run for run in runs if run.trial.cell == cell]
    own = [run for run in there if run.trial.optimizer == optimizer]
    timed = [run.seconds / run.trial.steps for run in own or there if run.loss is not None]
    return statistics.median(timed) if timed else CELLS[cell].seconds / CELLS[cell].setup.steps


def left(cell: str, optimizer: str, runs: Sequence[Run]) -> Left:
    """What one optimizer still needs in one cell."""
    found, full = search(cell, optimizer, runs), CELLS[cell].setup.steps
    again = repetitions(found, runs)
    lengths = [trial.steps for trial in (*found.missing, *again.missing, *again.missing_shorter)]
    if found.missing:
        lengths += [full] * (REPEATED * len(SEEDS))
    if found.missing or again.missing:
        lengths += [full // fraction for fraction in SHORTER for _ in SEEDS]
    return Left(cell, len(lengths), sum(lengths) * seconds_per_step(cell, optimizer, runs))
