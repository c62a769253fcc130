"""Norms whose projections rescale rows, columns or the whole matrix."""

import dataclasses

import jax
import jax.numpy as jnp

from multinorm_optax._matrices.axes import MatrixAxes
from multinorm_optax._norms.base import Count, MatrixSize, Norm
from multinorm_optax._norms.precision import (
    abs_sq,
    inverse_or_one,
    largest,
    sqrt_or_zero,
    unit_scale,
)


class EuclideanNorm(Norm):
    """The largest root mean square of a group: of a row, of a column, or of the whole matrix.

    With N entries in a group, g(W) = max ||W_group||_2 / sqrt(N), P_g divides each group by its
    root mean square, and g_*(W) = sqrt(N) * sum ||W_group||_2.
    """

    def project(self, x: jax.Array, axes: MatrixAxes, size: MatrixSize) -> jax.Array:
        """Divide each group by its root mean square; zeros stay zero."""
        group = self.group(axes)
        x = x * unit_scale(x, group)
        total = jnp.sum(abs_sq(x), axis=group, keepdims=True)
        return x * jnp.sqrt(self.group_size(size) * inverse_or_one(total))

    def group_norms(self, x: jax.Array, axes: MatrixAxes) -> jax.Array:
        """The Euclidean norm of each group; its axes keep size one."""
        # With one scale for all groups, the squares of a small row could underflow.
        scale = unit_scale(x, self.group(axes))
        total = jnp.sum(abs_sq(x * scale), axis=self.group(axes), keepdims=True)
        return sqrt_or_zero(total) / scale

    def unit_norm(self, x: jax.Array, axes: MatrixAxes, size: MatrixSize) -> jax.Array:
        largest_norm = largest(self.group_norms(x, axes), axes.matrix)
        return largest_norm / jnp.sqrt(jnp.maximum(1, self.group_size(size)))

    def unit_dual_norm(self, x: jax.Array, axes: MatrixAxes, size: MatrixSize) -> jax.Array:
        total = jnp.sum(self.group_norms(x, axes), axis=axes.matrix, keepdims=True)
        return jnp.sqrt(self.group_size(size)) * total


@dataclasses.dataclass(frozen=True)
class RowNorm(EuclideanNorm):
    """g(W) = max_i ||W_i,:||_2 / sqrt(n): the largest root mean square of an output feature.

    P_g(W) = sqrt(n) W_i,: / ||W_i,:||_2 and g_*(W) = sqrt(n) sum_i ||W_i,:||_2.

    Example:
      >>> import jax.numpy as jnp
      >>> from multinorm_optax import RowNorm
      >>> kernel = jnp.array([[3.0, 0.0], [4.0, 1.0]])    # (in, out): the rows are its columns
      >>> [round(float(RowNorm().norm(kernel)), 4), round(float(RowNorm().dual_norm(kernel)), 4)]
      [3.5355, 8.4853]
    """

    def group(self, axes: MatrixAxes) -> tuple[int, ...]:
        return axes.input

    def group_size(self, size: MatrixSize) -> Count:
        return size[1]


@dataclasses.dataclass(frozen=True)
class ColumnNorm(EuclideanNorm):
    """g(W) = max_j ||W_:,j||_2 / sqrt(m): the largest root mean square of an input feature.

    P_g(W) = sqrt(m) W_:,j / ||W_:,j||_2 and g_*(W) = sqrt(m) sum_j ||W_:,j||_2.
    """

    def group(self, axes: MatrixAxes) -> tuple[int, ...]:
        return axes.output

    def group_size(self, size: MatrixSize) -> Count:
        return size[0]


@dataclasses.dataclass(frozen=True)
class FrobeniusNorm(EuclideanNorm):
    """g(W) = ||W||_F / sqrt(m n): the root mean square of all entries.

    P_g(W) = sqrt(m n) W / ||W||_F and g_*(W) = sqrt(m n) ||W||_F.
    """
