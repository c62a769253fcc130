"""Norms whose projections do not have the same length, and what becomes of their alternation.

Every projection of the library has Frobenius norm sqrt(m n). A norm divided by a number r has its
projection multiplied by r; alternated with a norm that is not, it can satisfy only one of the two.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import multinorm_optax as mo
from exploration.convergence import ROWS_FIRST


@dataclasses.dataclass(frozen=True)
class Rescaled(mo.Projection):
    """r times the projection of another norm.

    Attributes:
      inner: the norm.
      radius: r.
    """

    inner: mo.Projection
    radius: Any

    def project(self, x: jax.Array, axes: mo.MatrixAxes, size: tuple[Any, Any]) -> jax.Array:
        """r P(x)."""
        return self.radius * self.inner.project(x, axes, size)

    def group(self, axes: mo.MatrixAxes) -> tuple[int, ...]:
        """That of the norm."""
        return self.inner.group(axes)

    def group_size(self, size: tuple[Any, Any]) -> Any:
        """That of the norm."""
        return self.inner.group_size(size)


def radius_of_sqrt_n(m: int, n: int) -> float:
    """What sqrt(n) in the place of sqrt(max(m, n)) makes of the spectral norm: sqrt(n / max(m, n)).

    The papers write sqrt(n), for matrices with m <= n.
    """
    return math.sqrt(n / max(m, n))


@partial(jax.jit, static_argnames="sweeps")
def _residuals(matrix: jax.Array, radii: jax.Array, sweeps: int) -> jax.Array:
    def one(radius: jax.Array) -> jax.Array:
        spectral = mo.SpectralNorm(mo.exact_svd())
        row, stretched = (
            mo.normalize(norm, ROWS_FIRST) for norm in (mo.RowNorm(), Rescaled(spectral, radius))
        )

        def sweep(x: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            trace = mo.trace_multi_normalize(x, row, stretched, num_iters=1)
            return trace.iterates[-1], trace.residuals[0, 0]

        return jax.lax.scan(sweep, matrix, length=sweeps)[1]

    return jax.lax.map(one, radii)


def row_residuals(matrix: np.ndarray, radii: np.ndarray, sweeps: int) -> np.ndarray:
    """Of the row norm after each sweep of (row, r times spectral): (radii, sweeps)."""
    with jax.enable_x64(True):
        return np.asarray(_residuals(jnp.asarray(matrix), jnp.asarray(radii), sweeps))
