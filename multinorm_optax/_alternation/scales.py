"""The alternation of norms that only rescale: Sinkhorn-Knopp on the squared weight.

Every iterate is G times one scale per group (a row, a column, the matrix).
"""

import functools
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
from multinorm_optax._alternation.windows import inverse_rms, product, sum_of_squares
from multinorm_optax._norms.base import Count, MatrixSize
from multinorm_optax._norms.euclidean import EuclideanNorm
from multinorm_optax._norms.precision import largest

Scales = tuple[jax.Array, ...]  # for each norm one per group; 0 marks a group of zeros


def only_rescale(members: tuple[Member, ...]) -> bool:
    """Whether all projections are those of Euclidean norms; a subclass may have one of its own."""
    return all(
        isinstance(member.projection, EuclideanNorm)
        and type(member.projection).project is EuclideanNorm.project
        for member in members
    )


class ScaleAlternation(WeightAlternation[Scales]):
    """Carries the scales; the iterate is the gradient times all of them.

    A half-step divides each group's scale by the root mean square of the iterate. The first norm
    covers all normal numbers of the dtype. For a later one, a group whose entries are all below
    2^-107 (6e-33 in float32, in a leaf of 2^32 entries; lower in smaller ones) after the
    projections before it, which give others a root mean square of one, counts as zero.

    Barriers keep the half-steps apart: XLA would otherwise compute once what two of them have in
    common and keep it, in an array of the gradient's size.
    """

    start: Scales = ()

    def __init__(self, members: tuple[Member, ...], weight: jax.Array):
        super().__init__(members, weight)
        self.groups = [member.projection.group(member.axes) for member in members]

    @functools.cached_property
    def sizes(self) -> Sequence[MatrixSize]:
        """(m, n) of each member's matrices, without zero rows and columns."""
        x = product((self.weight,))
        return [member.projection.size(x, member.axes) for member in self.members]

    def half_step(self, k: int, state: Scales) -> tuple[Scales, Residual]:
        scales = jax.lax.optimization_barrier(state)
        mean = sum_of_squares((self.weight, *scales), self.groups[k]) / self._group_size(k)
        rms = jnp.sqrt(mean + (mean == 0))

        def residual() -> jax.Array:
            return self.broadcastable(largest(jnp.abs(rms - 1), self.members[k].axes.matrix))

        return (*scales[:k], scales[k] / rms, *scales[k + 1 :]), residual

    def first_half_step(self, k: int, state: Scales) -> Scales:
        return *state, inverse_rms((self.weight, *state), self.groups[k], self._group_size(k))

    def value(self, state: Scales) -> jax.Array:
        return product((self.weight, *jax.lax.optimization_barrier(state)))

    def last_iterate(self, num_iters: NumIters, tol: Tolerance = None) -> jax.Array:
        """The iterate after `num_iters` sweeps or within the tolerance.

        Without a tolerance all rows and columns are counted: that changes an iterate by one factor
        for each matrix, which the last scale makes good. The first sweep tells which are dead.
        """
        sides = {side for each in self.members for side in (each.axes.input, each.axes.output)}
        if tol is not None or not self.same_batch or not sides <= set(self.groups):
            return super().last_iterate(num_iters, tol)
        all_counted = ScaleAlternation(self.members, self.weight)
        all_counted.sizes = [each.axes.matrix_shape(self.weight.shape) for each in self.members]
        start = first_sweep(all_counted)
        *others, last = later_sweeps(all_counted, start, num_iters, None)
        return self.value((*others, last * jnp.sqrt(self._live_share(start))))

    def _live_share(self, start: Scales) -> Count:
        """N of the last member without dead rows and columns, as the first scales tell, over N."""
        norm, axes = self.members[-1].projection, self.members[-1].axes
        alive = dict(zip(self.groups, start, strict=True))

        def share(group: tuple[int, ...], along: tuple[int, ...]) -> jax.Array:
            return jnp.mean((alive[group] != 0).astype(alive[group].dtype), along, keepdims=True)

        return norm.group_size((share(axes.input, axes.output), share(axes.output, axes.input)))

    def _group_size(self, k: int) -> Count:
        size = self.members[k].projection.group_size(self.sizes[k])
        return max(1, size) if isinstance(size, int) else jnp.maximum(1, size)
