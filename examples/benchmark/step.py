"""The time from gradients to new weights, on the matrices of every preset."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

import multinorm_optax as mo
from examples.benchmark.competitors import BASELINES, FAST, REFERENCE, SLOW, TITLES, Competitor
from examples.benchmark.targets import STEP_TARGETS, Comparison
from examples.benchmark.turns import MIN_ROUNDS, Matrices, take_turns
from examples.llama.config import PresetName
from examples.llama.costs.rounds import Spread, ratios, spread
from examples.llama.presets import PRESETS

KERNEL = mo.MatrixAxes(output=-1, input=-2)
"""Stored (layers, in, out), or (in, out)."""


@dataclass(frozen=True)
class Timed:
    """One group of competitors on one preset."""

    preset: PresetName
    layers: int
    """Layers that were updated; the model may have more."""
    elements: int
    """Weights that were updated."""
    seconds: Mapping[str, Sequence[float]]
    """Of every competitor's turns, round by round."""

    def ratio(self, over: str, under: str) -> Spread | None:
        """The spread of one competitor's time over another's; None if one of them is not here."""
        if over not in self.seconds or under not in self.seconds:
            return None
        return ratios(self.seconds[over], self.seconds[under])

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        return {
            "preset": self.preset,
            "layers": self.layers,
            "elements": self.elements,
            "competitors": {
                name: {
                    "title": TITLES[name],
                    "seconds": vars(spread(seconds)),
                    "ratio": vars(ratios(seconds, self.seconds[REFERENCE])),
                    "seconds_by_round": [round(each, 6) for each in seconds],
                }
                for name, seconds in self.seconds.items()
            },
        }


def layer_shapes(preset: PresetName, layers: int) -> dict[str, tuple[int, ...]]:
    """The matrices of so many of a preset's layers, stacked."""
    model = PRESETS[preset].setup.model
    d, f = model.hidden, model.mlp
    attention = dict.fromkeys(("query", "key", "value", "out"), (layers, d, d))
    return {**attention, "gate": (layers, d, f), "up": (layers, d, f), "down": (layers, f, d)}


def fitting_layers(preset: PresetName, weight_bytes: float, itemsize: int) -> int:
    """How many of a preset's layers weigh no more than that; at least one."""
    each = itemsize * sum(math.prod(shape) for shape in layer_shapes(preset, 1).values())
    return min(PRESETS[preset].setup.model.layers, max(1, int(weight_bytes / each)))


def product_flops(preset: PresetName) -> float:
    """Operations of five of Muon's Newton-Schulz steps on one layer: X X^T, its square, times X."""
    total = 0.0
    for _, *sides in layer_shapes(preset, 1).values():
        m, n = sorted(sides)
        total += 5 * (4 * m * m * n + 2 * m**3)
    return total


def product_speed(dtype: jnp.dtype) -> float:
    """Operations a second in a product of square matrices."""
    size, count = 1024, 5
    x = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    start = perf_counter()
    for _ in range(count):
        product(x, x).block_until_ready()
    return count * 2 * size**3 / (perf_counter() - start)


def measure(
    preset: PresetName,
    dtype: jnp.dtype,
    weight_bytes: float,
    seconds: float,
    console: Console,
    *,
    steep: bool = False,
) -> list[Timed]:
    """The groups of one preset: optimizers that pass over weights, and those that multiply.

    The second one has as many layers as leave it the least number of rounds in the same time. It is
    left out where not even one does.
    """

    def timed(competitors: Mapping[str, Competitor], layers: int, what: str) -> Timed:
        matrices = Matrices(layer_shapes(preset, layers), KERNEL, dtype, steep)
        return _timed(preset, layers, matrices, competitors, seconds, what, console)

    layers = fitting_layers(preset, weight_bytes, jnp.dtype(dtype).itemsize)
    found = [timed(FAST, layers, "passes over the weights")]
    each_layer = 2 * product_flops(preset) / product_speed(dtype)
    affordable = int(seconds / (MIN_ROUNDS * each_layer))
    if affordable:
        found.append(timed(SLOW, min(layers, affordable), "products of matrices"))
    else:
        console.print(
            f"{preset}: {TITLES['muon']} and {TITLES['swan']} are left out, as a round of them "
            f"would take about {each_layer:.0f} s for one layer alone; --seconds gives them more",
            soft_wrap=True,
        )
    return found


def measure_baselines(
    preset: PresetName, dtype: jnp.dtype, weight_bytes: float, seconds: float, console: Console
) -> Timed:
    """Those with less state than AdamW, on one preset."""
    layers = fitting_layers(preset, weight_bytes, jnp.dtype(dtype).itemsize)
    matrices = Matrices(layer_shapes(preset, layers), KERNEL, dtype)
    return _timed(preset, layers, matrices, BASELINES, seconds, "baselines", console)


def _timed(
    preset: PresetName,
    layers: int,
    matrices: Matrices,
    competitors: Mapping[str, Competitor],
    seconds: float,
    what: str,
    console: Console,
) -> Timed:
    rounds = take_turns(f"{preset}, {what}", matrices, competitors, seconds, console)
    return Timed(preset, layers, matrices.elements, rounds)


def compare(groups: Sequence[Timed]) -> list[Comparison]:
    """All ratios to the reference, and all others of which something is wanted.

    Where several groups of a preset have a ratio, the first one's counts.
    """
    found = []
    for over, under in dict.fromkeys([*((name, REFERENCE) for name in TITLES), *STEP_TARGETS]):
        measured: dict[PresetName, Spread] = {}
        for group in groups:
            ratio = group.ratio(over, under)
            if ratio is not None and over != under:
                measured.setdefault(group.preset, ratio)
        if measured:
            found.append(Comparison(over, under, measured, STEP_TARGETS.get((over, under))))
    return found
