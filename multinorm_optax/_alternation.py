"""The alternating fixed-point iteration x <- P_gK(... P_g1(x)), on one weight.

One *half-step* is one projection, one *sweep* is one pass over all of them (Scetbon et al.,
arXiv 2502.06742, algorithm MultiNorm). The iteration takes one of two forms:

- `MatrixAlternation` carries the matrix and serves any projections;
- `DiagonalAlternation` serves Euclidean norms (rows, columns, Frobenius), which only rescale groups
  of entries: every iterate is G times one positive scale per group, so that the scales alone are
  iterated, and no other array of the weight's size is made (Sinkhorn-Knopp on G*G). Each half-step
  reads the weight once. Weights with dead rows or columns, or entries whose squares leave the range
  of the dtype, are recognised by their sums, and iterated with more care.

If all projections keep zero rows and columns, these do not count in the sizes m and n. Otherwise a
dead column would make the energies of row and column targets disagree, and dead rows would hand
their share of the energy to the live ones.
"""

import abc
import dataclasses
import functools
import math
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from multinorm_optax._axes import MatrixAxes
from multinorm_optax._norms import EuclideanNorm, MatrixSize, Projection
from multinorm_optax._precision import (
    any_nonzero,
    inverse_or_one,
    inverse_power_of_two,
    largest,
    peak,
    sum_of_squares,
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


def alternate(alternation: Alternation[Any], num_iters: Any, tol: Any = None) -> Any:
    """Runs sweeps and returns the last iterate.

    Args:
      alternation: the half-steps.
      num_iters: number of sweeps, at least one; may be traced.
      tol: if not None, stop as soon as no constraint is violated by more than this. The
        constraint of the last projection is taken to hold, as it has just been applied.
    """
    if isinstance(alternation, DiagonalAlternation):
        scales = _last_scales(alternation.members, alternation.x, num_iters, tol)
        return alternation.value(jax.lax.optimization_barrier(scales))
    return alternation.value(_last_state(alternation, num_iters, tol))


def _last_scales(members: tuple[Member, ...], x: jax.Array, num_iters: Any, tol: Any) -> "Scaled":
    """Quickly, as far as that goes; where it does not, carefully from the beginning."""

    def carefully() -> Scaled:
        return _last_state(DiagonalAlternation(members, x), num_iters, tol)

    quick = DiagonalAlternation(members, x, careful=False)
    if not quick.reveals_dead_groups:
        return carefully()
    state = _sweep(quick, quick.start, first=True)
    if not isinstance(num_iters, int) or num_iters > 1:
        state = jax.lax.cond(
            jnp.all(state.safe),
            lambda state: _sweeps_after_first(quick, state, num_iters, tol),
            lambda state: state,
            state,
        )
    return jax.lax.cond(jnp.all(state.safe), lambda: state, carefully)


def _last_state(alternation: Alternation[State], num_iters: Any, tol: Any) -> State:
    state = _sweep(alternation, alternation.start, first=True)
    return _sweeps_after_first(alternation, state, num_iters, tol)


def _sweep(alternation: Alternation[State], state: State, first: bool = False) -> State:
    for k in range(alternation.length):
        state, _ = alternation.half_step(k, state, first)
    return state


def _sweeps_after_first(
    alternation: Alternation[State], state: State, num_iters: Any, tol: Any
) -> State:
    if tol is not None:
        return _sweep_to_tolerance(alternation, state, num_iters, tol)
    if isinstance(num_iters, int) and num_iters == 1:
        return state
    return jax.lax.fori_loop(1, num_iters, lambda _, state: _sweep(alternation, state), state)


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


class _WeightAlternation(Alternation[State]):
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


class Scaled(NamedTuple):
    """An iterate G * scales[0] * scales[1] * ..."""

    scales: Scales
    """One array for each norm, with one scale for each of its groups."""
    safe: jax.Array
    """For each matrix: whether no group was dead and no square left the range so far."""


_SAFE_EXPONENT = {4: 96, 8: 960}
"""Sums of squares between 2^-e and 2^e have lost nothing to underflow that rounding would not."""


class DiagonalAlternation(_WeightAlternation[Scaled]):
    """Carries one scale per group and norm; the iterate is the gradient times all of them.

    The new scale of a norm follows from the others: with y = G times all other scales, a half-step
    sets it to one over the root mean square of y in each group. If `careful`, dead groups do not
    count, and a power of two brings every group of y to order one: that of its largest entry in the
    first sweep, that of its old scale later. Such factors are exact, so that where no care is
    needed both forms agree bit by bit.

    Barriers keep the half-steps apart: XLA would otherwise compute once what two of them have in
    common and keep it, in an array of the gradient's size.
    """

    def __init__(self, members: tuple[Member, ...], x: jax.Array, careful: bool = True):
        super().__init__(members, x, careful)
        self.norms = [_euclidean(member) for member in members]
        self.groups = [
            norm.group(member.axes) for norm, member in zip(self.norms, members, strict=True)
        ]
        self.reveals_dead_groups = all(
            side in self.groups
            for member in members
            for side in (member.axes.input, member.axes.output)
        )
        scales = tuple(_ones(x, group) for group in self.groups)
        self.start = Scaled(scales, _ones(x, members[0].axes.matrix) > 0)

    def half_step(self, k: int, state: Scaled, first: bool = False) -> tuple[Scaled, jax.Array]:
        group, old = self.groups[k], state.scales[k]
        others = state.scales[:k] + state.scales[k + 1 :]
        if self.careful and first:
            near: Any = inverse_power_of_two(peak(math.prod(others, start=self.x), group))
        else:
            near = 1 / inverse_power_of_two(old) if self.careful else 1
        others = jax.lax.optimization_barrier((near, *others)) if self.careful else others
        size = jnp.maximum(1, self.norms[k].group_size(self.sizes[k]))
        mean = sum_of_squares(self.x, others, group) / size
        new = near * jnp.sqrt(inverse_or_one(mean))
        error = jnp.where(mean == 0, 0, jnp.abs(old / new - 1))
        residual = self._broadcastable(largest(error, self.members[k].axes.matrix))
        scales = jax.lax.optimization_barrier((*state.scales[:k], new, *state.scales[k + 1 :]))
        return Scaled(scales, state.safe & self._in_range(jax.lax.stop_gradient(mean))), residual

    def _in_range(self, mean: jax.Array) -> jax.Array:
        limit = 2.0 ** _SAFE_EXPONENT[mean.dtype.itemsize]
        axes = self.members[0].axes.matrix
        return jnp.all((mean > 1 / limit) & (mean < limit), axis=axes, keepdims=True)

    def value(self, state: Scaled) -> jax.Array:
        return math.prod(state.scales, start=self.x)


def _ones(x: jax.Array, group: tuple[int, ...]) -> jax.Array:
    shape = [1 if axis in group else size for axis, size in enumerate(x.shape)]
    return jnp.ones(shape, jnp.finfo(x.dtype).dtype)


def _euclidean(member: Member) -> EuclideanNorm:
    assert isinstance(member.projection, EuclideanNorm)
    return member.projection


def _only_rescale(members: tuple[Member, ...]) -> bool:
    # A subclass with a projection of its own is no mere rescaling.
    return all(
        isinstance(member.projection, EuclideanNorm)
        and type(member.projection).project is EuclideanNorm.project
        for member in members
    )


def weight_alternation(members: tuple[Member, ...], x: jax.Array) -> Alternation[Any]:
    """The alternation of these projections on a weight; its iterates can be looked at."""
    return (DiagonalAlternation if _only_rescale(members) else MatrixAlternation)(members, x)
