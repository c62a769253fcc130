"""Quasi-random points in a box of peak rates, and when the box has to move."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scipy.stats import qmc

OUTER = 0.1
"""A best point in this share of a box's side, at either end, does not count as inside."""


class Rates(NamedTuple):
    """The peak rates of one run."""

    matrices: float
    """Of the matrices, or of every parameter."""
    rest: float | None = None
    """Of embedding, head and norms, where they have a rate of their own."""

    def __str__(self) -> str:
        """Both, "matrices / rest", or the only one."""
        return f"{self.matrices:.3g}" + ("" if self.rest is None else f" / {self.rest:.3g}")

    @property
    def each(self) -> list[float]:
        """The rates that there are."""
        return [self.matrices] if self.rest is None else [self.matrices, self.rest]


def _rates(each: Sequence[float]) -> Rates:
    return Rates(*(float(f"{rate:.5g}") for rate in each))


@dataclass(frozen=True)
class Box:
    """All rates within a factor of sqrt(width) of the center, separately for each rate."""

    center: Rates
    width: float
    """The largest rate of a side over its smallest."""

    def points(self, count: int) -> list[Rates]:
        """The first points of Sobol's sequence, half a step away from the lower edges.

        The count is a power of two: each of that many equal intervals of each rate, on a
        logarithmic scale, then has exactly one of them.
        """
        exponent = count.bit_length() - 1
        if count != 2**exponent:
            raise ValueError(f"{count} points are not balanced; choose a power of two")
        sequence = qmc.Sobol(len(self.center.each), scramble=False).random_base2(exponent)
        return [
            _rates(
                [
                    rate * self.width ** (share - 0.5)
                    for rate, share in zip(self.center.each, place, strict=True)
                ]
            )
            for place in sequence + 0.5 / count
        ]

    def place(self, rates: Rates) -> list[float]:
        """Where rates lie along each side, 0 and 1 being the ends."""
        each = zip(rates.each, self.center.each, strict=True)
        return [0.5 + math.log(rate / center) / math.log(self.width) for rate, center in each]

    def contains(self, rates: Rates) -> bool:
        """Whether rates lie in the box."""
        return all(0 <= share <= 1 for share in self.place(rates))

    def moved_to(self, best: Rates) -> "Box | None":
        """The box of the same size to search next; None where the best point lies well inside.

        Along each side in whose outer tenths the best point lies, the new box is centered on it.
        """
        outer = [share < OUTER or share > 1 - OUTER for share in self.place(best)]
        if not any(outer):
            return None
        each = zip(outer, best.each, self.center.each, strict=True)
        return Box(_rates([rate if moves else center for moves, rate, center in each]), self.width)
