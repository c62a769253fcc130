"""Directions that bound the operator norm of a step, what they do to a gradient and what they cost.

The polar factor, exact to rounding, has all singular values equal, and costs the most. A few
quintics after the sweeps of SinkGD lower the largest ones. `scale_by_operator_norm` divides a
direction by its largest.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

import multinorm_optax as mo
from exploration.convergence import ROWS_FIRST
from exploration.timing import milliseconds

SINKGD = mo.scale_by_sinkhorn(ROWS_FIRST)


def _quintics_after_sweeps(steps: int) -> optax.GradientTransformation:
    return optax.chain(
        SINKGD,
        mo.normalize_spectral(ROWS_FIRST, mo.muon_quintic(steps)),
        mo.normalize(mo.FrobeniusNorm(), ROWS_FIRST),
    )


CANDIDATES: Mapping[str, optax.GradientTransformation] = {
    "sign": mo.normalize(mo.MaxNorm(), ROWS_FIRST),
    "SinkGD, L = 1": mo.scale_by_sinkhorn(ROWS_FIRST, 1),
    "SinkGD, L = 5": SINKGD,
    "L = 5, operator norm": optax.chain(SINKGD, mo.scale_by_operator_norm(ROWS_FIRST)),
    "L = 5, 1 quintic": _quintics_after_sweeps(1),
    "L = 5, 2 quintics": _quintics_after_sweeps(2),
    "L = 5, 3 quintics": _quintics_after_sweeps(3),
    "Muon, 5 quintics": optax.chain(
        mo.normalize_spectral(ROWS_FIRST, mo.muon_quintic()),
        mo.normalize(mo.FrobeniusNorm(), ROWS_FIRST),
    ),
    "SWAN": mo.scale_by_swan(ROWS_FIRST),
    "exact polar factor": mo.normalize_spectral(ROWS_FIRST, mo.polar_express()),
}
"""By the name that pictures give them."""


@jax.jit
def _all(gradient: jax.Array) -> dict[str, jax.Array]:
    return {
        name: each.update(gradient, each.init(gradient))[0] for name, each in CANDIDATES.items()
    }


def candidates(gradient: np.ndarray) -> dict[str, np.ndarray]:
    """Every candidate's direction of one gradient (m, n), in float32."""
    found = _all(jnp.float32(gradient))
    return {name: np.asarray(found[name]) for name in CANDIDATES}


def operator_norm(x: np.ndarray) -> float:
    """The largest singular value over sqrt(m/n): by what x changes features of unit size."""
    m, n = x.shape
    return float(np.linalg.norm(x, 2) / np.sqrt(m / n))


def unequal(x: np.ndarray) -> tuple[float, float]:
    """By how much the RMS of rows and of columns differ from their mean: largest relative error."""
    found = []
    for axis in (1, 0):
        rms = np.sqrt(np.mean(x**2, axis=axis))
        found.append(float(np.max(np.abs(rms / np.sqrt(np.mean(x**2)) - 1))))
    return found[0], found[1]


@functools.cache
def times(m: int = 512, n: int = 1376) -> dict[str, float]:
    """Milliseconds of each candidate, and of Adam, on an m x n matrix in float32."""
    gradient = jnp.float32(np.random.default_rng(0).standard_normal((m, n)))
    return {
        name: milliseconds(each.update, gradient, each.init(gradient))
        for name, each in {**CANDIDATES, "Adam": optax.scale_by_adam()}.items()
    }
