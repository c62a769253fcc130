"""Which runs each optimizer needs: points in boxes that may move, repetitions, shorter lengths."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from examples.llama.config import InputError
from examples.measure.study.plan import CELLS, FIRST, MOVES, REPEATED, SEEDS, SHORTER, SPACES
from examples.measure.study.points import Box, Rates
from examples.measure.study.runs import Run, Trial


@dataclass
class Search:
    """How far the search and the repetitions of one optimizer in one cell are."""

    cell: str
    optimizer: str
    boxes: list[Box]
    """The first, and those that it moved to."""
    tries: list[Run] = field(default_factory=list)
    """The runs of the boxes' points, best first."""
    at_edge: bool = False
    """Whether the best point, or that with the best mean, lies in the outer tenth of a box that may
    not move any more, or no run was finite: nothing can be said of such an optimizer."""
    inside: bool = False
    """Whether all points of the last box were tried, and the best of all lies inside."""
    winner: Sequence[Run] = ()
    """The repetitions of the point with the best mean, by seed; empty before all are made."""
    shorter: list[Sequence[Run]] = field(default_factory=list)
    """The winner's runs of each shorter length that are complete, shortest first."""
    due: Mapping[int, Trial] = field(default_factory=dict)
    """The trials that can be made now, by their place among those of the same kind."""

    @property
    def losses(self) -> list[float]:
        """The winner's, by seed; infinite where it diverged."""
        return [run.score for run in self.winner]

    @property
    def curve(self) -> list[tuple[int, float]]:
        """Tokens and mean loss of all the winner's lengths, shortest first, or of the full one."""
        # a curve with a gap would be read off wrongly
        complete = len(self.shorter) == len(SHORTER)
        groups = [*self.shorter, self.winner] if complete else [self.winner]
        per_step = CELLS[self.cell].setup.data.tokens_per_step
        return [(group[0].trial.steps * per_step, mean_loss(group)) for group in groups]


def mean_loss(runs: Sequence[Run]) -> float:
    """The mean over the runs; infinite if one diverged."""
    return statistics.fmean(run.score for run in runs)


def search(cell: str, optimizer: str, runs: Sequence[Run]) -> Search:
    """What there is so far, and what is due; a box moves once all of its points were tried.

    A run with other rates than the plan has for its point is an error.
    """
    space, steps = SPACES[optimizer], CELLS[cell].setup.steps
    found = Search(cell, optimizer, [space.box(cell)])
    own = {r.trial.key: r for r in runs if (r.trial.cell, r.trial.optimizer) == (cell, optimizer)}

    def made(trials: Sequence[Trial]) -> list[Run]:
        """The runs of these trials that there are; the others are due."""
        runs_made = [own[trial.key] for trial in trials if trial.key in own]
        for rates, run in zip((t.rates for t in trials if t.key in own), runs_made, strict=True):
            if run.trial.rates != rates:
                raise InputError(
                    f"{cell}, {optimizer}, box {run.trial.box}, point {run.trial.point} was run "
                    f"with the rates {run.trial.rates}, but the plan has {rates}; choose other "
                    f"--results"
                )
        found.due = {n: trial for n, trial in enumerate(trials) if trial.key not in own}
        return runs_made

    candidates: list[Trial] = []
    while True:
        number, box = len(found.boxes) - 1, found.boxes[-1]
        points = [
            Trial(cell, optimizer, number, point, rates, 0, steps)
            for point, rates in enumerate(box.points(space.points // (2 if number else 1)))
        ]
        if CELLS[cell].center_first:
            points.sort(key=lambda trial: max(abs(share - 0.5) for share in box.place(trial.rates)))
        found.tries = sorted(found.tries + made(points), key=lambda run: run.score)
        if found.due:
            return found
        best = [run.trial for run in found.tries if run.loss is not None][:REPEATED]
        if not best:
            found.at_edge = True
            return found
        moved = _next_box(found.boxes, best[0].rates)
        found.inside = moved is None
        if found.inside:
            candidates += [one for one in best if one not in candidates]
            # every candidate's first seed before any second one
            repeated = made([one._replace(seed=seed) for seed in SEEDS for one in candidates])
            if found.due:
                return found
            groups = [repeated[start :: len(candidates)] for start in range(len(candidates))]
            winner = min(groups, key=mean_loss)
            moved = _next_box(found.boxes, winner[0].trial.rates)
        if moved is None:
            found.winner = winner
            break
        found.inside, found.at_edge = False, number == MOVES
        if found.at_edge:
            return found
        found.boxes.append(moved)
    lengths = [
        [run.trial._replace(steps=steps // part) for run in found.winner] for part in SHORTER
    ]
    found.shorter = [group for each in lengths if len(group := made(each)) == len(each)]
    made([trial for each in lengths for trial in each])
    return found


def _next_box(boxes: Sequence[Box], best: Rates) -> Box | None:
    """Where the last box moves; None if the best point lies well inside of any box."""
    moved = [box.moved_to(best) for box in boxes]
    return None if None in moved else moved[-1]


def due_trials(cells: Sequence[str], optimizers: Sequence[str], runs: Sequence[Run]) -> list[Trial]:
    """All runs that can be made now, in the order in which they should be.

    In each cell: the first points of the optimizers with many of them, their other points, the
    points of the others, the repetitions, the shorter lengths. Every optimizer has its turn before
    any has its next.
    """

    def place(trial: Trial, turn: int) -> tuple[int, int]:
        if trial.seed:
            return (3 if trial.steps == CELLS[trial.cell].setup.steps else 4), turn
        points = SPACES[trial.optimizer].points
        first = trial.box == 0 and turn < FIRST
        return (2 if points <= FIRST else 0 if first else 1), trial.box * points + turn

    ranked = [
        ((cells.index(cell), *place(trial, turn), optimizers.index(name)), trial)
        for cell in cells
        for name in optimizers
        for turn, trial in search(cell, name, runs).due.items()
    ]
    return [trial for _, trial in sorted(ranked, key=lambda one: one[0])]


def seconds_per_step(cell: str, optimizer: str, runs: Sequence[Run]) -> float:
    """The median of the optimizer's runs in the cell, else of all runs there, else the plan's."""
    there = [run for run in runs if run.trial.cell == cell and run.loss is not None]
    own = [run for run in there if run.trial.optimizer == optimizer]
    timed = [run.seconds / run.trial.steps for run in own or there]
    return statistics.median(timed) if timed else CELLS[cell].seconds / CELLS[cell].setup.steps


class Left(NamedTuple):
    """What is still needed at most if no box moves."""

    runs: int = 0
    seconds: float = 0.0


def left(cells: Sequence[str], optimizers: Sequence[str], runs: Sequence[Run]) -> Left:
    """What these optimizers still need in these cells."""
    total = Left()
    for cell, name in itertools.product(cells, optimizers):
        found, full = search(cell, name, runs), CELLS[cell].setup.steps
        lengths = [trial.steps for trial in found.due.values()]
        if not (found.inside or found.at_edge):
            lengths += [full] * (REPEATED * len(SEEDS))
        if not (found.winner or found.at_edge):
            lengths += [full // part for part in SHORTER for _ in SEEDS]
        seconds = sum(lengths) * seconds_per_step(cell, name, runs)
        total = Left(total.runs + len(lengths), total.seconds + seconds)
    return total
