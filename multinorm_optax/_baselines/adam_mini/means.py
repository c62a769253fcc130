"""The mean square of each block of a gradient, and the inverse map from blocks to entries.

Axes that every block spans are reduced first, without a reshape: devices exchange only vectors.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

from multinorm_optax._baselines.adam_mini.blocks import Blocks
from multinorm_optax._matrices.axes import Shape
from multinorm_optax._matrices.fused import Fused, as_far_as_divisible, map_spec, specs_of
from multinorm_optax._matrices.stacks import left_to_xla
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
    fused = isinstance(blocks, Fused)
    axis = blocks.axis if isinstance(blocks, Fused) else 0
    shapes = blocks.shapes(squares.shape) if isinstance(blocks, Fused) else [squares.shape]
    moment_shapes = specs_of(map_spec(Blocks.moment_shape, blocks, squares.shape))
    *ends, _ = itertools.accumulate(shape[axis] for shape in shapes)

    def split(squares: jax.Array) -> Moments:
        pieces = jnp.split(squares, ends, axis)
        moments = tuple(map(_mean_of_runs, pieces, moment_shapes))
        return moments if fused else moments[0]

    def join(moments: Moments) -> jax.Array:
        return jnp.concatenate(list(map(_repeat, jax.tree.leaves(moments), shapes)), axis)

    sharding = jax.typeof(squares).sharding
    if any(sharding.spec):
        shardings = tuple(as_far_as_divisible(sharding, shape) for shape in moment_shapes)
        split = left_to_xla(split, shardings if fused else shardings[0])
        join = left_to_xla(join, sharding)
    return split(squares), join


def common_axes(blocks: Blocks | Fused) -> tuple[int, ...]:
    """The axes along which all entries share a second moment, in all parts."""
    common = set.intersection(*(set(part.whole) for part in specs_of(blocks)))
    return tuple(sorted(common - {blocks.axis} if isinstance(blocks, Fused) else common))


def _mean(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """The mean over axes, which keep size one; 0 for an empty array."""
    count = math.prod(x.shape[axis] for axis in axes)
    return jnp.sum(x, axis=tuple(axes), keepdims=True) / max(1, count)


def _mean_of_runs(x: jax.Array, shape: Shape) -> jax.Array:
    runs = (n for new, old in zip(shape, x.shape, strict=True) for n in (new, old // max(1, new)))
    split = jnp.reshape(x, tuple(runs))
    return jnp.reshape(_mean(split, range(1, split.ndim, 2)), shape)


def _repeat(x: jax.Array, shape: Shape) -> jax.Array:
    for axis, size in enumerate(shape):
        x = jnp.repeat(x, size // max(1, x.shape[axis]), axis)
    return x
