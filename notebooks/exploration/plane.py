"""Two norms of the plane without a common fixed point: the max norm, and the max norm turned.

Their projections have equal length, so that the dual values rise to a limit; but where no point has
unit size in both, the alternation ends in a two-cycle. A vector is a matrix of one row.
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


def rotation(angle: Any) -> jax.Array:
    """Turns a column vector by so many radians, to the left."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])


@dataclasses.dataclass(frozen=True)
class TurnedMaxNorm(mo.Norm):
    """g(w) = max |R^-1 w|, with P_g(w) = R sign(R^-1 w) and g_*(w) = sum |R^-1 w|.

    For weights (..., 1, 2) whose last axis is the plane.

    Attributes:
      angle: of the rotation R, in radians.
    """

    angle: Any
    keeps_support = False

    def project(self, x: jax.Array, axes: mo.MatrixAxes, size: tuple[Any, Any]) -> jax.Array:
        """The corner of the turned square in x's quadrant."""
        del axes, size
        turn = rotation(self.angle)
        return jnp.sign(x @ turn) @ turn.T

    def unit_norm(self, x: jax.Array, axes: mo.MatrixAxes, size: Any) -> jax.Array:
        """The larger coordinate in the turned basis."""
        return jnp.max(jnp.abs(x @ rotation(self.angle)), axis=axes.matrix, keepdims=True)

    def unit_dual_norm(self, x: jax.Array, axes: mo.MatrixAxes, size: Any) -> jax.Array:
        """The sum of both."""
        return jnp.sum(jnp.abs(x @ rotation(self.angle)), axis=axes.matrix, keepdims=True)


@partial(jax.jit, static_argnames="sweeps")
def _trace(start: jax.Array, angle: jax.Array, sweeps: int) -> Any:
    members = [mo.normalize(norm, ROWS_FIRST) for norm in (mo.MaxNorm(), TurnedMaxNorm(angle))]
    return mo.trace_multi_normalize(start, *members, num_iters=sweeps)


def walk(direction: float, angle: float, sweeps: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """The alternation from a point, with angles in degrees.

    Returns:
      The iterates (2 sweeps + 1, 2) and the dual values (2 sweeps).
    """
    turned = math.radians(direction)
    with jax.enable_x64(True):
        start = 1.9 * jnp.array([[math.cos(turned), math.sin(turned)]])
        trace = _trace(start, jnp.asarray(math.radians(angle)), sweeps)
    return np.asarray(trace.iterates)[:, 0], np.asarray(trace.dual_values)


def square(angle: float) -> np.ndarray:
    """The outline of the unit ball of the max norm, turned by so many degrees: (5, 2)."""
    corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1], [1, 1]])
    return corners @ np.asarray(rotation(math.radians(angle))).T
