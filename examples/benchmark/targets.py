"""What the project aims at, beside what was measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from examples.benchmark.competitors import REFERENCE, TITLES
from examples.llama.config import PresetName
from examples.llama.costs.rounds import Spread


@dataclass(frozen=True)
class Target:
    """The bounds that are wanted of some ratios."""

    at_most: float = math.inf
    """Of every ratio."""
    at_least: float = 0.0
    """Of every ratio."""
    mean_at_most: float = math.inf
    """Of their geometric mean."""

    def __str__(self) -> str:
        """The bounds, in few letters."""
        low, high = self.at_least > 0, self.at_most < math.inf
        parts = []
        if low and high:
            parts.append(f"{self.at_least:g} to {self.at_most:g}")
        elif low:
            parts.append(f"≥ {self.at_least:g}")
        elif high:
            parts.append(f"≤ {self.at_most:g}")
        if self.mean_at_most < math.inf:
            parts.append(f"mean {self.mean_at_most:g}")
        return ", ".join(parts)

    def reached(self, measured: Sequence[float]) -> bool:
        """Whether the ratios are what is wanted."""
        inside = all(self.at_least <= ratio <= self.at_most for ratio in measured)
        return inside and geometric_mean(measured) <= self.mean_at_most


def geometric_mean(ratios: Sequence[float]) -> float:
    """The mean of ratios, which is one if each of them and its inverse are there."""
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))


STEP_TARGETS: Mapping[tuple[str, str], Target] = {
    ("sinkgd", REFERENCE): Target(mean_at_most=2.2),
    ("sinkgd-1", REFERENCE): Target(at_most=0.9),
    ("multi-normalize", "sinkgd"): Target(at_least=0.95, at_most=1.05),
    ("literal", "sinkgd"): Target(at_least=3.0),
    ("muon", "sinkgd"): Target(at_least=30.0),
    ("swan", "muon"): Target(at_most=1.0),
}
"""Of the time of one competitor over that of another."""

MEMORY_TARGETS: Mapping[str, Target] = {
    "sinkgd": Target(at_most=1.01),
    "sinkgd-layerwise": Target(at_most=0.2),
}
"""Of the temporary memory of a train step over that of SGD's."""


@dataclass(frozen=True)
class Comparison:
    """The time of one competitor over that of another on all presets, and what is wanted of it."""

    over: str
    under: str
    ratios: Mapping[PresetName, Spread]
    """At least one."""
    target: Target | None
    """None where nothing is."""

    @property
    def title(self) -> str:
        """Who over whom."""
        return f"{TITLES[self.over]} / {TITLES[self.under]}"

    @property
    def mean(self) -> float:
        """The geometric mean of the medians."""
        return geometric_mean([one.median for one in self.ratios.values()])

    @property
    def reached(self) -> bool | None:
        """Whether the target is; None without one."""
        if self.target is None:
            return None
        return self.target.reached([one.median for one in self.ratios.values()])

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        return {
            "over": self.over,
            "under": self.under,
            "ratios": {preset: vars(one) for preset, one in self.ratios.items()},
            "geometric_mean": self.mean,
            "target": None if self.target is None else str(self.target),
            "reached": self.reached,
        }
