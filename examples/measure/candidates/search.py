"""Which rates of a candidate are tried, and what the runs say."""

import math
import statistics
from collections.abc import Sequence

from examples.measure.candidates.table import CANDIDATES, CENTERS
from examples.measure.study.plan import CELLS
from examples.measure.study.points import Rates
from examples.measure.study.runs import Run, Trial
from examples.measure.tables import Table

FACTORS = (0, -1, 1)
"""The first rates of the matrices, as powers of two of the center."""
SEEDS = (1, 2)
"""At the best rate, besides the search's seed 0."""


def _trial(cell: str, name: str, power: int, seed: int) -> Trial:
    center = CENTERS[cell][CANDIDATES[name].like]
    rates = Rates(float(f"{center.matrices * 2.0**power:.5g}"), center.rest)
    return Trial(cell, name, 0, power, rates, seed, CELLS[cell].setup.steps)


def _of(cell: str, name: str, runs: Sequence[Run], seed: int) -> dict[int, Run]:
    """The runs of one candidate by the power of two of their rate."""
    wanted = (cell, name, seed)
    return {
        run.trial.point: run
        for run in runs
        if (run.trial.cell, run.trial.optimizer, run.trial.seed) == wanted
    }


def _search(cell: str, name: str, runs: Sequence[Run]) -> tuple[list[Trial], Run | None]:
    """The rates to try next, or else the best run, which lies between two others."""
    done = _of(cell, name, runs, 0)
    if missing := [power for power in FACTORS if power not in done]:
        return [_trial(cell, name, power, 0) for power in missing], None
    best = min(done, key=lambda power: done[power].score)
    if best == min(done):
        return [_trial(cell, name, best - 1, 0)], None
    if best == max(done):
        return [_trial(cell, name, best + 1, 0)], None
    return [], done[best]


def due_trials(cell: str, names: Sequence[str], runs: Sequence[Run]) -> list[Trial]:
    """What can be run now in a cell: every candidate's search, then the best rates' repetitions."""
    searches = [_search(cell, name, runs) for name in names]
    again = [best.trial._replace(seed=seed) for seed in SEEDS for _, best in searches if best]
    made = {run.trial.key for run in runs}
    return [
        *(trial for trials, _ in searches for trial in trials),
        *(trial for trial in again if trial.key not in made),
    ]


def tabulate(cell: str, names: Sequence[str], runs: Sequence[Run]) -> Table:
    """The candidates of one cell whose best rate was found, best first."""
    rows = []
    for name in names:
        _, best = _search(cell, name, runs)
        if best is None:
            continue
        power = best.trial.point
        seeds = [_of(cell, name, runs, seed).get(power) for seed in SEEDS]
        scores = [best.score, *(run.score for run in seeds if run)]
        full = len(scores) == 1 + len(SEEDS)
        if math.isinf(max(scores)):
            mean = "diverged"
        elif full:
            mean = f"{statistics.fmean(scores):.3f} ± {statistics.stdev(scores):.3f}"
        else:
            mean = "-"
        figures = [str(len(_of(cell, name, runs, 0))), str(best.trial.rates)]
        cells = [CANDIDATES[name].title, *figures, f"{best.score:.3f}", mean]
        rows.append((best.score, cells))
    heads = ["", "rates tried", "best rates", "final loss, nats: seed 0", "three seeds"]
    return Table(heads, [cells for _, cells in sorted(rows)], CELLS[cell].title)
