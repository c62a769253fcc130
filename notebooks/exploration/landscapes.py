"""Losses small enough to see: two parameters, a matrix factorization, a weighted regression.

Every problem is a loss of a tree of matrices (m, n), rows as output features, with a start. Numbers
that a slider moves are arrays inside it, so that one compiled descent serves them all.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Valley(NamedTuple):
    """f(w) = 1/2 <w, H w> for a vector w of two parameters, as a matrix of one row.

    On one row a sweep of (row, column) ends in the sign, so that SinkGD is sign descent, and a
    spectral projection is the gradient over its length, so that SWAN is normalized descent.
    """

    hessian: Any
    """H, 2 x 2: eigenvalues 1 and the condition number, eigenvectors turned by some angle."""

    def loss(self, weights: Any) -> jax.Array:
        """1/2 <w, H w>."""
        return 0.5 * jnp.sum((weights["w"] @ self.hessian) * weights["w"])

    def curvature(self) -> Any:
        """The largest eigenvalue of H: gradient descent needs rates below 2 over it."""
        return jnp.linalg.norm(self.hessian, 2)

    def start(self) -> dict[str, np.ndarray]:
        """The same for all valleys."""
        return {"w": np.array([[-1.6, 1.1]], np.float32)}


def valley(condition: float, angle: float) -> Valley:
    """A valley of this condition number, its floor turned by so many degrees."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = np.array([[cos, -sin], [sin, cos]])
    return Valley(np.float32(turn @ np.diag([1.0, condition]) @ turn.T))


class WeightedRegression(NamedTuple):
    """f(W) = 1/2 sum_ij r_i c_j (W - W*)_ij^2, from W = 0.

    The gradient is D_r (W - W*) D_c. SR-Sinkhorn finds the same limit whatever the diagonals are,
    so that SinkGD's direction is that of r = c = 1, as far as its sweeps go. `basis` turns the
    input features first; a diagonal can then no longer undo the weights.
    """

    rows: Any
    """r: how often each output is asked for."""
    columns: Any
    """c: how large each input is."""
    target: Any
    """W*."""
    basis: Any
    """An orthogonal matrix Q: the inputs are those of Q."""

    def loss(self, weights: Any) -> jax.Array:
        """The loss."""
        return 0.5 * jnp.sum(self.rows[:, None] * self._errors(weights) ** 2 * self.columns)

    def loss_of_rows(self, weights: Any) -> jax.Array:
        """What each output loses when it is asked for, over what it lost at the start."""
        start = jnp.sum((self.target @ self.basis) ** 2 * self.columns, axis=1)
        return jnp.sum(self._errors(weights) ** 2 * self.columns, axis=1) / start

    def _errors(self, weights: Any) -> jax.Array:
        return (weights["w"] - self.target) @ self.basis

    def curvature(self) -> Any:
        """The largest second derivative."""
        return jnp.max(self.rows) * jnp.max(self.columns)

    def start(self) -> dict[str, np.ndarray]:
        """Zero."""
        return {"w": np.zeros(self.target.shape, np.float32)}


def zipf_regression(
    exponent: float, condition: float, turned: bool = False, m: int = 32, n: int = 16
) -> WeightedRegression:
    """Outputs asked for with frequencies 1 / i^exponent, inputs of sizes down to 1 / condition."""
    rng = np.random.default_rng(0)
    target = rng.standard_normal((m, n))
    rows = 1 / np.arange(1, m + 1) ** exponent
    columns = np.geomspace(1, 1 / condition, n)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0] if turned else np.eye(n)
    return WeightedRegression(*map(np.float32, (rows / rows.sum(), columns, target, basis)))


class Factorization(NamedTuple):
    """f(A, B) = 1/2 ||A B - M||_F^2 / m for A (m, k) and B (k, m), from small random factors."""

    target: Any
    """M."""
    factors: Any
    """Where A and B start."""

    def loss(self, weights: Any) -> jax.Array:
        """The loss."""
        difference = self.product(weights) - self.target
        return 0.5 * jnp.sum(difference**2) / len(self.target)

    def product(self, weights: Any) -> jax.Array:
        """A B."""
        return weights["a"] @ weights["b"]

    def curvature(self) -> Any:
        """The largest at the solution, about 2 sigma_1(M) / m."""
        return 2 * jnp.linalg.norm(self.target, 2) / len(self.target)

    def start(self) -> dict[str, np.ndarray]:
        """The small random factors."""
        return dict(self.factors)


def factorization(condition: float, size: int = 16, rank: int = 6) -> Factorization:
    """A target with `rank` singular values from `size` down to `size` / condition."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((size, rank)))[0] for _ in range(2))
    target = (left * np.geomspace(size, size / condition, rank)) @ right.T
    small = {"a": rng.standard_normal((size, rank)), "b": rng.standard_normal((rank, size))}
    return Factorization(
        np.float32(target), {name: np.float32(0.05 * each) for name, each in small.items()}
    )
