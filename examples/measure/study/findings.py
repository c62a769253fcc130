"""What the runs say of each optimizer in a cell, and the tables of it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from examples.llama.optimizers import OPTIMIZERS
from examples.measure.study.plan import CELLS, REFERENCE, SEEDS, SHORTER, SPACES, WIDTH
from examples.measure.study.runs import Run
from examples.measure.study.search import Search, mean_score, search
from examples.measure.tables import Table, table

FLAT = 0.1
"""Losses up to this many nats above the best belong to the flat region."""


@dataclass(frozen=True)
class Finding:
    """One optimizer whose repetitions are complete."""

    search: Search
    losses: Sequence[float]
    """The winner's final losses, by seed; infinite where it diverged."""
    differences: Sequence[float]
    """Those minus the reference's of the same seed; none without it, or if one diverged."""
    best_of: Sequence[float]
    """Expected best loss of 1, 2, ... points drawn from the first box."""
    lengths: Sequence[tuple[int, float]]
    """Tokens and mean loss of runs of several lengths, with their own schedules, shortest first."""
    tokens_to_reference: float | None
    """Tokens at which a run with its own schedule reaches the reference's final loss; None if the
    full length does not, or without a reference."""

    @property
    def optimizer(self) -> str:
        """Its name."""
        return self.search.winner[0].trial.optimizer

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.losses)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds."""
        return statistics.stdev(self.losses) if math.isfinite(self.mean) else math.inf


def expected_best(losses: Sequence[float]) -> list[float]:
    """The mean, over all orders of trying, of the best of the first 1, 2, ... points.

    With l_1 <= ... <= l_n the best of k is l_i in C(n - i, k - 1) of C(n, k) selections.
    """
    ordered, count = sorted(losses), len(losses)
    return [
        sum(
            loss * math.comb(count - rank, k - 1) / math.comb(count, k)
            for rank, loss in enumerate(ordered, start=1)
        )
        for k in range(1, count + 1)
    ]


def flat_factor(found: Search) -> float:
    """The side of a box as large as the flat region.

    The share s of the last box's points whose loss is at most `FLAT` above the best estimates the
    region's share of the box. A box of d rates with that share of the volume has sides over which
    a rate changes by width^(s^(1/d)).
    """
    box = found.boxes[-1]
    inside = [run.score for run in found.tries if box.contains(run.trial.rates)]
    share = sum(score <= found.tries[0].score + FLAT for score in inside) / len(inside)
    return float(WIDTH ** (share ** (1 / len(box.center.each))))


def tokens_to_reach(goal: float, curve: Sequence[tuple[int, float]]) -> float | None:
    """Where losses by tokens fall to `goal`, linear in the logarithm of tokens between two points.

    The first point's tokens if its loss is as low already, so the figure is an upper limit then;
    None if no loss is.
    """
    previous: tuple[int, float] | None = None
    for tokens, loss in curve:
        if loss <= goal:
            if previous is None or not math.isfinite(previous[1]):
                return float(tokens)
            share = (previous[1] - goal) / (previous[1] - loss)
            return previous[0] * (tokens / previous[0]) ** share
        previous = tokens, loss
    return None


def untrained(cell: str) -> float:
    """The loss of a uniform prediction, which stands for a run that diverged."""
    return math.log(CELLS[cell].setup.model.vocabulary)


def findings(cell: str, runs: Sequence[Run]) -> list[Finding]:
    """All optimizers of a cell whose best point lies inside its box and is repeated, best first."""
    searches = {name: search(cell, name, runs) for name in SPACES}
    reference = searches[REFERENCE].winner
    goal = mean_score(reference) if reference else math.inf
    result = []
    for found in searches.values():
        if not found.winner:
            continue
        pairs = zip(found.winner, reference, strict=False)
        differences = [one.score - other.score for one, other in pairs]
        # a curve with a gap would be read off wrongly
        complete = len(found.shorter) == len(SHORTER)
        groups = [*found.shorter, found.winner] if complete else [found.winner]
        per_step = CELLS[cell].setup.data.tokens_per_step
        lengths = [(group[0].trial.steps * per_step, mean_score(group)) for group in groups]
        first_box = [run for run in found.tries if run.trial.box == 0]
        finite = [untrained(cell) if run.loss is None else run.loss for run in first_box]
        result.append(
            Finding(
                found,
                losses=[run.score for run in found.winner],
                differences=differences if all(map(math.isfinite, differences)) else [],
                best_of=expected_best(finite),
                lengths=lengths,
                tokens_to_reference=tokens_to_reach(goal, lengths)
                if complete and math.isfinite(goal)
                else None,
            )
        )
    return sorted(result, key=lambda one: one.mean)


def _difference(one: Finding) -> str:
    if one.optimizer == REFERENCE or not one.differences:
        return "-"
    return f"{statistics.fmean(one.differences):+.3f} ± {statistics.stdev(one.differences):.3f}"


def _reached(one: Finding) -> str:
    if len(one.lengths) <= len(SHORTER):
        return "not measured"
    if one.tokens_to_reference is None:
        return "not reached"
    share = one.tokens_to_reference / one.lengths[-1][0]
    limit = "at most " if one.tokens_to_reference == one.lengths[0][0] else ""
    return f"{limit}{share:.0%}"


def _points(found: Search) -> str:
    moves = len(found.boxes) - 1
    return f"{len(found.tries)}" + (f" ({moves} moved)" if moves else "")


def findings_table(cell: str, found: Sequence[Finding]) -> Table:
    """One cell's findings."""
    return table(
        found,
        {
            "": lambda one: OPTIMIZERS[one.optimizer].title,
            "points": lambda one: _points(one.search),
            "best rates: matrices / rest": lambda one: str(one.search.winner[0].trial.rates),
            "final loss, nats": lambda one: (
                f"{one.mean:.3f} ± {one.spread:.3f}" if math.isfinite(one.mean) else "diverged"
            ),
            f"minus {OPTIMIZERS[REFERENCE].title}": _difference,
            f"factor in a rate within {FLAT:g} nats": lambda one: f"{flat_factor(one.search):.1f}",
            "tokens to its loss": _reached,
        },
        CELLS[cell].title,
    )


def progress_table(cell: str, optimizers: Sequence[str], runs: Sequence[Run]) -> Table:
    """What has been tried in a cell so far; the losses are of one seed, for information only."""
    rows = []
    for name in optimizers:
        found = search(cell, name, runs)
        missing = len(found.due)
        where = "inside" if found.inside else "at the edge, moves used up" * found.at_edge
        again = "yes" if found.winner else f"{missing} to go" * found.inside
        tries = len(found.tries)
        points = f"{tries} of {tries + (0 if found.inside else missing)}"
        best = next((run for run in found.tries if run.loss is not None), None)
        loss, rates = ("", "") if best is None else (f"{best.loss:.3f}", str(best.trial.rates))
        moves = str(len(found.boxes) - 1)
        rows.append([OPTIMIZERS[name].title, points, moves, loss, rates, where, again])
    heads = ["", "points", "moves", "best, seed 0", "rates", "best point", f"{len(SEEDS)} seeds"]
    return Table(heads, rows, f"{CELLS[cell].title}: so far")
