"""A subspace of a weight's smaller side, and how it follows the gradients from step to step.

A weight is taken as matrices A of m x n with m <= n, where for a square weight the m rows are the
output features. An orthonormal basis P of m x r spans the subspace: P^T A is what a low-rank
optimizer works with, P (P^T A) the part of A that it sees (Robert, Safaryan, Modoranu, Alistarh,
arXiv 2410.16103, Section 3). For complex weights ^T is the conjugate transpose.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from multinorm_optax._matrices.axes import MatrixAxes
from multinorm_optax._norms.precision import inverse_power_of_two, peak


@dataclasses.dataclass(frozen=True)
class Sides:
    """The matrices A of a weight, multiplied without moving its axes.

    Factors of a weight have the batch axes first: (batch..., m, r) and (batch..., r, n).

    Attributes:
      shape: the weight's shape.
      axes: resolved and oriented: the rows (output) are the smaller side.
    """

    shape: tuple[int, ...]
    axes: MatrixAxes

    @classmethod
    def of(cls, shape: tuple[int, ...], axes: MatrixAxes) -> "Sides":
        """The sides of a weight whose axes are resolved."""
        return cls(shape, axes.oriented(shape))

    @property
    def batch(self) -> tuple[int, ...]:
        """The axes along which matrices are stacked."""
        return self.axes.batch(len(self.shape))

    def factor_shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(batch..., m, r) and (batch..., r, n)."""
        m, n = self.axes.matrix_shape(self.shape)
        batch = self._sizes(self.batch)
        return (*batch, m, rank), (*batch, rank, n)

    def factor_shardings(self, sharding: NamedSharding) -> tuple[NamedSharding, NamedSharding]:
        """How the two factors lie if the weight lies so: each axis as that of the weight.

        Of several axes that are one in a factor, the first alone can be spread.
        """
        spec = [*sharding.spec, *(None for _ in self.shape)]
        batch = [spec[axis] for axis in self.batch]

        def side(axes: tuple[int, ...]) -> Any:
            first, *others = [spec[axis] for axis in axes] or [None]
            return None if any(others) else first

        return (
            NamedSharding(sharding.mesh, P(*batch, side(self.axes.output), None)),
            NamedSharding(sharding.mesh, P(*batch, None, side(self.axes.input))),
        )

    def project(self, basis: jax.Array, a: jax.Array) -> jax.Array:
        """P^T A, (batch..., r, n)."""
        whole, rows, columns = self._labels()
        low = _einsum(jnp.conj(self._split_rows(basis)), rows, a, whole, columns)
        return jnp.reshape(low, self.factor_shapes(basis.shape[-1])[1])

    def project_columns(self, a: jax.Array, directions: jax.Array) -> jax.Array:
        """A Y, (batch..., m, r), of Y^T, (batch..., r, n)."""
        whole, rows, columns = self._labels()
        low = _einsum(a, whole, jnp.conj(self._split_columns(directions)), columns, rows)
        return jnp.reshape(low, self.factor_shapes(directions.shape[-2])[0])

    def lift(self, basis: jax.Array, low: jax.Array) -> jax.Array:
        """P D of (batch..., m, r) and (batch..., r, n), with the weight's own shape."""
        whole, rows, columns = self._labels()
        return _einsum(self._split_rows(basis), rows, self._split_columns(low), columns, whole)

    def _split_rows(self, basis: jax.Array) -> jax.Array:
        *batch, _, rank = basis.shape
        return jnp.reshape(basis, (*batch, *self._sizes(self.axes.output), rank))

    def _split_columns(self, low: jax.Array) -> jax.Array:
        return jnp.reshape(low, (*low.shape[:-1], *self._sizes(self.axes.input)))

    def _sizes(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self.shape[axis] for axis in axes)

    def _labels(self) -> tuple[list[int], list[int], list[int]]:
        """What `einsum` calls the axes of the weight, and of its factors by rows and by columns."""
        rank = len(self.shape)
        rows = [*self.batch, *self.axes.output, rank]
        return list(range(rank)), rows, [*self.batch, rank, *self.axes.input]


# Accelerators would round the operands to fewer bits by default.
_einsum = functools.partial(jnp.einsum, precision="highest")
matmul = functools.partial(jnp.matmul, precision="highest")


def transpose(a: jax.Array) -> jax.Array:
    """The conjugate transpose of the last two axes."""
    return jnp.conj(jnp.swapaxes(a, -1, -2))


def _scaled(a: jax.Array) -> jax.Array:
    """Each matrix times a power of two, near one: what follows depends on directions alone."""
    return a * inverse_power_of_two(peak(a, (-2, -1)))


def orthonormal_columns(a: jax.Array) -> jax.Array:
    """The Q-factor of (..., m, r), m >= r: orthonormal also where columns depend on others."""
    return jnp.linalg.qr(_scaled(a))[0]


def leading_directions(sides: Sides, a: jax.Array, rank: int) -> jax.Array:
    """The first left singular vectors of A, (batch..., m, r).

    With A^T = Q R they are those of R^T, which is m x m. The matrices of a stack take turns: what
    their decomposition works with need not be there for all of them at once.
    """
    rows, columns = sides.axes.output, sides.axes.input
    m, n = sides.axes.matrix_shape(sides.shape)
    matrix = sorted((*rows, *columns))
    order = [1 + matrix.index(axis) for axis in (*columns, *rows)]

    def of_some(weights: jax.Array) -> jax.Array:
        transposed = jnp.reshape(jnp.transpose(weights, (0, *order)), (-1, n, m))
        triangle = jnp.linalg.qr(_scaled(transposed), mode="r")
        return jnp.linalg.svd(jnp.swapaxes(triangle, -1, -2), full_matrices=False)[0][..., :rank]

    stacked = jnp.transpose(a, (*sides.batch, *matrix))
    stacked = jnp.reshape(stacked, (-1, *(a.shape[axis] for axis in matrix)))
    return jnp.reshape(_in_turn(of_some, stacked), sides.factor_shapes(rank)[0])


def _in_turn(function: Callable[[jax.Array], jax.Array], stack: jax.Array) -> jax.Array:
    """The function of (matrices, ...), of as many at a time as may lie on different devices."""
    count, *weight = stack.shape
    together = math.gcd(count, jax.device_count())
    if together == count:
        return function(stack)
    split = jnp.reshape(stack, (together, -1, *weight))
    results = jax.lax.map(
        lambda turn: function(jax.lax.dynamic_index_in_dim(split, turn, 1, keepdims=False)),
        jnp.arange(count // together),
    )
    return jnp.reshape(jnp.moveaxis(results, 0, 1), (count, *results.shape[2:]))


def followed_directions(
    sides: Sides, a: jax.Array, basis: jax.Array, mean: jax.Array, share: jax.Array
) -> jax.Array:
    """One warm-started block power iteration: the Q-factor of B B^T P, (batch..., m, r).

    B = share * P mean + (1 - share) * A, where `mean` is (batch..., r, n) and P orthonormal. B is
    never formed. A Q-factor between the two products leaves the span as it is and keeps the
    condition number of B from being squared: with sigma_1 / sigma_r = 1e4 in float32 the error of
    the basis is 3e-5 instead of 6e-2.
    """
    projected = share * mean + (1 - share) * sides.project(basis, a)
    directions = transpose(orthonormal_columns(transpose(projected)))
    image = share * matmul(basis, matmul(mean, transpose(directions)))
    return orthonormal_columns(image + (1 - share) * sides.project_columns(a, directions))
