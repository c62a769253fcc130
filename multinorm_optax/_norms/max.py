"""The max norm, whose projection is the sign."""

import dataclasses

import jax
import jax.numpy as jnp

from multinorm_optax._matrices.axes import MatrixAxes
from multinorm_optax._norms.base import MatrixSize, Norm
from multinorm_optax._norms.precision import largest


@dataclasses.dataclass(frozen=True)
class MaxNorm(Norm):
    """g(W) = max_ij |W_ij|, with P_g(W) = sign(W) and g_*(W) = sum_ij |W_ij|.

    NaN and infinity are passed on: the sign would hide a diverged gradient.
    """

    entrywise = True

    def project(self, x: jax.Array, axes: MatrixAxes, size: MatrixSize) -> jax.Array:
        """The sign, or the phase of complex entries."""
        del axes, size
        return jnp.where(jnp.isfinite(x), jnp.sign(x), x)

    def group(self, axes: MatrixAxes) -> tuple[int, ...]:
        return ()

    def group_size(self, size: MatrixSize) -> int:
        return 1

    def unit_norm(self, x: jax.Array, axes: MatrixAxes, size: MatrixSize) -> jax.Array:
        return largest(x, axes.matrix)

    def unit_dual_norm(self, x: jax.Array, axes: MatrixAxes, size: MatrixSize) -> jax.Array:
        return jnp.sum(jnp.abs(x), axis=axes.matrix, keepdims=True)
