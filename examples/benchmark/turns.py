"""Updates that take turns on the same weights, for as long as a budget of time allows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.console import Console

import multinorm_optax as mo
from examples.benchmark.competitors import Competitor
from examples.llama.costs.rounds import rounds_of

Tree = dict[str, jax.Array]

MIN_ROUNDS = 3
"""Rounds that count however long they take."""
MAX_ROUNDS = 41
"""Rounds that count however quick they are."""


@dataclass(frozen=True)
class Matrices:
    """The weights that are updated: their shapes, and which axes are matrices."""

    shapes: Mapping[str, tuple[int, ...]]
    """By name."""
    axes: mo.MatrixAxes
    dtype: jnp.dtype
    steep: bool = False
    """Whether gradients are steep, which takes all sweeps; else they are Gaussian."""

    @property
    def elements(self) -> int:
        """The number of weights."""
        return sum(leaf.size for leaf in self._like().values())

    def gaussian(self, seed: int) -> Tree:
        """A tree of normal numbers."""
        keys = jax.random.split(jax.random.key(seed), len(self.shapes))
        return {
            name: jax.random.normal(key, like.shape, like.dtype)
            for key, (name, like) in zip(keys, self._like().items(), strict=True)
        }

    def gradient(self) -> Tree:
        """Normal numbers; if steep, each times one of its own between 1e-6 and 1e6, evenly in log.

        Rows and columns of Gaussian gradients are nearly alike, so that three sweeps balance them
        up to rounding; steep ones are still on their way after five.
        """
        plain = self.gaussian(0)
        if not self.steep:
            return plain
        sizes = self.gaussian(2)
        return {
            name: leaf * 10.0 ** (12 * jax.scipy.special.ndtr(sizes[name]) - 6).astype(leaf.dtype)
            for name, leaf in plain.items()
        }

    def _like(self) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            name: jax.ShapeDtypeStruct(shape, self.dtype) for name, shape in self.shapes.items()
        }


class Updates:
    """The turns of some competitors: one step each, gradient to new weights.

    All of them step on the same weights, whose memory is donated from turn to turn, each with a
    state of its own.
    """

    def __init__(self, matrices: Matrices, competitors: Mapping[str, Competitor]):
        self._gradient = matrices.gradient()
        self._params = matrices.gaussian(1)
        self.turns = {
            name: self._turn(competitor.make(matrices.axes))
            for name, competitor in competitors.items()
        }

    def _turn(self, optimizer: optax.GradientTransformation) -> Callable[[], None]:
        state = jax.jit(optimizer.init)(self._params)

        def step(params: Tree, state: Any, gradient: Tree) -> tuple[Tree, Any]:
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        compiled = jax.jit(step, donate_argnums=(0, 1))

        def turn() -> None:
            nonlocal state
            now = compiled(self._params, state, self._gradient)
            self._params, state = jax.block_until_ready(now)

        return turn


def take_turns(
    what: str,
    matrices: Matrices,
    competitors: Mapping[str, Competitor],
    seconds: float,
    console: Console,
) -> dict[str, list[float]]:
    """Seconds of every competitor's turns, round by round.

    The first round compiles, the second says how many more fit into the budget; neither counts.
    """
    with console.status(f"{what}: drawing weights and gradients"):
        turns = Updates(matrices, competitors).turns
    for name, turn in turns.items():
        with console.status(f"{what}: compiling {competitors[name].title}"):
            turn()
    start = perf_counter()
    with console.status(f"{what}: the first round"):
        list(rounds_of(turns, 1))
    rounds = int(seconds / (perf_counter() - start))
    rounds = min(max(rounds, MIN_ROUNDS), MAX_ROUNDS)
    found: dict[str, list[float]] = {name: [] for name in turns}
    with console.status("") as status:
        for number, seconds_of in enumerate(rounds_of(turns, rounds, seed=1)):
            status.update(f"{what}: {number + 1} of {rounds} rounds done")
            for name in turns:
                found[name].append(seconds_of[name])
    return found
