"""Tuning peak rates with a fixed number of tries: a pattern search on a grid of powers of two."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Rates(NamedTuple):
    """The peak rates of one try."""

    matrices: float
    """Of the matrices, or of every parameter."""
    rest: float | None = None
    """Of embedding, head and norms, where they have a rate of their own."""

    def scaled(self, option: str, factor: float) -> "Rates":
        """With one of the two multiplied."""
        return self._replace(**{option: getattr(self, option) * factor})

    def __str__(self) -> str:
        """As tables show it: "matrices / rest", or the only one."""
        return f"{self.matrices:.3g}" + ("" if self.rest is None else f" / {self.rest:.3g}")


_FACTORS = tuple(2.0 ** (0.5**level) for level in range(8))
"""Neighbours are this far apart: first a factor of 2, then, once the best is better than all of
them, its square root, and so on."""


def _close(a: Rates, b: Rates) -> bool:
    return all(
        x == y or (x is not None and y is not None and math.isclose(x, y, rel_tol=1e-6))
        for x, y in zip(a, b, strict=True)
    )


def _known(rates: Rates, tried: Sequence[tuple[Rates, float]]) -> bool:
    return any(_close(rates, other) for other, _ in tried)


def best(tried: Sequence[tuple[Rates, float]]) -> Rates:
    """The rates of the smallest loss; the earlier ones of two that are equal."""
    return min(tried, key=lambda one: one[1])[0]


def propose(start: Rates, tried: Sequence[tuple[Rates, float]]) -> Rates:
    """What to try next.

    First the start. Then an untried neighbour of the best so far: beyond it, in the direction of
    the last improvement, if there was one; else the two rates in turn, larger before smaller. The
    proposal depends on its arguments alone, so that a search can go on from a file of its tries.

    Args:
        start: where the search begins.
        tried: rates and losses so far, in order; infinite for a try that diverged.
    """
    if not tried:
        return start
    center = best(tried)
    options = ("matrices",) if start.rest is None else ("matrices", "rest")
    for factor in _FACTORS:
        around = [center.scaled(option, f) for f in (factor, 1 / factor) for option in options]
        fresh = [rates for rates in around if not _known(rates, tried)]
        if not fresh:
            continue
        onward = _onward(center, tried)
        return next((rates for rates in fresh if onward and _close(rates, onward)), fresh[0])
    raise ValueError(f"all neighbours of {center} have been tried")


def _onward(center: Rates, tried: Sequence[tuple[Rates, float]]) -> Rates | None:
    """One step beyond the best, as far as it is from the best before it."""
    before = tried[: next(i for i, one in enumerate(tried) if one[0] == center)]
    if not before:
        return None
    previous = best(before)
    if previous.rest is None or center.rest is None:
        return Rates(center.matrices**2 / previous.matrices)
    return Rates(center.matrices**2 / previous.matrices, center.rest**2 / previous.rest)


def edges(tried: Mapping[Rates, float]) -> list[str]:
    """Which of the best rates have no larger, or no smaller, one tried that is worse."""
    center = best(list(tried.items()))
    found = []
    for option, name in (("matrices", "rate"), ("rest", "rate of the rest")):
        value = getattr(center, option)
        if value is None:
            continue
        others = [getattr(rates, option) for rates in tried if rates != center]
        found += [
            f"no {side} {name} was tried"
            for side, beyond in (
                ("larger", any(other > value for other in others)),
                ("smaller", any(other < value for other in others)),
            )
            if not beyond
        ]
    return found
