"""Families of test matrices, in the papers' orientation: rows are output features.

Each is a function of the numbers of rows and columns and a generator of random numbers, and returns
a float64 matrix (m, n).
"""

from collections.abc import Callable, Mapping

import numpy as np

Draw = Callable[[int, int, np.random.Generator], np.ndarray]


def gaussian(m: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Independent standard normal entries: nothing to repair."""
    return rng.standard_normal((m, n))


def ill_scaled(m: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """D_r G D_c with a Gaussian G and diagonals from 1/30 to 30, even on a logarithmic scale.

    It has the same limit under (row, column) as G: the diagonals are what the iteration finds.
    """
    rows, columns = (30.0 ** rng.uniform(-1, 1, size) for size in (m, n))
    return rows[:, None] * gaussian(m, n, rng) * columns


def heavy_tailed(m: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Student's t with 1.5 degrees of freedom: a few entries outweigh all others."""
    return rng.standard_t(1.5, (m, n))


def low_rank(m: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """A product of Gaussian factors of rank four, as from a batch of few tokens."""
    return gaussian(m, 4, rng) @ gaussian(4, n, rng)


def dead_rows(m: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, but a quarter of the rows and an eighth of the columns are zero."""
    matrix = gaussian(m, n, rng)
    matrix[rng.choice(m, m // 4, replace=False)] = 0
    matrix[:, rng.choice(n, n // 8, replace=False)] = 0
    return matrix


def triangular(m: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """The lower triangle of a Gaussian matrix: no total support."""
    return np.tril(gaussian(m, n, rng))


def sparse(m: int, n: int, rng: np.random.Generator, density: float = 0.01) -> np.ndarray:
    """Gaussian entries at this share of the positions, chosen at random; at least one."""
    matrix = np.zeros(m * n)
    live = rng.choice(m * n, max(1, round(density * m * n)), replace=False)
    matrix[live] = rng.standard_normal(live.size)
    return matrix.reshape(m, n)


FAMILIES: Mapping[str, Draw] = {
    "Gaussian": gaussian,
    "ill-scaled": ill_scaled,
    "heavy-tailed": heavy_tailed,
    "low rank": low_rank,
    "dead rows": dead_rows,
    "triangular": triangular,
    "1 % dense": sparse,
}
"""Every family by the name that menus give it."""


def draw_matrix(family: str, m: int, n: int, seed: int = 0) -> np.ndarray:
    """The matrix of a family that this seed draws."""
    return FAMILIES[family](m, n, np.random.default_rng(seed))
