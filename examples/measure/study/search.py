"""How far the search and the repetitions of one optimizer in one cell are."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from examples.llama.config import InputError
from examples.measure.study.plan import CELLS, MOVES, REPEATED, SEEDS, SHORTER, SPACES
from examples.measure.study.points import Box
from examples.measure.study.results import Run, Trial


@dataclass(frozen=True)
class Search:
    """Boxes, and what was tried in them."""

    boxes: Sequence[Box]
    """The first, and those that it moved to."""
    tries: Sequence[Run]
    """Best first."""
    missing: Sequence[Trial] = ()
    """Points of the last box that were not tried."""
    at_edge: bool = False
    """Whether the best point lies in the outer tenth of a box that may not move any more, or no run
    was finite: nothing can be said of such an optimizer."""

    @property
    def complete(self) -> bool:
        """Whether all is tried, and the best point lies inside."""
        return not self.missing and not self.at_edge


def search(cell: str, optimizer: str, runs: Sequence[Run]) -> Search:
    """Boxes and tries so far; a box moves once all of its points were tried.

    A run with other rates than the plan has for its point is an error.
    """
    space, steps = SPACES[optimizer], CELLS[cell].setup.steps
    done = {
        (run.trial.box, run.trial.point): run
        for run in runs
        if (run.trial.cell, run.trial.optimizer) == (cell, optimizer)
        and (run.trial.seed, run.trial.steps) == (0, steps)
    }
    tries = sorted(done.values(), key=lambda run: run.score)
    boxes, count = [space.box(cell)], space.points
    while True:
        number = len(boxes) - 1
        missing = []
        for point, rates in enumerate(boxes[-1].points(count)):
            made = done.get((number, point))
            if made is None:
                missing.append(Trial(cell, optimizer, number, point, rates, 0, steps))
            elif made.trial.rates != rates:
                raise InputError(
                    f"{cell}, {optimizer}, box {number}, point {point} was run with the rates "
                    f"{made.trial.rates}, but the plan has {rates}; choose other --results"
                )
        if missing:
            return Search(boxes, tries, missing)
        if tries[0].loss is None:
            return Search(boxes, tries, at_edge=True)
        # of the boxes up to this one: a later box was searched because of them
        best = min((run for key, run in done.items() if key[0] <= number), key=lambda r: r.score)
        moved = boxes[-1].moved_to(best.trial.rates)
        if moved is None or number == MOVES:
            return Search(boxes, tries, at_edge=moved is not None)
        boxes.append(moved)
        count = space.points // 2


@dataclass(frozen=True)
class Repetitions:
    """What the repetitions of the best points gave."""

    missing: Sequence[Trial] = ()
    """Repetitions of the full length that are to be made."""
    winner: Sequence[Run] = ()
    """The runs of the point with the better mean, by seed; empty before all are there."""
    shorter: Sequence[Sequence[Run]] = ()
    """The winner's runs of each shorter length that are complete, shortest first."""
    missing_shorter: Sequence[Trial] = ()
    """Those that are to be made."""


def repetitions(found: Search, runs: Sequence[Run]) -> Repetitions:
    """The repetitions of a complete search."""
    if not found.complete:
        return Repetitions()
    by_key = {run.trial.key: run for run in runs}
    candidates = [run.trial for run in found.tries if run.loss is not None][:REPEATED]
    wanted = [[one._replace(seed=seed) for seed in SEEDS] for one in candidates]
    # every candidate's first seed before any second one
    missing = [t for turn in zip(*wanted, strict=True) for t in turn if t.key not in by_key]
    if missing:
        return Repetitions(missing)
    repeated = [[by_key[trial.key] for trial in trials] for trials in wanted]
    winner = min(repeated, key=lambda group: statistics.fmean(run.score for run in group))
    lengths = [
        [run.trial._replace(steps=run.trial.steps // fraction) for run in winner]
        for fraction in SHORTER
    ]
    shorter = [
        [by_key[trial.key] for trial in trials]
        for trials in lengths
        if all(trial.key in by_key for trial in trials)
    ]
    missing = [trial for trials in lengths for trial in trials if trial.key not in by_key]
    return Repetitions([], winner, shorter, missing)
