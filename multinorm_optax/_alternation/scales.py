"""The alternation of Euclidean norms, which only rescale: Sinkhorn-Knopp on the squared weight.

Every iterate is G times one scale per group (a row, a column, the matrix).
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from multinorm_optax._alternation.base import (
    NumIters,
    Residual,
    Tolerance,
    first_sweep,
    later_sweeps,
)
from multinorm_optax._alternation.matrix import Member, WeightAlternation
from multinorm_optax._alternation.windows import (
    Factors,
    Group,
    Parts,
    clamped,
    inverse_rms,
    is_near,
    is_normal,
    product,
    sum_of_squares,
)
from multinorm_optax._matrices.axes import MatrixAxes
from multinorm_optax._matrices.fused import Fused
from multinorm_optax._matrices.stacks import explicit_sharding
from multinorm_optax._norms.base import Count, MatrixSize
from multinorm_optax._norms.euclidean import ColumnNorm, FrobeniusNorm, RowNorm
from multinorm_optax._norms.precision import compute_dtype, largest

Scales = tuple[jax.Array, ...]  # for each norm one per group; 0 marks a group of zeros


def only_rescale(members: tuple[Member, ...]) -> bool:
    """Whether all projections are those of Euclidean norms; a subclass may override a method."""
    return all(type(each.projection) in (RowNorm, ColumnNorm, FrobeniusNorm) for each in members)


class ScaleAlternation(WeightAlternation):
    """An alternation that carries the scales; the iterate is the gradient times all of them.

    A half-step divides each group's scale by the root mean square of the iterate. The first norm
    covers root mean squares from the dtype's smallest normal number to its inverse, in float32 from
    1.2e-38 to 8.5e37. For a later one, a group whose entries are all below
    2^-107 (6e-33 in float32, in a leaf of 2^32 entries; lower in smaller ones) after the
    projections before it, which give others a root mean square of one, counts as zero.

    Where the limit has zeros that the gradient does not have, the scales of rows and columns grow
    and shrink for ever. With a tolerance, a traced `num_iters` or more than eight sweeps, a sweep
    that takes a scale out of the dtype's normal range, or 2^100 from what it was after the first
    one, is not made, nor any after it, of that matrix (of the leaf, if members have different batch
    axes). Scales are clamped to the normal range.

    A fused weight may come in blocks, several for each part; sums over a row or column of a part
    are then added up over its blocks.

    Barriers separate the half-steps: otherwise XLA would share subexpressions between them, and
    store them in an array of the gradient's size.
    """

    start: Scales = ()

    def __init__(self, members: tuple[Member, ...], weight: jax.Array, parts: Parts | None = None):
        super().__init__(members, weight)
        self.parts = parts
        self.groups = [Group(each.projection.group(each.axes), parts) for each in members]

    @functools.cached_property
    def sizes(self) -> Sequence[MatrixSize]:
        """(m, n) of each member's matrices, without zero rows and columns."""
        x = product((self.weight,))
        return [self._size(each.axes, each.projection.size(x, each.axes)) for each in self.members]

    def _size(self, axes: MatrixAxes, size: MatrixSize) -> MatrixSize:
        """(m, n) of each block's part of a fused weight, from those of the blocks."""

        def of_part(side: tuple[int, ...], count: Count) -> Count:
            if self.parts is None or self.parts.axis + 1 not in side:
                return count
            blocks = [1] * self.weight.ndim
            blocks[self.parts.axis] = sum(self.parts.blocks)
            ones = jnp.ones(blocks, jnp.finfo(compute_dtype(self.weight.dtype)).dtype)
            return self.parts.reduce(jnp.sum, count * ones)

        m, n = size
        return of_part(axes.output, m), of_part(axes.input, n)

    def half_step(self, k: int, state: Scales) -> tuple[Scales, Residual]:
        _, *scales = factors = self._factors(state)
        mean = sum_of_squares(factors, self.groups[k]) / self._group_size(k)
        rms = jnp.sqrt(mean + (mean == 0).astype(mean.dtype))

        def residual() -> jax.Array:
            return self.broadcastable(largest(jnp.abs(rms - 1), self.members[k].axes.matrix))

        new = clamped(scales[k] / rms, scales[k] == 0)
        return (*scales[:k], new, *scales[k + 1 :]), residual

    def first_half_step(self, k: int, state: Scales) -> Scales:
        return *state, inverse_rms(self._factors(state), self.groups[k], self._group_size(k))

    def accepted(self, new: Scales, old: Scales, first: Scales) -> Scales:
        axes = self.members[0].axes.matrix if self.same_batch else None

        def leaves(new: jax.Array, first: jax.Array) -> jax.Array:
            near = is_normal(new) & is_near(new, first)
            found = jnp.any(is_normal(first) > near, axes, keepdims=True)
            return Group(axes or (), self.parts).extend(found, jnp.any)

        # What the last scale gains the others lose.
        outside = map(leaves, new[:-1], first[:-1])
        kept = functools.reduce(jnp.logical_or, outside, jnp.asarray(False))
        return tuple(jnp.where(kept, *each) for each in zip(old, new, strict=True))

    def value(self, state: Scales) -> jax.Array:
        return product(self._factors(state))

    def _factors(self, state: Scales) -> Factors:
        if not state or jax.default_backend() != "cpu":
            # Without the weight: a conversion from half precision before is part of every sum.
            return (self.weight, *jax.lax.optimization_barrier(state))
        # With the weight: XLA would convert half precision once, and store the result.
        return jax.lax.optimization_barrier((self.weight, *state))

    def last_iterate(self, num_iters: NumIters, tol: Tolerance = None) -> jax.Array:
        """The iterate after `num_iters` sweeps or within the tolerance.

        Without a tolerance, zero rows and columns count as well: that changes an iterate by one
        factor for each matrix, which the last scale corrects. The first sweep tells them apart.
        """
        sides = {side for each in self.members for side in (each.axes.input, each.axes.output)}
        if tol is not None or not self.same_batch or not sides <= {g.axes for g in self.groups}:
            return super().last_iterate(num_iters, tol)
        all_counted = ScaleAlternation(self.members, self.weight, self.parts)
        all_counted.sizes = [
            self._size(each.axes, each.axes.matrix_shape(self.weight.shape))
            for each in self.members
        ]
        start = first_sweep(all_counted)
        *others, last = later_sweeps(all_counted, start, num_iters, None)
        return self.value((*others, last * jnp.sqrt(self._live_share(start))))

    def _live_share(self, start: Scales) -> Count:
        """N of the last member without zero rows and columns, by the first scales, over N."""
        norm, axes = self.members[-1].projection, self.members[-1].axes
        alive = dict(zip([group.axes for group in self.groups], start, strict=True))

        def share(group: tuple[int, ...], along: tuple[int, ...]) -> jax.Array:
            mean = jnp.mean((alive[group] != 0).astype(alive[group].dtype), along, keepdims=True)
            return Group(axes.matrix, self.parts).extend(mean, jnp.mean)

        return norm.group_size((share(axes.input, axes.output), share(axes.output, axes.input)))

    def _group_size(self, k: int) -> Count:
        size = self.members[k].projection.group_size(self.sizes[k])
        return max(1, size) if isinstance(size, int) else jnp.maximum(1, size)


_BLOCKS = 64
"""The most blocks of a weight: more would need too many scales. Other weights are split."""


def in_blocks(members: tuple[Member, ...] | Fused, weight: jax.Array) -> ScaleAlternation | None:
    """The alternation of a fused weight in blocks, if its parts have the same members.

    Blocks avoid copies of the parts: XLA's sums on a CPU read arrays, not slices of them.
    """
    if not isinstance(members, Fused) or not all(map(only_rescale, members.specs)):
        return None
    axis, block, chosen = members.axis, math.gcd(*members.sizes), members.specs[0]
    count = weight.shape[axis] // block
    sharding = explicit_sharding(weight)
    alike = all(each == chosen for each in members.specs)
    if count > _BLOCKS or not alike or (sharding and sharding.spec[axis] is not None):
        return None

    def moved(axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(each + (each >= axis) for each in axes)

    return ScaleAlternation(
        tuple(
            Member(each.projection, MatrixAxes(moved(each.axes.output), moved(each.axes.input)))
            for each in chosen
        ),
        weight.reshape((*weight.shape[:axis], count, block, *weight.shape[axis + 1 :])),
        Parts(axis, tuple(size // block for size in members.sizes)),
    )
