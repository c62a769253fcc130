"""The directions in which optimizers turn one gradient, and how they differ.

All have entries of root mean square 1, and none has memory: Muon stands for its orthogonalization,
without the momentum before it.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import multinorm_optax as mo
from exploration.convergence import ROWS_FIRST

DIRECTIONS: Mapping[str, optax.GradientTransformation] = {
    "gradient": mo.normalize(mo.FrobeniusNorm(), ROWS_FIRST),
    "sign": mo.normalize(mo.MaxNorm(), ROWS_FIRST),
    "SinkGD, L = 1": mo.scale_by_sinkhorn(ROWS_FIRST, 1),
    "SinkGD, L = 5": mo.scale_by_sinkhorn(ROWS_FIRST, 5),
    "SWAN": mo.scale_by_swan(ROWS_FIRST),
    "Muon": mo.multi_normalize(
        mo.normalize_spectral(ROWS_FIRST, mo.muon_quintic()),
        mo.normalize(mo.FrobeniusNorm(), ROWS_FIRST),
        num_iters=1,
    ),
}
"""By the name that pictures give them."""


@jax.jit
def _all(gradient: jax.Array) -> dict[str, jax.Array]:
    return {
        name: transformation.update(gradient, transformation.init(gradient))[0]
        for name, transformation in DIRECTIONS.items()
    }


def directions(gradient: np.ndarray) -> dict[str, np.ndarray]:
    """Every direction of one gradient (m, n), in float32."""
    found = _all(jnp.float32(gradient))
    return {name: np.asarray(found[name]) for name in DIRECTIONS}


@partial(jax.jit, static_argnames="most")
def _sweeps(gradient: jax.Array, most: int) -> jax.Array:
    members = mo.normalize_rows(ROWS_FIRST), mo.normalize_columns(ROWS_FIRST)

    def sweep(x: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        x = mo.trace_multi_normalize(x, *members, num_iters=1).iterates[-1]
        return x, x

    return jax.lax.scan(sweep, gradient, length=most)[1]


def sinkhorn_directions(gradient: np.ndarray, most: int) -> np.ndarray:
    """SinkGD's direction after L = 1, ..., `most` sweeps: (most, m, n)."""
    return np.asarray(_sweeps(jnp.float32(gradient), most))


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    """<x, y> over the product of their lengths."""
    return float(np.vdot(x, y) / (np.linalg.norm(x) * np.linalg.norm(y)))


def cosines(found: Mapping[str, np.ndarray]) -> np.ndarray:
    """The cosine of every two directions, in order."""
    return np.array([[cosine(x, y) for y in found.values()] for x in found.values()])


def row_residual(x: np.ndarray) -> float:
    """max_i |RMS of row i - 1|, over rows that are not zero."""
    rms = np.sqrt(np.mean(x**2, axis=1))
    return float(np.max(np.abs(rms[rms > 0] - 1)))
