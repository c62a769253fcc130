"""The time of an update for each shape by itself: none may fall off a cliff."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from rich.console import Console

import multinorm_optax as mo
from examples.benchmark.competitors import FAST, REFERENCE
from examples.benchmark.step import KERNEL, layer_shapes
from examples.benchmark.turns import Matrices, take_turns
from examples.llama.config import PresetName
from examples.llama.costs.rounds import Spread, ratios, spread
from examples.llama.presets import PRESETS

_TIMED = "sinkgd"


@dataclass(frozen=True)
class Case:
    """One leaf."""

    name: str
    """Where it occurs, or what is hard about it."""
    shape: tuple[int, ...]
    axes: mo.MatrixAxes = KERNEL

    @property
    def title(self) -> str:
        """Its name and its shape."""
        return f"{self.name} {'x'.join(map(str, self.shape))}"


HOSTILE = (
    Case("odd side", (1, 2048, 5461)),
    Case("odd side", (1, 5461, 2048)),
    Case("prime sides", (1, 1021, 4093)),
    Case("head", (1, 256, 32_000)),
    Case("head", (32_000, 256)),
    Case("small", (8, 64, 64)),
    Case("tiny", (16_384, 8, 8)),
    Case("column", (1, 1, 100_000)),
    Case("row", (1, 100_000, 1)),
    Case("three columns", (1, 300_000, 3)),
    Case("layers in the middle", (1024, 4, 2736), mo.MatrixAxes(output=2, input=0)),
    Case("layers at the end", (1024, 2736, 4), mo.MatrixAxes(output=1, input=0)),
    Case("heads", (4, 1024, 16, 64), mo.MatrixAxes(output=(2, 3), input=1)),
)
"""Shapes on which an implementation that is quick on the usual ones may be slow."""


@dataclass(frozen=True)
class Shaped:
    """What was measured on one shape."""

    case: Case
    adamw_seconds: Spread
    seconds: Spread
    ratio: Spread
    """Of the times, for the same number of weights."""

    @property
    def elements(self) -> int:
        """The number of weights."""
        return math.prod(self.case.shape)

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        return {
            "name": self.case.name,
            "shape": self.case.shape,
            "output_axes": self.case.axes.output,
            "input_axes": self.case.axes.input,
            "elements": self.elements,
            "seconds": vars(self.seconds),
            "adamw_seconds": vars(self.adamw_seconds),
            "ratio": vars(self.ratio),
        }


def cases(presets: Iterable[PresetName], weight_bytes: float, itemsize: int) -> list[Case]:
    """Each shape of these presets, as many layers of it as fit, and the hostile ones."""
    found = []
    for preset in presets:
        for _, *sides in dict.fromkeys(layer_shapes(preset, 1).values()):
            fitting = max(1, int(weight_bytes / (itemsize * math.prod(sides))))
            layers = min(PRESETS[preset].setup.model.layers, fitting)
            found.append(Case(preset, (layers, *sides)))
    return [*found, *HOSTILE]


def measure(case: Case, dtype: jnp.dtype, seconds: float, console: Console) -> Shaped:
    """SinkGD with five sweeps, and AdamW, on one shape."""
    matrices = Matrices({"kernel": case.shape}, case.axes, dtype)
    competitors = {name: FAST[name] for name in (REFERENCE, _TIMED)}
    found = take_turns(case.title, matrices, competitors, seconds, console)
    return Shaped(
        case,
        spread(found[REFERENCE]),
        spread(found[_TIMED]),
        ratios(found[_TIMED], found[REFERENCE]),
    )


def worst(measured: Iterable[Shaped]) -> Shaped:
    """The shape with the largest ratio."""
    return max(measured, key=lambda one: one.ratio.median)
