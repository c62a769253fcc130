"""Which runs can be made now, the most telling first: a function of the runs so far alone."""

from collections.abc import Iterator, Sequence
from typing import Any

from examples.measure.study.plan import CELLS, ENTRIES, FIRST
from examples.measure.study.results import Run, Trial
from examples.measure.study.search import repetitions, search


def due_trials(cells: Sequence[str], optimizers: Sequence[str], runs: Sequence[Run]) -> list[Trial]:
    """All runs that can be made now, in the order in which they should be.

    In each cell: the first points of the optimizers with many of them, their other points, the
    points of the others, the repetitions, the shorter lengths. Every optimizer has its turn before
    any has its next.
    """
    ranked = [
        (cells.index(trial.cell), stage, turn, optimizers.index(trial.optimizer), trial)
        for cell in cells
        for optimizer in optimizers
        for stage, turn, trial in _staged(cell, optimizer, runs)
    ]
    return [trial for *_, trial in sorted(ranked, key=lambda one: one[:4])]


def _staged(cell: str, optimizer: str, runs: Sequence[Run]) -> Iterator[tuple[int, int, Trial]]:
    found = search(cell, optimizer, runs)
    points = ENTRIES[optimizer].points
    box = found.boxes[-1]

    def distance(trial: Trial) -> Any:
        return max(abs(share - 0.5) for share in box.place(trial.rates))

    missing = sorted(found.missing, key=distance) if CELLS[cell].center_first else found.missing
    tried = sum(run.trial.box == len(found.boxes) - 1 for run in found.tries)
    for turn, trial in enumerate(missing, start=tried):
        many = points > FIRST
        first = many and trial.box == 0 and turn < FIRST
        yield (0 if first else 1 if many else 2), trial.box * points + turn, trial
    again = repetitions(found, runs)
    for turn, trial in enumerate(again.missing):
        yield 3, turn, trial
    for turn, trial in enumerate(again.missing_shorter):
        yield 4, turn, trial
