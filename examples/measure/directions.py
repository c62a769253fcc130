"""Directions that the library does not have: moving scales, column variance, scales for two norms.

Leaves are stacks of kernels (layers, in, out); all formulas are symmetric in the two sides or say
which side they mean.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

_TINY = 1e-30

State = tuple[jax.Array, ...]
"""What a direction keeps of one leaf."""


def _leaf_by_leaf(
    start: Callable[[jax.Array], State],
    step: Callable[[jax.Array, State], tuple[jax.Array, State]],
) -> optax.GradientTransformation:
    """From a leaf to its first state, and from its gradient and state to direction and state."""

    def init(params: optax.Params) -> list[State]:
        return [start(leaf) for leaf in jax.tree.leaves(params)]

    def update(
        updates: optax.Updates, state: list[State], params: optax.Params | None = None
    ) -> tuple[optax.Updates, list[State]]:
        leaves, tree = jax.tree.flatten(updates)
        found = [step(*each) for each in zip(leaves, state, strict=True)]
        directions = jax.tree.unflatten(tree, [direction for direction, _ in found])
        return directions, [new for _, new in found]

    return optax.GradientTransformation(init, update)


def moving_scales(decay: float = 0.9, growth: float = 1.01) -> optax.GradientTransformation:
    """RACS (arXiv 2502.07752): G / sqrt(q s), q and s being moving averages of the scales.

        s_j = sum_i q_i G_ij^2 / |q|^2,  q_i = sum_j s_j G_ij^2 / |s|^2,  five times from q = 1

    The Frobenius norm grows by at most a factor `growth` a step.
    """

    def start(w: jax.Array) -> State:
        """The averages, and the last direction's size."""
        rows, columns = (jnp.zeros_like(jnp.sum(w, axis, keepdims=True)) for axis in (-1, -2))
        return rows, columns, _size(rows)

    def step(g: jax.Array, state: State) -> tuple[jax.Array, State]:
        rows, columns, size = state
        q = jnp.ones_like(rows)
        for _ in range(5):
            s = _mean_square(q, g, -2)
            q = _mean_square(s, g, -1)
        first = size == 0
        rows = jnp.where(first, q, decay * rows + (1 - decay) * q)
        columns = jnp.where(first, s, decay * columns + (1 - decay) * s)
        direction = g / (jnp.sqrt(rows * columns) + _TINY)
        found = _size(direction)
        limit = jnp.where(first, found, growth * size)
        direction *= jnp.minimum(1, limit / (found + _TINY))
        return direction, (rows, columns, _size(direction))

    return _leaf_by_leaf(start, step)


def _mean_square(weights: jax.Array, g: jax.Array, axis: int) -> jax.Array:
    norm = jnp.sum(weights**2, axis, keepdims=True)
    return jnp.sum(weights * g**2, axis, keepdims=True) / (norm + _TINY)


def _size(x: jax.Array) -> jax.Array:
    """The root mean square of each matrix."""
    return jnp.sqrt(jnp.mean(x**2, (-2, -1), keepdims=True))


def _short_mean_square(x: jax.Array) -> jax.Array:
    """The mean square of each vector of the longer side, along the shorter one."""
    return jnp.mean(x**2, -1 if x.shape[-1] <= x.shape[-2] else -2, keepdims=True)


def scale_by_side_variance(decay: float = 0.95) -> optax.GradientTransformation:
    """NorMuon's last step: O / sqrt(v), v being the mean squares of the longer side's vectors.

    v is a moving average, with a number for each vector of the longer side, where an orthogonalized
    matrix has vectors of different lengths. The Frobenius norm stays.
    """

    def start(w: jax.Array) -> State:
        return jnp.int32(0), jnp.zeros_like(_short_mean_square(w))

    def step(x: jax.Array, state: State) -> tuple[jax.Array, State]:
        steps, variance = state
        steps, variance = steps + 1, decay * variance + (1 - decay) * _short_mean_square(x)
        result = x / (jnp.sqrt(variance / (1 - decay**steps)) + _TINY)
        return result * _size(x) / (_size(result) + _TINY), (steps, variance)

    return _leaf_by_leaf(start, step)


def joint_rows_and_spectral(
    spectral: optax.GradientTransformation, iterations: int = 1
) -> optax.GradientTransformation:
    """Aurora: U = polar(D G), D being scales of the longer side that give its vectors one length.

        D <- 1 / |G_i|;  `iterations` times:  D <- D sqrt(n / m) / |polar(D G)_i|

    Unlike an alternation of projections it iterates on the scales alone and keeps G.
    """

    def update(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        def polar(scales: optax.Params) -> optax.Updates:
            scaled = jax.tree.map(jnp.multiply, scales, updates)
            return spectral.update(scaled, spectral.init(scaled))[0]

        def inverse_length(x: jax.Array) -> jax.Array:
            return 1 / (jnp.sqrt(_short_mean_square(x)) + _TINY)

        scales = jax.tree.map(inverse_length, updates)
        for _ in range(iterations):
            lengths = jax.tree.map(inverse_length, polar(scales))
            scales = jax.tree.map(jnp.multiply, scales, lengths)
        return polar(scales)

    return optax.stateless(update)
