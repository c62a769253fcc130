"""What the runs say of each optimizer in a cell."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from examples.llama.config import Experiment, OptimizerConfig
from examples.llama.presets import resolve
from examples.measure.footprint import kept
from examples.measure.study.plan import CELLS, REFERENCE, SHORTER, SPACES, WIDTH
from examples.measure.study.points import Rates
from examples.measure.study.results import Run
from examples.measure.study.search import Search, repetitions, search

FLAT = 0.1
"""Losses up to this many nats above the best belong to the flat region."""


@dataclass(frozen=True)
class Finding:
    """One optimizer whose repetitions are complete."""

    optimizer: str
    points: int
    """Points tried, in all boxes."""
    moves: int
    """How often the box moved."""
    rates: Rates
    """The winner's."""
    state_per_weight: float
    """Bytes of optimizer state for each weight of the model."""
    losses: Sequence[float]
    """The winner's final losses, by seed; infinite where it diverged."""
    differences: Sequence[float]
    """Those minus the reference's of the same seed; none without it, or if one diverged."""
    best_of: Sequence[float]
    """Expected best loss of 1, 2, ... points drawn from the first box."""
    flat: float
    """Factor in each rate over which the loss hardly changes."""
    lengths: Sequence[tuple[int, float]]
    """Tokens and mean loss of runs of several lengths, with their own schedules, shortest first."""
    tokens_to_reference: float | None
    """Tokens at which a run with its own schedule reaches the reference's final loss; None if the
    full length does not, or without a reference."""

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


def tokens_to_reach(goal: float, lengths: Sequence[tuple[int, float]]) -> float | None:
    """Where the losses fall to `goal`, linear in the logarithm of tokens between two lengths.

    The shortest length if its loss is as low already, so the figure is an upper limit then; None if
    no length reaches it.
    """
    previous: tuple[int, float] | None = None
    for tokens, loss in lengths:
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


def state_per_weight(cell: str, optimizer: str) -> float:
    """Bytes of optimizer state for each weight of a cell's model."""
    setup = CELLS[cell].setup
    found = kept(Experiment(resolve(OptimizerConfig(optimizer), setup.preset), setup))
    return found.state_bytes / found.parameters


def findings(cell: str, runs: Sequence[Run]) -> list[Finding]:
    """All optimizers of a cell whose best point lies inside its box and is repeated, best first."""
    known = [run for run in runs if run.trial.optimizer in SPACES]
    per_step = CELLS[cell].setup.data.tokens_per_step

    def mean(group: Sequence[Run]) -> float:
        return statistics.fmean(run.score for run in group)

    searches = {name: search(cell, name, known) for name in SPACES}
    repeated = {name: repetitions(found, known) for name, found in searches.items()}
    reference = repeated[REFERENCE].winner
    result = []
    for name, again in repeated.items():
        if not again.winner:
            continue
        found, winner = searches[name], again.winner
        pairs = zip(winner, reference, strict=False)
        differences = [one.score - other.score for one, other in pairs]
        # a curve with a gap would be read off wrongly
        complete = len(again.shorter) == len(SHORTER)
        groups = [*again.shorter, winner] if complete else [winner]
        lengths = [(group[0].trial.steps * per_step, mean(group)) for group in groups]
        reached = None
        if complete and reference and math.isfinite(mean(reference)):
            reached = tokens_to_reach(mean(reference), lengths)
        result.append(
            Finding(
                optimizer=name,
                points=len(found.tries),
                moves=len(found.boxes) - 1,
                rates=winner[0].trial.rates,
                state_per_weight=state_per_weight(cell, name),
                losses=[run.score for run in winner],
                differences=differences if all(map(math.isfinite, differences)) else [],
                best_of=expected_best(
                    [
                        untrained(cell) if run.loss is None else run.loss
                        for run in found.tries
                        if run.trial.box == 0
                    ]
                ),
                flat=flat_factor(found),
                lengths=lengths,
                tokens_to_reference=reached,
            )
        )
    return sorted(result, key=lambda one: one.mean)
