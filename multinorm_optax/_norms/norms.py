"""Norms of matrices, their dual norms and their projections.

For a norm g, the projection P_g(x) = argmax { <x, z> : g(z) = 1 } is the linear minimisation oracle
up to sign, and <x, P_g(x)> = g_*(x) is the dual norm (Scetbon et al., arXiv 2502.06742).
It is not the Euclidean projection. All norms here are scaled alike: the projection of an m x n
matrix has Frobenius norm sqrt(m n), that is, entries of root mean square 1, the condition under
which alternating between them makes sense.

Norms are values: `RowNorm()` is passed to whatever needs a norm. To define your own, subclass
`Norm` (or `Projection`, for a map that belongs to no norm) and write its methods for one weight.
"""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from multinorm_optax._matrices.axes import MatrixAxes, as_matrix_axes
from multinorm_optax._norms.precision import (
    abs_sq,
    compute_dtype,
    inverse_or_one,
    inverse_power_of_two,
    largest,
    peak,
    sqrt_or_zero,
)

MatrixSize = tuple[Any, Any]
"""(m, n): integers, or arrays (one number per matrix) counting the live rows and columns."""

Axes: TypeAlias = MatrixAxes | optax.contrib.MuonDimensionNumbers
FLAX_KERNEL = MatrixAxes(output=-1, input=-2)


def _sqrt(size: Any) -> Any:
    # A Python float takes the dtype of what it multiplies, a NumPy scalar would promote it.
    return math.sqrt(size) if isinstance(size, int) else jnp.sqrt(size)


class Projection(abc.ABC):
    """A map, without state, of a matrix to one whose entries have unit root mean square.

    Attributes:
      keeps_support: whether rows and columns that are zero stay zero and no others become zero. If
        all members of an alternation do, zero rows and columns do not count in its sizes.
    """

    keeps_support: bool = False

    @abc.abstractmethod
    def project(self, x: jax.Array, axes: MatrixAxes, size: MatrixSize) -> jax.Array:
        """The projection of every matrix in a weight of dtype float32 or wider.

        `size` is what the numbers of rows and columns are taken to be.
        """

    def group(self, axes: MatrixAxes) -> tuple[int, ...]:
        """The axes along which lie the entries of one group, which are normalized together."""
        return axes.matrix

    def group_size(self, size: MatrixSize) -> Any:
        """N: the number of entries in a group of a matrix of this size."""
        return size[0] * size[1]

    def residual(
        self, x: jax.Array, projected: jax.Array, axes: MatrixAxes, size: MatrixSize
    ) -> jax.Array:
        """How far x is from its projection: per matrix, the largest over the groups.

        For one group it is the root mean square of the difference. Matrix axes keep size one.
        """
        total = jnp.sum(abs_sq(projected - x), axis=self.group(axes), keepdims=True)
        count = jnp.maximum(1, self.group_size(size))
        return largest(sqrt_or_zero(total / count), axes.matrix)

    def __call__(self, w: jax.Array, axes: Axes = FLAX_KERNEL) -> jax.Array:
        """P(W) for one weight, of its shape and dtype; each matrix of a stack by itself."""
        x, resolved = _prepare(w, axes)
        return self.project(x, resolved, resolved.matrix_shape(x.shape)).astype(w.dtype)


class Norm(Projection):
    """A norm g with its dual norm g_* and its projection P_g.

    `norm` and `dual_norm` take a weight of any floating-point or complex dtype and return, in at
    least float32, one value per matrix (shape `batch`). `axes` says which axes are rows and
    columns; the default is a flax kernel (..., in, out). Calling the norm gives the projection.
    """

    keeps_support = True

    def norm(self, w: jax.Array, axes: Axes = FLAX_KERNEL) -> jax.Array:
        """g(W)."""
        return _per_matrix(self.unit_norm, w, axes)

    def dual_norm(self, w: jax.Array, axes: Axes = FLAX_KERNEL) -> jax.Array:
        """g_*(W) = <W, P_g(W)>."""
        return _per_matrix(self.unit_dual_norm, w, axes)

    @abc.abstractmethod
    def unit_norm(self, x: jax.Array, axes: MatrixAxes) -> jax.Array:
        """g of matrices whose largest entry is about 1; matrix axes kept with size one."""

    @abc.abstractmethod
    def unit_dual_norm(self, x: jax.Array, axes: MatrixAxes) -> jax.Array:
        """g_* of matrices whose largest entry is about 1; matrix axes kept with size one."""


def _prepare(w: jax.Array, axes: Axes) -> tuple[jax.Array, MatrixAxes]:
    return w.astype(compute_dtype(w.dtype)), as_matrix_axes(axes).resolve(w.shape)


def _per_matrix(function: Callable[..., jax.Array], w: jax.Array, axes: Axes) -> jax.Array:
    x, resolved = _prepare(w, axes)
    scale = inverse_power_of_two(peak(x, resolved.matrix))
    return jnp.squeeze(function(x * scale, resolved) / scale, resolved.matrix)


