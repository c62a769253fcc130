"""Directions that the library does not have: moving scales, column variance, scales for two norms.

Leaves are stacks of kernels (layers, in, out); all formulas are symmetric in the two sides or say
which side they mean.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

_TINY = 1e-30


class ScalesState(NamedTuple):
    """Moving averages of both sides' mean squares, and the last update's size."""

    rows: optax.Params
    columns: optax.Params
    size: optax.Params


def moving_scales(decay: float = 0.9, growth: float = 1.01) -> optax.GradientTransformation:
    """RACS (arXiv 2502.07752): G / sqrt(q s), q and s being moving averages of the scales.

        s_j = sum_i q_i G_ij^2 / |q|^2,  q_i = sum_j s_j G_ij^2 / |s|^2,  five times from q = 1

    The Frobenius norm grows by at most a factor `growth` a step.
    """

    def init(params: optax.Params) -> ScalesState:
        def zeros(axis: int) -> optax.Params:
            return jax.tree.map(lambda w: jnp.zeros_like(jnp.sum(w, axis, keepdims=True)), params)

        return ScalesState(zeros(-1), zeros(-2), jax.tree.map(_size, zeros(-1)))

    def update(
        updates: optax.Updates, state: ScalesState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScalesState]:
        def of_leaf(
            g: jax.Array, rows: jax.Array, columns: jax.Array, size: jax.Array
        ) -> tuple[jax.Array, ...]:
            squares = g**2
            q = jnp.ones_like(rows)
            for _ in range(5):
                s = _mean_square(q, squares, -2)
                q = _mean_square(s, squares, -1)
            first = size == 0
            rows = jnp.where(first, q, decay * rows + (1 - decay) * q)
            columns = jnp.where(first, s, decay * columns + (1 - decay) * s)
            direction = g / (jnp.sqrt(rows * columns) + _TINY)
            found = _size(direction)
            limit = jnp.where(first, found, growth * size)
            direction *= jnp.minimum(1, limit / (found + _TINY))
            return direction, rows, columns, _size(direction)

        outer = jax.tree.structure(updates)
        found = jax.tree.map(of_leaf, updates, *state)
        inner = jax.tree.structure((0, 0, 0, 0))
        direction, *new = jax.tree.transpose(outer, inner, found)
        return direction, ScalesState(*new)

    return optax.GradientTransformation(init, update)


def _mean_square(weights: jax.Array, squares: jax.Array, axis: int) -> jax.Array:
    norm = jnp.sum(weights**2, axis, keepdims=True)
    return jnp.sum(weights * squares, axis, keepdims=True) / (norm + _TINY)


def _size(x: jax.Array) -> jax.Array:
    """The root mean square of each matrix."""
    return jnp.sqrt(jnp.mean(x**2, (-2, -1), keepdims=True))


class VarianceState(NamedTuple):
    """Steps so far, and the moving average of mean squares along the shorter side."""

    steps: jax.Array
    variance: optax.Params


def scale_by_side_variance(decay: float = 0.95) -> optax.GradientTransformation:
    """NorMuon's last step: O / sqrt(v), v being the mean squares of the longer side's vectors.

    v has a number for each vector of the longer side, where an orthogonalized matrix has vectors of
    different lengths. The Frobenius norm stays.
    """

    def short(x: jax.Array) -> int:
        return -1 if x.shape[-1] <= x.shape[-2] else -2

    def init(params: optax.Params) -> VarianceState:
        zeros = jax.tree.map(lambda w: jnp.zeros_like(jnp.sum(w, short(w), keepdims=True)), params)
        return VarianceState(jnp.zeros((), jnp.int32), zeros)

    def update(
        updates: optax.Updates, state: VarianceState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, VarianceState]:
        def average(x: jax.Array, v: jax.Array) -> jax.Array:
            return decay * v + (1 - decay) * jnp.mean(x**2, short(x), keepdims=True)

        def scaled(x: jax.Array, v: jax.Array) -> jax.Array:
            result = x / (jnp.sqrt(v / (1 - decay**steps)) + _TINY)
            return result * _size(x) / (_size(result) + _TINY)

        steps = state.steps + 1
        variance = jax.tree.map(average, updates, state.variance)
        return jax.tree.map(scaled, updates, variance), VarianceState(steps, variance)

    return optax.GradientTransformation(init, update)


def joint_rows_and_spectral(
    spectral: optax.GradientTransformation, iterations: int = 1
) -> optax.GradientTransformation:
    """Aurora: U = polar(D G), D being scales of the longer side that give its vectors one length.

        D <- 1 / |G_i|;  `iterations` times:  D <- D sqrt(n / m) / |polar(D G)_i|

    Unlike an alternation of projections it iterates on the scales alone and keeps G.
    """

    def update(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        def polar(tree: optax.Updates) -> optax.Updates:
            return spectral.update(tree, spectral.init(tree))[0]

        def inverse_length(x: jax.Array) -> jax.Array:
            side = -1 if x.shape[-1] <= x.shape[-2] else -2
            return 1 / (jnp.sqrt(jnp.mean(x**2, side, keepdims=True)) + _TINY)

        def scaled(scales: optax.Params) -> optax.Updates:
            return jax.tree.map(jnp.multiply, scales, updates)

        scales = jax.tree.map(inverse_length, updates)
        for _ in range(iterations):
            lengths = jax.tree.map(inverse_length, polar(scaled(scales)))
            scales = jax.tree.map(jnp.multiply, scales, lengths)
        return polar(scaled(scales))

    return optax.stateless(update)
