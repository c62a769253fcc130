"""The alternating fixed-point iteration x <- P_gK(... P_g1(x)), on one weight.

One *half-step* is one projection, one *sweep* is one pass over all of them (Scetbon et al.,
arXiv 2502.06742, algorithm MultiNorm). The iteration takes one of two forms:

- `MatrixAlternation`, here, carries the matrix and serves any projections;
- `DiagonalAlternation`, in `_diagonal_scaling`, carries scales and serves norms that only rescale.

If all projections keep zero rows and columns, these do not count in the sizes m and n. Otherwise a
dead column would make the energies of row and column targets disagree, and dead rows would hand
their share of the energy to the live ones.
"""

import abc
import dataclasses
import functools
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp

from multinorm_optax._matrices.axes import MatrixAxes
from multinorm_optax._norms.norms import MatrixSize, Projection
from multinorm_optax._norms.precision import any_nonzero, largest

State = TypeVar("State")


@dataclasses.dataclass(frozen=True)
class Member:
    """A projection and the axes of the weight that it is applied to."""

    projection: Projection
    axes: MatrixAxes


class Alternation(abc.ABC, Generic[State]):
    """The half-steps of an alternation and the state that they carry.

    Attributes:
      length: K, the number of half-steps in a sweep.
      start: the state before the first half-step.
    """

    length: int
    start: State

    @abc.abstractmethod
    def half_step(self, k: int, state: State, first: bool = False) -> tuple[State, jax.Array]:
        """Applies projection k.

        Returns the new state and the residual of the old one: how far it was from satisfying
        constraint k, an array that broadcasts against every leaf of the state. `first` marks the
        first sweep, where the state may still be badly scaled.
        """

    @abc.abstractmethod
    def value(self, state: State) -> Any:
        """The iterate that a state stands for."""

    def last_iterate(self, num_iters: Any, tol: Any = None) -> Any:
        """The iterate after `num_iters` sweeps, at least one; may be traced.

        With `tol`, sweeps stop as soon as no constraint is violated by more than this. The
        constraint of the last projection is taken to hold, as it has just been applied.
        """
        return self.value(last_state(self, num_iters, tol))

    @abc.abstractmethod
    def inner_product(self, x: Any, y: Any) -> jax.Array:
        """<x, y> of two iterates: per matrix, of shape `batch`, or of the whole."""

    @abc.abstractmethod
    def per_matrix(self, residual: jax.Array) -> jax.Array:
        """A residual without the matrix axes that it keeps to broadcast."""


def last_state(alternation: Alternation[State], num_iters: Any, tol: Any = None) -> State:
    """The state after `num_iters` sweeps, or as many as the tolerance takes."""
    state = sweep(alternation, alternation.start, first=True)
    return sweeps_after_first(alternation, state, num_iters, tol)


def sweep(alternation: Alternation[State], state: State, first: bool = False) -> State:
    """One pass over all projections."""
    for k in range(alternation.length):
        state, _ = alternation.half_step(k, state, first)
    return state


def sweeps_after_first(
    alternation: Alternation[State], state: State, num_iters: Any, tol: Any
) -> State:
    """What follows the first sweep."""
    if tol is not None:
        return _sweep_to_tolerance(alternation, state, num_iters, tol)
    if isinstance(num_iters, int) and num_iters == 1:
        return state
    return jax.lax.fori_loop(1, num_iters, lambda _, state: sweep(alternation, state), state)


def _sweep_to_tolerance(
    alternation: Alternation[State], state: State, num_iters: Any, tol: Any
) -> State:
    """The sweeps after the first. A matrix of a stack stands still once it has converged.

    The residual of a state falls out of the next sweep's first half-step, which is therefore
    carried along (`ahead`) and not computed twice.
    """

    def look_ahead(state: State) -> tuple[State, jax.Array]:
        ahead, residual = alternation.half_step(0, state)
        for k in range(1, alternation.length - 1):
            residual = jnp.maximum(residual, alternation.half_step(k, state)[1])
        return ahead, residual

    def unfinished(carry: tuple[Any, ...]) -> jax.Array:
        count, _, _, residual = carry
        return (count < num_iters) & jnp.any(residual > tol)

    def body(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        count, state, ahead, residual = carry
        for k in range(1, alternation.length):
            ahead, _ = alternation.half_step(k, ahead)
        state = jax.tree.map(lambda new, old: jnp.where(residual > tol, new, old), ahead, state)
        return count + 1, state, *look_ahead(state)

    carry = (jnp.asarray(1), state, *look_ahead(state))
    return jax.lax.while_loop(unfinished, body, carry)[1]


def _live_size(x: jax.Array, axes: MatrixAxes) -> MatrixSize:
    """(m, n) of each matrix without its zero rows and columns; matrix axes kept with size one."""
    dtype = jnp.finfo(x.dtype).dtype
    rows, columns = any_nonzero(x, axes.input), any_nonzero(x, axes.output)
    return (
        jnp.sum(rows, axis=axes.output, keepdims=True, dtype=dtype),
        jnp.sum(columns, axis=axes.input, keepdims=True, dtype=dtype),
    )


def _sizes(members: tuple[Member, ...], x: jax.Array, live: bool) -> list[MatrixSize]:
    if live and all(member.projection.keeps_support for member in members):
        found = {member.axes: _live_size(x, member.axes) for member in members}
        return [found[member.axes] for member in members]
    return [member.axes.matrix_shape(x.shape) for member in members]


class WeightAlternation(Alternation[State]):
    """What both forms share: the members, their sizes, and residuals that broadcast."""

    def __init__(self, members: tuple[Member, ...], x: jax.Array, careful: bool = True):
        self.members = members
        self.length = len(members)
        self.x = x
        self.careful = careful
        self._same_batch = len({frozenset(member.axes.matrix) for member in members}) == 1

    @functools.cached_property
    def sizes(self) -> list[MatrixSize]:
        """(m, n) of each member's matrices; if careful, without dead rows and columns."""
        return _sizes(self.members, self.x, live=self.careful)

    def broadcastable(self, residual: jax.Array) -> jax.Array:
        """One residual per matrix, or the largest of all where members have other matrices."""
        return (
            residual if self._same_batch else jnp.squeeze(largest(residual, range(residual.ndim)))
        )

    def inner_product(self, x: jax.Array, y: jax.Array) -> jax.Array:
        axes = self.members[0].axes.matrix if self._same_batch else None
        return jnp.sum(jnp.real(jnp.conj(x) * y), axis=axes)

    def per_matrix(self, residual: jax.Array) -> jax.Array:
        return jnp.squeeze(residual, self.members[0].axes.matrix) if residual.ndim else residual


class MatrixAlternation(WeightAlternation[jax.Array]):
    """Carries the iterate itself."""

    def __init__(self, members: tuple[Member, ...], x: jax.Array):
        super().__init__(members, x)
        self.start = x

    def half_step(
        self, k: int, state: jax.Array, first: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        del first
        member, size = self.members[k], self.sizes[k]
        projected = member.projection.project(state, member.axes, size)
        residual = member.projection.residual(state, projected, member.axes, size)
        return projected, self.broadcastable(residual)

    def value(self, state: jax.Array) -> jax.Array:
        return state
