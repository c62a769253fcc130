"""The spectral norm, whose projection is the polar factor of a whole matrix."""

import dataclasses

import jax
import jax.numpy as jnp

from multinorm_optax._matrices.axes import MatrixAxes
from multinorm_optax._matrices.stacks import map_wide_matrices, reduce_wide_matrices
from multinorm_optax._norms.base import MatrixSize, Norm
from multinorm_optax._norms.euclidean import FrobeniusNorm
from multinorm_optax._norms.orthogonalize import (
    Orthogonalizer,
    check_orthogonalizer,
    finite_or_zero,
    polar_express,
)


@dataclasses.dataclass(frozen=True)
class SpectralNorm(Norm):
    """g(W) = sigma_max(W) / sqrt(max(m, n)), with P_g(W) = sqrt(max(m, n)) U V^T.

    g_*(W) = sqrt(max(m, n)) times the nuclear norm. Norm and dual norm use a singular value
    decomposition, and are NaN if an entry is not finite. The projection uses `orthogonalizer`, by
    default `polar_express()`, and keeps zero singular values, up to rounding errors, of which a
    second projection would make ones.
    """

    orthogonalizer: Orthogonalizer = dataclasses.field(default_factory=polar_express)

    def __post_init__(self) -> None:
        check_orthogonalizer(self.orthogonalizer)

    def project(self, x: jax.Array, axes: MatrixAxes, size: MatrixSize) -> jax.Array:
        """sqrt(max(m, n)) times the polar factor."""
        x = FrobeniusNorm().project(x, axes, (1, 1))
        return jnp.sqrt(jnp.maximum(*size)) * map_wide_matrices(self.orthogonalizer, x, axes)

    def unit_norm(self, x: jax.Array, axes: MatrixAxes, size: MatrixSize) -> jax.Array:
        larger = jnp.maximum(1, jnp.maximum(*size))
        return self._singular_values(x, axes, slice(1)) / jnp.sqrt(larger)

    def unit_dual_norm(self, x: jax.Array, axes: MatrixAxes, size: MatrixSize) -> jax.Array:
        return jnp.sqrt(jnp.maximum(*size)) * self._singular_values(x, axes, slice(None))

    def _singular_values(self, x: jax.Array, axes: MatrixAxes, chosen: slice) -> jax.Array:
        # The sum of the chosen ones, in descending order.
        def total(matrices: jax.Array) -> jax.Array:
            matrices, finite = finite_or_zero(matrices)
            values = jnp.linalg.svd(matrices, compute_uv=False)[..., chosen]
            return jnp.where(finite[..., 0, 0], jnp.sum(values, axis=-1), jnp.nan)

        return reduce_wide_matrices(total, x, axes)
