"""The alternating fixed-point iteration x <- P_gK(... P_g1(x)) (Scetbon et al., arXiv 2502.06742).

One *half-step* is one projection, one *sweep* is one pass over all of them.
"""

import abc
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

State: TypeAlias = Any
Residual: TypeAlias = Callable[[], jax.Array]
"""A function for the distance from a constraint, which broadcasts against leaves of the state."""
NumIters: TypeAlias = int | jax.Array
Tolerance: TypeAlias = float | jax.Array | None


class Alternation(abc.ABC):
    """An alternation of K = `length` half-steps in a sweep, and its initial state."""

    length: int
    start: State

    @abc.abstractmethod
    def half_step(self, k: int, state: State) -> tuple[State, Residual]:
        """Apply projection k; return the new state, and a function for the old state's residual."""

    def first_half_step(self, k: int, state: State) -> State:
        """Apply projection k in the first sweep, where the state may be badly scaled."""
        return self.half_step(k, state)[0]

    def accepted(self, new: State, old: State, first: State) -> State:
        """The state after a sweep; for matrices that it took out of range, the state before it.

        `first` is the state after the first sweep.
        """
        return new

    def value(self, state: State) -> Any:
        """The iterate of a state."""
        return state

    def last_iterate(self, num_iters: NumIters, tol: Tolerance = None) -> Any:
        """The iterate after `num_iters` sweeps, at least one, or once no residual exceeds `tol`.

        The last projection's constraint is assumed to hold, because it was applied last.
        """
        return self.value(later_sweeps(self, first_sweep(self), num_iters, tol))

    @abc.abstractmethod
    def inner_product(self, x: Any, y: Any) -> jax.Array:
        """<x, y> of two iterates: one per matrix (shape `batch`), or one of all entries."""

    def per_matrix(self, residual: jax.Array) -> jax.Array:
        """A residual without its matrix axes of size one."""
        return residual


def first_sweep(alternation: Alternation) -> State:
    """The state after one pass over all projections."""
    state = alternation.start
    for k in range(alternation.length):
        state = alternation.first_half_step(k, state)
    return state


_UNROLLED = 16
"""The most sweeps that are unrolled on an accelerator, where a loop adds latency."""


def is_few(num_iters: NumIters) -> bool:
    """Whether so few sweeps need no guard against states out of range; a traced number is not."""
    return isinstance(num_iters, int) and num_iters <= 8


def later_sweeps(
    alternation: Alternation, state: State, num_iters: NumIters, tol: Tolerance
) -> State:
    """The state after the remaining sweeps, all but the first."""
    if tol is not None:
        return _sweep_to_tolerance(alternation, state, num_iters, tol)

    first = state

    def sweep(_: Any, state: State) -> State:
        new = state
        for k in range(alternation.length):
            new, _ = alternation.half_step(k, new)
        return new if is_few(num_iters) else alternation.accepted(new, state, first)

    straight = isinstance(num_iters, int) and num_iters <= _UNROLLED
    unroll = True if straight and jax.default_backend() != "cpu" else None
    return jax.lax.fori_loop(1, num_iters, sweep, state, unroll=unroll)


def _sweep_to_tolerance(
    alternation: Alternation, state: State, num_iters: NumIters, tol: float | jax.Array
) -> State:
    """The state after the remaining sweeps. A matrix of a stack is frozen once it has converged.

    The first half-step of the next sweep yields the residual, and is carried along (`ahead`) so
    that it is not computed twice.
    """

    first = state

    def look_ahead(state: State) -> tuple[State, jax.Array]:
        ahead, measure = alternation.half_step(0, state)
        residual = measure()
        for k in range(1, alternation.length - 1):
            residual = jnp.maximum(residual, alternation.half_step(k, state)[1]())
        return ahead, residual

    def unfinished(carry: tuple[Any, ...]) -> jax.Array:
        count, _, _, residual = carry
        return (count < num_iters) & jnp.any(residual > tol)

    def body(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        count, state, ahead, residual = carry
        for k in range(1, alternation.length):
            ahead, _ = alternation.half_step(k, ahead)
        ahead = alternation.accepted(ahead, state, first)
        state = jax.tree.map(lambda new, old: jnp.where(residual > tol, new, old), ahead, state)
        return count + 1, state, *look_ahead(state)

    carry = (jnp.asarray(1), state, *look_ahead(state))
    return jax.lax.while_loop(unfinished, body, carry)[1]
