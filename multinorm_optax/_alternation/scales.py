"""The alternation of norms that only rescale: Sinkhorn-Knopp on the squared weight.

The projections of Euclidean norms (rows, columns, Frobenius) multiply groups of entries by a
positive number. So every iterate is G times one scale per group; the scales alone are iterated, and
no other array of the weight's size is made. A half-step reads the weight once.

Weights with dead rows or columns, or with entries whose squares leave the range of their dtype, are
recognised by their sums and iterated with more care, which takes a few more passes over the weight.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from multinorm_optax._alternation.base import (
    Alternation,
    MatrixAlternation,
    Member,
    WeightAlternation,
    last_state,
    sweep,
    sweeps_after_first,
)
from multinorm_optax._norms.norms import EuclideanNorm
from multinorm_optax._norms.precision import (
    abs_sq,
    compute_dtype,
    inverse_or_one,
    inverse_power_of_two,
    largest,
    peak,
)

Scales = tuple[jax.Array, ...]


class Scaled(NamedTuple):
    """An iterate G * scales[0] * scales[1] * ..."""

    scales: Scales
    """One array for each norm, with one scale for each of its groups."""
    safe: jax.Array
    """For each matrix: whether no group was dead and no square left the range so far."""


_SAFE_EXPONENT = {4: 96, 8: 960}
"""Sums of squares between 2^-e and 2^e have lost nothing to underflow that rounding would not."""


class DiagonalAlternation(WeightAlternation[Scaled]):
    """Carries one scale per group and norm; the iterate is the gradient times all of them.

    The new scale of a norm follows from the others: with y = G times all other scales, a half-step
    sets it to one over the root mean square of y in each group. If `careful`, dead groups do not
    count, and a power of two brings every group of y to order one: that of its largest entry in the
    first sweep, that of its old scale later. Such factors are exact, so that where no care is
    needed both forms agree bit by bit.

    Barriers keep the half-steps apart: XLA would otherwise compute once what two of them have in
    common and keep it, in an array of the gradient's size.
    """

    def __init__(self, members: tuple[Member, ...], weight: jax.Array, careful: bool = True):
        x = weight.astype(compute_dtype(weight.dtype))
        super().__init__(members, x, careful)
        self.weight = weight
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
        others = state.scales[:k]
        if not first:  # in the first sweep the later ones are still one
            others += state.scales[k + 1 :]
        if self.careful and first:
            near: Any = inverse_power_of_two(peak(math.prod(others, start=self.x), group))
        else:
            near = 1 / inverse_power_of_two(old) if self.careful else 1
        others = jax.lax.optimization_barrier((near, *others)) if self.careful else others
        size = jnp.maximum(1, self.norms[k].group_size(self.sizes[k]))
        mean = sum_of_squares(self.weight, others, group) / size
        new = near * jnp.sqrt(inverse_or_one(mean))
        error = jnp.where(mean == 0, 0, jnp.abs(old / new - 1))
        residual = self.broadcastable(largest(error, self.members[k].axes.matrix))
        scales = jax.lax.optimization_barrier((*state.scales[:k], new, *state.scales[k + 1 :]))
        return Scaled(scales, state.safe & self._in_range(jax.lax.stop_gradient(mean))), residual

    def last_iterate(self, num_iters: Any, tol: Any = None) -> jax.Array:
        """Quickly, as far as that goes; where it does not, carefully from the beginning."""

        def carefully() -> Scaled:
            return last_state(DiagonalAlternation(self.members, self.weight), num_iters, tol)

        quick = DiagonalAlternation(self.members, self.weight, careful=False)
        if not quick.reveals_dead_groups:
            return self.value(carefully())
        state = sweep(quick, quick.start, first=True)
        if not isinstance(num_iters, int) or num_iters > 1:
            state = jax.lax.cond(
                jnp.all(state.safe),
                lambda state: quick.sweeps_that_matter(state, num_iters, tol),
                lambda state: state,
                state,
            )
        state = jax.lax.cond(jnp.all(state.safe), lambda: state, carefully)
        return self.value(state._replace(scales=jax.lax.optimization_barrier(state.scales)))

    def sweeps_that_matter(self, state: Scaled, num_iters: Any, tol: Any) -> Scaled:
        """The sweeps after the first, without those that would only repeat rounding errors.

        Of two norms the second holds after every sweep; once the first does too (in float32 to
        2e-6), the iterate is a fixed point.
        """
        if tol is not None or self.length != 2:
            return sweeps_after_first(self, state, num_iters, tol)
        rounding = 16 * jnp.finfo(self.x.dtype).eps

        def one_more(carry: tuple[Scaled, jax.Array]) -> tuple[Scaled, jax.Array]:
            state, _ = carry
            ahead, residual = self.half_step(0, state)
            moves = jnp.any(residual > rounding)
            return jax.lax.cond(moves, lambda: self.half_step(1, ahead)[0], lambda: state), moves

        def body(_: Any, carry: tuple[Scaled, jax.Array]) -> tuple[Scaled, jax.Array]:
            return jax.lax.cond(carry[1], one_more, lambda carry: carry, carry)

        return jax.lax.fori_loop(1, num_iters, body, (state, jnp.array(True)))[0]

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


def weight_alternation(members: tuple[Member, ...], weight: jax.Array) -> Alternation[Any]:
    """The alternation of these projections on a weight, in at least float32."""
    if _only_rescale(members):
        return DiagonalAlternation(members, weight)
    return MatrixAlternation(members, weight.astype(compute_dtype(weight.dtype)))


_CHUNK = 64
_LONG_ROW = 8192


def sum_of_squares(x: jax.Array, scales: Sequence[Any], axes: Sequence[int]) -> jax.Array:
    """The sum of |x * scales[0] * ...|^2 over the axes (kept with size one), in at least float32.

    Each scale has, along every axis, size one or that of x. What lies in memory as long rows that
    are to be added up is added in chunks of rows: XLA on CPU would leave its cache with every row.
    """
    axis = axes[0] if len(axes) == 1 else -1
    chunked = (
        len(scales) > 0  # without a factor XLA would undo the split
        and 0 <= axis < x.ndim - 1
        and math.prod(x.shape[axis + 1 :]) > _LONG_ROW
        and x.shape[axis] > _CHUNK
        and x.shape[axis] % _CHUNK == 0
        and not any(jax.typeof(x).sharding.spec)
    )
    if not chunked:
        return jnp.sum(_squares(x, scales), axis=tuple(axes), keepdims=True)

    def split(each: Any) -> Any:
        if jnp.ndim(each) == 0:
            return each
        chunk = _CHUNK if each.shape[axis] > 1 else 1
        return each.reshape(*each.shape[:axis], -1, chunk, *each.shape[axis + 1 :])

    # Whatever stands before the split, such as squares or a wider dtype, XLA would write to memory.
    scales = jax.lax.optimization_barrier(tuple(map(split, scales)))
    partial = jnp.sum(_squares(split(x), scales), axis=axis + 1)
    return jnp.sum(jax.lax.optimization_barrier(partial), axis=axis, keepdims=True)


def _squares(x: jax.Array, scales: Sequence[Any]) -> jax.Array:
    return abs_sq(math.prod(scales, start=x.astype(compute_dtype(x.dtype))))
