"""Timing by turns: everything runs once a round, so that all of it sees the same machine."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np


@dataclass(frozen=True)
class Spread:
    """The middle half of some values."""

    low: float
    """Lower quartile."""
    median: float
    high: float
    """Upper quartile."""

    def __str__(self) -> str:
        """The median, and the quartiles in brackets."""
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles."""
    low, high = np.percentile(values, (25, 75))
    return Spread(float(low), statistics.median(values), float(high))


def rounds_of(
    turns: Mapping[str, Callable[[], None]], rounds: int, seed: int = 0
) -> Iterator[dict[str, float]]:
    """Yield the seconds of every turn, round by round.

    Each round has an order of its own, drawn from the seed, so that nobody always follows the same
    one and finds the caches as that one left them.
    """
    generator = np.random.default_rng(seed)
    names = list(turns)
    for _ in range(rounds):
        seconds = {}
        for index in generator.permutation(len(names)):
            start = perf_counter()
            turns[names[index]]()
            seconds[names[index]] = perf_counter() - start
        yield {name: seconds[name] for name in names}


def ratios(over: Sequence[float], under: Sequence[float]) -> Spread:
    """The spread of one sequence over another, round by round: what slows a round leaves it."""
    return spread([a / b for a, b in zip(over, under, strict=True)])
