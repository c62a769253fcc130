"""The alternating fixed-point iteration x <- P_gK(... P_g1(x)), on one weight.

One *half-step* is one projection, one *sweep* is one pass over all of them (Scetbon et al.,
arXiv 2502.06742, algorithm MultiNorm). The iteration takes one of two forms:

- `MatrixAlternation` carries the matrix and serves any projections;
- `DiagonalAlternation` serves Euclidean norms (rows, columns, Frobenius), which only rescale groups
  of entries: every iterate is G times one positive scale per group, so that the scales alone are
  iterated, and no other array of the weight's size is made (Sinkhorn-Knopp on G*G).

If all projections keep zero rows and columns, these do not count in the sizes m and n. Otherwise a
dead column would make the energies of row and column targets disagree, and dead rows would hand
their share of the energy to the live ones.
"""

import abc
import dataclasses
import math
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp

from multinorm_optax._axes import MatrixAxes
from multinorm_optax._norms import EuclideanNorm, MatrixSize, Projection
from multinorm_optax._precision import (
    abs_sq,
    any_nonzero,
    inverse_or_one,
    inverse_power_of_two,
    largest,
    peak,
    sqrt_or_zero,
)

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

    @abc.abstractmethod
    def inner_product(self, x: Any, y: Any) -> jax.Array:
        """<x, y> of two iterates: per matrix, of shape `batch`, or of the whole."""

    @abc.abstractmethod
    def per_matrix(self, residual: jax.Array) -> jax.Array:
        """A residual without the matrix axes that it keeps to broadcast."""


def alternate(alternation: Alternation[State], num_iters: Any, tol: Any = None) -> Any:
    """Runs sweeps and returns the last iterate.

    Args:
      alternation: the half-steps.
      num_iters: number of sweeps, at least one; may be traced.
      tol: if not None, stop as soon as no constraint is violated by more than this. The
        constraint of the last projection is taken to hold, as it has just been applied.
    """
    state = sweep(alternation, alternation.start, first=True)
    if tol is not None:
        state = _sweep_to_tolerance(alternation, state, num_iters, tol)
    elif not isinstance(num_iters, int) or num_iters > 1:
        state = jax.lax.fori_loop(1, num_iters, lambda _, state: sweep(alternation, state), state)
    return alternation.value(state)


def sweep(alternation: Alternation[State], state: State, first: bool = False) -> State:
    """One pass over all projections."""
    for k in range(alternation.length):
        state, _ = alternation.half_step(k, state, first)
    return state


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


def _sizes(members: tuple[Member, ...], x: jax.Array) -> list[MatrixSize]:
    if all(member.projection.keeps_support for member in members):
        live = {member.axes: _live_size(x, member.axes) for member in members}
        return [live[member.axes] for member in members]
    return [member.axes.matrix_shape(x.shape) for member in members]


class _WeightAlternation(Alternation[State]):
    """What both forms share: the members, their sizes, and residuals that broadcast."""

    def __init__(self, members: tuple[Member, ...], x: jax.Array):
        self.members = members
        self.length = len(members)
        self.x = x
        self.sizes = _sizes(members, x)
        self._same_batch = len({frozenset(member.axes.matrix) for member in members}) == 1

    def _broadcastable(self, residual: jax.Array) -> jax.Array:
        # Members that slice the weight into different matrices have no residual per matrix.
        return (
            residual if self._same_batch else jnp.squeeze(largest(residual, range(residual.ndim)))
        )

    def inner_product(self, x: jax.Array, y: jax.Array) -> jax.Array:
        axes = self.members[0].axes.matrix if self._same_batch else None
        return jnp.sum(jnp.real(jnp.conj(x) * y), axis=axes)

    def per_matrix(self, residual: jax.Array) -> jax.Array:
        return jnp.squeeze(residual, self.members[0].axes.matrix) if residual.ndim else residual


class MatrixAlternation(_WeightAlternation[jax.Array]):
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
        return projected, self._broadcastable(residual)

    def value(self, state: jax.Array) -> jax.Array:
        return state


Scales = tuple[jax.Array, ...]


class DiagonalAlternation(_WeightAlternation[Scales]):
    """Carries one scale per group and norm; the iterate is the gradient times all of them.

    A half-step divides the scales of its norm by the root mean square of the groups of the current
    iterate, which stays of order one; only before a norm's first half-step are its groups brought
    there by a power of two. Barriers keep the half-steps apart: XLA would otherwise compute once
    what two of them have in common and keep it, in an array of the gradient's size.
    """

    def __init__(self, members: tuple[Member, ...], x: jax.Array):
        super().__init__(members, x)
        self.norms = [_euclidean(member) for member in members]
        real = jnp.finfo(x.dtype).dtype
        self.start = tuple(
            jnp.ones([1 if i in group else d for i, d in enumerate(x.shape)], real)
            for group in self._groups()
        )

    def _groups(self) -> list[tuple[int, ...]]:
        return [
            norm.group(member.axes) for norm, member in zip(self.norms, self.members, strict=True)
        ]

    def half_step(self, k: int, state: Scales, first: bool = False) -> tuple[Scales, jax.Array]:
        group = self._groups()[k]
        if first:
            reach = peak(self.value(state), group)
            state = jax.lax.optimization_barrier(_replace(state, k, inverse_power_of_two(reach)))
        total = jnp.sum(abs_sq(self.value(state)), axis=group, keepdims=True)
        mean = total / jnp.maximum(1, self.norms[k].group_size(self.sizes[k]))
        error = jnp.where(total == 0, 0, jnp.abs(sqrt_or_zero(mean) - 1))
        residual = self._broadcastable(largest(error, self.members[k].axes.matrix))
        state = _replace(state, k, jnp.sqrt(inverse_or_one(mean)))
        return jax.lax.optimization_barrier(state), residual

    def value(self, state: Scales) -> jax.Array:
        return math.prod(state, start=self.x)


def _euclidean(member: Member) -> EuclideanNorm:
    assert isinstance(member.projection, EuclideanNorm)
    return member.projection


def _replace(scales: Scales, k: int, factor: jax.Array) -> Scales:
    return (*scales[:k], scales[k] * factor, *scales[k + 1 :])


def weight_alternation(members: tuple[Member, ...], x: jax.Array) -> Alternation[Any]:
    """The alternation of these projections on a weight, in the cheapest form that serves them."""
    # A subclass with a projection of its own is no mere rescaling.
    diagonal = all(
        isinstance(member.projection, EuclideanNorm)
        and type(member.projection).project is EuclideanNorm.project
        for member in members
    )
    return DiagonalAlternation(members, x) if diagonal else MatrixAlternation(members, x)