class EuclideanNorm(Norm):
    """The largest root mean square of a group: of a row, of a column, or of the whole matrix.

    With N entries to a group, g(W) = max ||W_group||_2 / sqrt(N), P_g divides each group by its
    root mean square, and g_*(W) = sqrt(N) * sum ||W_group||_2. Such a projection only rescales
    groups, so that alternating several of them scales the matrix diagonally.
    """

    @abc.abstractmethod
    def group(self, axes: MatrixAxes) -> tuple[int, ...]: ...

    @abc.abstractmethod
    def group_size(self, size: MatrixSize) -> Any: ...

    def project(self, x: jax.Array, axes: MatrixAxes, size: MatrixSize) -> jax.Array:
        """x over the root mean square of its group; a group of zeros stays zero."""
        group = self.group(axes)
        x = x * inverse_power_of_two(peak(x, group))
        total = jnp.sum(abs_sq(x), axis=group, keepdims=True)
        return x * (_sqrt(self.group_size(size)) * jnp.sqrt(inverse_or_one(total)))

    def _group_norms(self, x: jax.Array, axes: MatrixAxes) -> jax.Array:
        # Scaled group by group, or the squares of a small row would vanish beside a large one.
        scale = inverse_power_of_two(peak(x, self.group(axes)))
        total = jnp.sum(abs_sq(x * scale), axis=self.group(axes), keepdims=True)
        return sqrt_or_zero(total) / scale

    def unit_norm(self, x: jax.Array, axes: MatrixAxes) -> jax.Array:
        count = self.group_size(axes.matrix_shape(x.shape))
        return largest(self._group_norms(x, axes), axes.matrix) / math.sqrt(max(1, count))

    def unit_dual_norm(self, x: jax.Array, axes: MatrixAxes) -> jax.Array:
        count = self.group_size(axes.matrix_shape(x.shape))
        total = jnp.sum(self._group_norms(x, axes), axis=axes.matrix, keepdims=True)
        return math.sqrt(count) * total


@dataclasses.dataclass(frozen=True)
class RowNorm(EuclideanNorm):
    """g(W) = max_i ||W_i,:||_2 / sqrt(n): the largest root mean square of an output feature.

    P_g(W) = sqrt(n) W_i,: / ||W_i,:||_2 and g_*(W) = sqrt(n) sum_i ||W_i,:||_2
    (arXiv 2502.06742).

    Example:
      >>> import jax.numpy as jnp
      >>> from multinorm_optax import RowNorm
      >>> kernel = jnp.array([[3.0, 0.0], [4.0, 1.0]])    # (in, out): the rows are its columns
      >>> [round(float(RowNorm().norm(kernel)), 4), round(float(RowNorm().dual_norm(kernel)), 4)]
      [3.5355, 8.4853]
    """

    def group(self, axes: MatrixAxes) -> tuple[int, ...]:
        """A row: all input features of one output feature."""
        return axes.input

    def group_size(self, size: MatrixSize) -> Any:
        """n."""
        return size[1]


@dataclasses.dataclass(frozen=True)
class ColumnNorm(EuclideanNorm):
    """g(W) = max_j ||W_:,j||_2 / sqrt(m): the largest root mean square of an input feature.

    P_g(W) = sqrt(m) W_:,j / ||W_:,j||_2 and g_*(W) = sqrt(m) sum_j ||W_:,j||_2
    (arXiv 2502.06742).
    """

    def group(self, axes: MatrixAxes) -> tuple[int, ...]:
        """A column: all output features of one input feature."""
        return axes.output

    def group_size(self, size: MatrixSize) -> Any:
        """m."""
        return size[0]


@dataclasses.dataclass(frozen=True)
class FrobeniusNorm(EuclideanNorm):
    """g(W) = ||W||_F / sqrt(m n): the root mean square of all entries.

    P_g(W) = sqrt(m n) W / ||W||_F and g_*(W) = sqrt(m n) ||W||_F.
    """

    def group(self, axes: MatrixAxes) -> tuple[int, ...]:
        """The whole matrix."""
        return axes.matrix

    def group_size(self, size: MatrixSize) -> Any:
        """m n."""
        return size[0] * size[1]


@dataclasses.dataclass(frozen=True)
class MaxNorm(Norm):
    """g(W) = max_ij |W_ij|, with P_g(W) = sign(W) and g_*(W) = sum_ij |W_ij|.

    NaN and infinite entries stay what they are: the sign would hide a diverged gradient.
    """

    def project(self, x: jax.Array, axes: MatrixAxes, size: MatrixSize) -> jax.Array:
        """The sign (for complex entries the phase)."""
        del axes, size
        return jnp.where(jnp.isfinite(x), jnp.sign(x), x)

    def group(self, axes: MatrixAxes) -> tuple[int, ...]:
        """One entry."""
        return ()

    def group_size(self, size: MatrixSize) -> Any:
        """1."""
        return 1

    def unit_norm(self, x: jax.Array, axes: MatrixAxes) -> jax.Array:
        return largest(x, axes.matrix)

    def unit_dual_norm(self, x: jax.Array, axes: MatrixAxes) -> jax.Array:
        return jnp.sum(jnp.abs(x), axis=axes.matrix, keepdims=True)
