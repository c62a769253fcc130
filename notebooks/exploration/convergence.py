"""The alternation watched: every iterate, residual and dual value of `multi_normalize`.

Matrices are (m, n) with rows as output features, and are iterated in float64, so that a picture
shows the mathematics and not the rounding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

import multinorm_optax as mo

ROWS_FIRST = mo.MatrixAxes(output=0, input=1)

NORMS: Mapping[str, mo.Projection] = {
    "row": mo.RowNorm(),
    "column": mo.ColumnNorm(),
    "spectral": mo.SpectralNorm(mo.exact_svd()),
    "max": mo.MaxNorm(),
    "Frobenius": mo.FrobeniusNorm(),
}
"""The library's norms by the name that menus give them."""
NO_NORM = "none"


@dataclass(frozen=True)
class History:
    """What happened in L sweeps over K norms."""

    iterates: np.ndarray
    """x_0 = G, x_1, ..., x_LK: (L K + 1, m, n)."""
    residuals: np.ndarray
    """Of each norm after each sweep: (L, K)."""
    dual_values: np.ndarray
    """<x_k, x_k+1> for k = 0, ..., L K - 1."""

    @property
    def last(self) -> np.ndarray:
        """The update."""
        return self.iterates[-1]

    @property
    def gaps(self) -> np.ndarray:
        """1 - <x_k, x_k+1> / c^2 for k = 1, ..., L K - 1, with c the length of the last iterate.

        Zero where the next half-step changes nothing.
        """
        return 1 - self.dual_values[1:] / np.sum(self.last**2)


@partial(jax.jit, static_argnames=("norms", "sweeps"))
def _run(matrix: jax.Array, norms: tuple[mo.Projection, ...], sweeps: int) -> tuple[jax.Array, ...]:
    members = [mo.normalize(norm, ROWS_FIRST) for norm in norms]

    def sweep(x: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        trace = mo.trace_multi_normalize(x, *members, num_iters=1)
        return trace.iterates[-1], (trace.iterates[1:], trace.residuals[0], trace.dual_values)

    return jax.lax.scan(sweep, matrix, length=sweeps)[1]


def _padded(matrix: np.ndarray) -> np.ndarray:
    """The matrix with zero rows and columns up to a multiple of 128."""
    return np.pad(np.asarray(matrix, np.float64), [(0, -size % 128) for size in matrix.shape])


def follow(matrix: np.ndarray, norms: Sequence[mo.Projection], sweeps: int) -> History:
    """Run `trace_multi_normalize` sweep by sweep; the last iterate is what `multi_normalize` makes.

    Zero rows and columns change nothing for norms that keep them, as all of the library's do: with
    enough of them one compiled program serves matrices of many shapes.

    Raises:
      ValueError: for a norm that does not keep zero rows and columns.
    """
    if not all(norm.keeps_support for norm in norms):
        raise ValueError(f"follow takes norms that keep zero rows and columns, got {norms}")
    m, n = matrix.shape
    with jax.enable_x64(True):
        start = _padded(matrix)
        traced = _run(start, tuple(norms), sweeps)
    iterates, residuals, dual_values = map(np.asarray, traced)
    every = np.concatenate([start[None], iterates.reshape(-1, *start.shape)])
    return History(every[:, :m, :n], residuals, dual_values.reshape(-1))


def named(*names: str) -> tuple[mo.Projection, ...]:
    """The norms of these names, in order, without those that are "none"."""
    return tuple(NORMS[name] for name in names if name != NO_NORM)


def predicted_rate(balanced: np.ndarray) -> float:
    """The factor by which a sweep over rows and columns shrinks the residual, in the limit.

    It is sigma_2^2, where sigma_2 is the second singular value of X*X over its first and X the
    matrix whose rows and columns have root mean square 1.
    """
    values = np.linalg.svd(np.abs(balanced) ** 2, compute_uv=False)
    return float((values[1] / values[0]) ** 2)


def observed_rate(residuals: np.ndarray, lowest: float = 1e-11) -> float:
    """The factor per sweep between the last residuals that are still above rounding."""
    clear = residuals[residuals > lowest]
    return float("nan") if len(clear) < 2 else float(clear[-1] / clear[-2])


def unit_rms(matrix: np.ndarray) -> np.ndarray:
    """The matrix over the root mean square of its entries."""
    return matrix / np.sqrt(np.mean(matrix**2))


def group_rms(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The root mean square of every row and of every column."""
    return tuple(np.sqrt(np.mean(matrix**2, axis=axis)) for axis in (1, 0))


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """In descending order, over sqrt(max(m, n)): 1 for a matrix of unit spectral norm."""
    return np.linalg.svd(matrix, compute_uv=False) / np.sqrt(max(matrix.shape))
