"""Findings for each optimizer in a cell, and their tables."""

import math
import statistics
from collections.abc import Sequence

from examples.llama.optimizers import OPTIMIZERS
from examples.measure.study.plan import CELLS, REFERENCE, SEEDS, SHORTER, SPACES, WIDTH
from examples.measure.study.runs import Run
from examples.measure.study.search import Search, mean_loss, search
from examples.measure.tables import Table, table

FLAT = 0.1
"""Losses up to this many nats above the best belong to the flat region."""


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


def first_box_losses(found: Search) -> list[float]:
    """The losses of the first box's points; one that diverged has that of a uniform prediction."""
    untrained = math.log(CELLS[found.cell].setup.model.vocabulary)
    losses = [run.score for run in found.tries if run.trial.box == 0]
    return [loss if math.isfinite(loss) else untrained for loss in losses]


def findings(cell: str, runs: Sequence[Run]) -> list[Search]:
    """All optimizers of a cell whose best point lies inside its box and is repeated, best first."""
    found = [search(cell, name, runs) for name in SPACES]
    return sorted((one for one in found if one.winner), key=lambda one: mean_loss(one.winner))


def findings_table(cell: str, found: Sequence[Search]) -> Table:
    """One cell's findings."""
    reference = next((one for one in found if one.optimizer == REFERENCE), None)

    def points(one: Search) -> str:
        moves = len(one.boxes) - 1
        return f"{len(one.tries)}" + (f" ({moves} moved)" if moves else "")

    def plus_minus(losses: Sequence[float], sign: str = "") -> str:
        return f"{statistics.fmean(losses):{sign}.3f} ± {statistics.stdev(losses):.3f}"

    def loss(one: Search) -> str:
        return plus_minus(one.losses) if all(map(math.isfinite, one.losses)) else "diverged"

    def difference(one: Search) -> str:
        """Seed by seed."""
        pairs = zip(one.losses, reference.losses if reference else (), strict=False)
        differences = [own - other for own, other in pairs]
        known = one is not reference and differences and all(map(math.isfinite, differences))
        return plus_minus(differences, "+") if known else "-"

    def reached(one: Search) -> str:
        if len(one.curve) <= len(SHORTER):
            return "not measured"
        goal = mean_loss(reference.winner) if reference else -math.inf
        tokens = tokens_to_reach(goal, one.curve) if math.isfinite(goal) else None
        if tokens is None:
            return "not reached"
        limit = "at most " if tokens == one.curve[0][0] else ""
        return f"{limit}{tokens / one.curve[-1][0]:.0%}"

    return table(
        found,
        {
            "": lambda one: OPTIMIZERS[one.optimizer].title,
            "points": points,
            "best rates: matrices / rest": lambda one: str(one.winner[0].trial.rates),
            "final loss, nats": loss,
            f"minus {OPTIMIZERS[REFERENCE].title}": difference,
            f"factor in a rate within {FLAT:g} nats": lambda one: f"{flat_factor(one):.1f}",
            "tokens to its loss": reached,
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
