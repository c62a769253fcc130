"""The interface of norms, dual norms and projections of the matrices in a weight.

For a norm g, the projection P_g(x) = argmax { <x, z> : g(z) = 1 } is the linear minimisation oracle
up to sign, and <x, P_g(x)> = g_*(x) is the dual norm (Scetbon et al., arXiv 2502.06742). All norms
are scaled so that the projection of an m x n matrix has Frobenius norm sqrt(m n), the max norm's if
no entry is zero; zero rows and columns do not count in m and n.
"""

import abc
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax

from multinorm_optax._matrices.axes import MatrixAxes, as_matrix_axes
from multinorm_optax._norms.precision import (
    abs_sq,
    any_nonzero,
    compute_dtype,
    largest,
    sqrt_or_zero,
    unit_scale,
)

Count: TypeAlias = int | jax.Array  # an array has one number per matrix
MatrixSize: TypeAlias = tuple[Count, Count]  # (m, n)
Axes: TypeAlias = MatrixAxes | optax.contrib.MuonDimensionNumbers

FLAX_KERNEL = MatrixAxes(output=-1, input=-2)


class Projection(abc.ABC):
    """A stateless map of a matrix to a matrix of root mean square 1.

    To define your own, subclass this or `Norm`, and write the methods for one weight. Instances
    should be hashable.

    Attributes:
      keeps_support: whether zero rows and columns stay zero and no others become zero. Sizes then
        do not count zero rows and columns.
      entrywise: whether each entry is projected by itself, which needs no axes.
    """

    keeps_support: bool = False
    entrywise: bool = False

    @abc.abstractmethod
    def project(self, x: jax.Array, axes: MatrixAxes, size: MatrixSize) -> jax.Array:
        """Project every matrix in a weight of at least float32; `size` is what `size()` returns."""

    def group(self, axes: MatrixAxes) -> tuple[int, ...]:
        """The axes that span a group of entries, which are normalized together."""
        return axes.matrix

    def group_size(self, size: MatrixSize) -> Count:
        """N, the number of entries in a group of a matrix of this size."""
        return size[0] * size[1]

    def size(self, x: jax.Array, axes: MatrixAxes) -> MatrixSize:
        """(m, n) of the matrices in x; if `keeps_support`, arrays without zero rows and columns."""
        if not self.keeps_support:
            return axes.matrix_shape(x.shape)
        dtype = jnp.finfo(x.dtype).dtype
        rows, columns = any_nonzero(x, axes.input), any_nonzero(x, axes.output)
        return (
            jnp.sum(rows, axis=axes.output, keepdims=True, dtype=dtype),
            jnp.sum(columns, axis=axes.input, keepdims=True, dtype=dtype),
        )

    def residual(
        self, x: jax.Array, projected: jax.Array, axes: MatrixAxes, size: MatrixSize
    ) -> jax.Array:
        """The largest root mean square of x - P(x) in a group; matrix axes keep size one."""
        total = jnp.sum(abs_sq(projected - x), axis=self.group(axes), keepdims=True)
        count = jnp.maximum(1, self.group_size(size))
        return largest(sqrt_or_zero(total / count), axes.matrix)

    def __call__(self, w: jax.Array, axes: Axes = FLAX_KERNEL) -> jax.Array:
        """P(W) of every matrix in a weight, with the weight's shape and dtype."""
        x, resolved = _prepare(w, axes)
        return self.project(x, resolved, self.size(x, resolved)).astype(w.dtype)


class Norm(Projection):
    """A norm g with its dual norm g_* and its projection P_g.

    `norm` and `dual_norm` take a weight of any floating-point or complex dtype and return one value
    per matrix (shape `batch`) in at least float32. Calling the norm returns the projection. `axes`
    gives the rows and columns, by default those of a flax kernel (..., in, out).
    g(P_g(W)) = 1 and <W, P_g(W)> = g_*(W) for every W but zero.
    """

    keeps_support = True

    def norm(self, w: jax.Array, axes: Axes = FLAX_KERNEL) -> jax.Array:
        """g(W)."""
        return self._per_matrix(self.unit_norm, w, axes)

    def dual_norm(self, w: jax.Array, axes: Axes = FLAX_KERNEL) -> jax.Array:
        """g_*(W) = <W, P_g(W)>."""
        return self._per_matrix(self.unit_dual_norm, w, axes)

    @abc.abstractmethod
    def unit_norm(self, x: jax.Array, axes: MatrixAxes, size: MatrixSize) -> jax.Array:
        """g of matrices with a largest entry of about 1; matrix axes keep size one."""

    @abc.abstractmethod
    def unit_dual_norm(self, x: jax.Array, axes: MatrixAxes, size: MatrixSize) -> jax.Array:
        """g_* of matrices with a largest entry of about 1; matrix axes keep size one."""

    def _per_matrix(
        self, function: Callable[..., jax.Array], w: jax.Array, axes: Axes
    ) -> jax.Array:
        x, resolved = _prepare(w, axes)
        scale = unit_scale(x, resolved.matrix)
        value = function(x * scale, resolved, self.size(x, resolved)) / scale
        return jnp.squeeze(value, resolved.matrix)


def _prepare(w: jax.Array, axes: Axes) -> tuple[jax.Array, MatrixAxes]:
    if not jnp.issubdtype(w.dtype, jnp.inexact):
        raise TypeError(f"a norm takes floating-point or complex weights, got {w.dtype}")
    return w.astype(compute_dtype(w.dtype)), as_matrix_axes(axes).resolve(w.shape)
