"""Timing in rounds: everything runs once a round, so that all of it sees the same machine."""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

Turn = Callable[[], Any]
"""Does its work and returns when it is done."""

REFERENCE = "adamw"
"""The optimizer that all others are compared with; it always takes part."""

NOTE = (
    "Ratios of times are taken within each round, so that what slows the machine for a while slows "
    "both sides; shown are the median over the rounds and, in parentheses, the quartiles."
)


class Spread(NamedTuple):
    """Quartiles of some values."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles."""
    return Spread(*np.percentile(values, (25, 50, 75)).tolist())


def ratios(over: Sequence[float], under: Sequence[float]) -> Spread:
    """The spread of one sequence over another, round by round: a slow round does not change it."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def competitors(
    seconds: Mapping[str, Sequence[float]], titles: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """What is recorded of the turns of optimizers, beside the reference's."""
    return {
        name: {
            "title": titles[name],
            "seconds": spread(each)._asdict(),
            "ratio": ratios(each, seconds[REFERENCE])._asdict(),
            "seconds_by_round": [round(one, 6) for one in each],
        }
        for name, each in seconds.items()
    }


def within(seconds: float) -> Callable[[float], int]:
    """As many rounds as fit into a time, 3 at least and 41 at most, given the time of one."""
    return lambda one: min(max(int(seconds / one), 3), 41)


def take_turns(
    what: str, turns: Mapping[str, Turn], rounds: Callable[[float], int], console: Console
) -> dict[str, list[float]]:
    """Seconds of every turn, round by round.

    Each round has an order of its own, so that no turn always finds the caches as the same other
    one left them. A first turn of each, which compiles, and a first round do not count. `rounds`
    gives the number of rounds that count, from the seconds of the first round.
    """
    generator = np.random.default_rng(0)

    def one_round() -> dict[str, float]:
        seconds = {}
        for name in generator.permutation(list(turns)):
            start = perf_counter()
            turns[name]()
            seconds[name] = perf_counter() - start
        return seconds

    with console.status("") as status:
        for name, turn in turns.items():
            status.update(f"{what}: compiling {name}")
            turn()
        status.update(f"{what}: the first round")
        count = rounds(sum(one_round().values()))
        found = []
        for number in range(count):
            status.update(f"{what}: {number} of {count} rounds done")
            found.append(one_round())
    return {name: [seconds[name] for seconds in found] for name in turns}
