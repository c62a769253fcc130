"""The mean square of each block of a gradient, and the inverse map from blocks to entries.

Axes that every block spans are reduced first, without a reshape: devices exchange only vectors.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from multinorm_optax._baselines.adam_mini.blocks import Blocks
from multinorm_optax._matrices.fused import Fused, as_far_as_divisible, specs_of, split_fused
from multinorm_optax._matrices.stacks import explicit_sharding, left_to_xla
from multinorm_optax._norms.precision import abs_sq, compute_dtype

Moments: TypeAlias = jax.Array | tuple[jax.Array, ...]  # one per part of `Fused`


def mean_squares(
    g: jax.Array, blocks: Blocks | Fused
) -> tuple[Moments, Callable[[Moments], jax.Array]]:
    """The mean of |g|^2 over each resolved block, and a function from blocks to entries.

    The result of the function broadcasts to the weight. With Explicit mesh axes the means have the
    weight's sharding, except along axes whose size the number of devices does not divide.
    """
    squares = _mean(abs_sq(g.astype(compute_dtype(g.dtype))), common_axes(blocks))
    if isinstance(blocks, Blocks) and not blocks.groups:
        return squares, lambda moments: moments
    parts, of_parts, join = split_fused(squares, [blocks])
    structure: Any = jax.tree.structure(parts)
    means = jax.tree.map(_mean_of_runs, parts, structure.unflatten(of_parts))
    return means, lambda moments: join(jax.tree.map(_repeated, moments, parts))


def common_axes(blocks: Blocks | Fused) -> tuple[int, ...]:
    """The axes along which all entries share a second moment, in all parts."""
    common = set.intersection(*(set(part.whole) for part in specs_of(blocks)))
    return tuple(sorted(common - {blocks.axis} if isinstance(blocks, Fused) else common))


def _mean(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """The mean over axes, which keep size one; 0 for an empty array."""
    count = math.prod(x.shape[axis] for axis in axes)
    return jnp.sum(x, axis=tuple(axes), keepdims=True) / max(1, count)


def _mean_of_runs(x: jax.Array, blocks: Blocks) -> jax.Array:
    shape = blocks.moment_shape(x.shape)
    runs = [n for new, old in zip(shape, x.shape, strict=True) for n in (new, old // max(1, new))]

    def mean(x: jax.Array) -> jax.Array:
        return jnp.reshape(_mean(jnp.reshape(x, runs), range(1, len(runs), 2)), shape)

    return left_to_xla(mean, as_far_as_divisible(explicit_sharding(x), shape))(x)


def _repeated(x: jax.Array, like: jax.Array) -> jax.Array:
    def repeat(x: jax.Array) -> jax.Array:
        for axis, size in enumerate(like.shape):
            x = jnp.repeat(x, size // max(1, x.shape[axis]), axis)
        return x

    return left_to_xla(repeat, explicit_sharding(like))(x)
