"""Means over the blocks of a weight, and the way back to its entries.

Along axes that a block spans as a whole, the mean is taken over the weight as it lies: devices that
share it send one another sums of vectors. Only the result, smaller by these axes, is split into
runs of entries and into the parts of a fused weight.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from multinorm_optax._baselines.adam_mini.blocks import Blocks, FusedBlocks
from multinorm_optax._matrices.axes import Shape
from multinorm_optax._matrices.stacks import left_to_xla
from multinorm_optax._norms.precision import abs_sq, compute_dtype

Moments = tuple[jax.Array, ...]
"""One number per block of each part of a weight."""


def mean_squares(
    g: jax.Array, blocks: Blocks | FusedBlocks
) -> tuple[Moments, Callable[[Moments], jax.Array]]:
    """The mean of |g|^2 over each block, part by part, and the way back to the entries.

    Computed in at least float32. What comes back has size one along axes that every block spans,
    and broadcasts to the weight. With Explicit mesh axes the means stay spread over the devices
    that the weight is spread over, as far as their number divides.

    Args:
      g: the weight's gradient.
      blocks: resolved.
    """
    squares = _mean(abs_sq(g.astype(compute_dtype(g.dtype))), blocks.whole)
    if isinstance(blocks, Blocks) and not blocks.groups:
        return (squares,), lambda moments: moments[0]
    shape = squares.shape
    axis, parts = (
        (blocks.axis, blocks.parts)
        if isinstance(blocks, FusedBlocks)
        else (0, ((shape[0], blocks),))
    )
    ends = list(itertools.accumulate(size for size, _ in parts))
    part_shapes = [(*shape[:axis], size, *shape[axis + 1 :]) for size, _ in parts]
    runs = [_runs(each, part) for (_, each), part in zip(parts, part_shapes, strict=True)]

    def split(squares: jax.Array) -> Moments:
        pieces = jnp.split(squares, ends[:-1], axis)
        return tuple(map(_mean_of_runs, pieces, runs))

    def join(*moments: jax.Array) -> jax.Array:
        return jnp.concatenate(list(map(_repeat, moments, runs)), axis)

    sharding = jax.typeof(squares).sharding
    if any(sharding.spec):
        shardings = tuple(
            _as_far_as_divisible(sharding, [n // run for n, run in zip(part, each, strict=True)])
            for part, each in zip(part_shapes, runs, strict=True)
        )
        split, join = left_to_xla(split, shardings), left_to_xla(join, sharding)
    return split(squares), lambda moments: join(*moments)


def _mean(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """The mean over axes that are kept with size one; 0 of an empty array."""
    return jnp.sum(x, axis=tuple(axes), keepdims=True) / max(
        1, math.prod(x.shape[axis] for axis in axes)
    )


def _runs(blocks: Blocks, shape: Shape) -> tuple[int, ...]:
    """How many consecutive entries along each axis share a second moment."""
    lengths = dict(blocks.groups) | {axis: max(1, shape[axis]) for axis in blocks.whole}
    return tuple(lengths.get(axis, 1) for axis in range(len(shape)))


def _mean_of_runs(x: jax.Array, runs: Sequence[int]) -> jax.Array:
    split = [n for size, run in zip(x.shape, runs, strict=True) for n in (size // run, run)]
    return jnp.reshape(_mean(jnp.reshape(x, split), range(1, len(split), 2)), split[::2])


def _repeat(moments: jax.Array, runs: Sequence[int]) -> jax.Array:
    """The inverse: every entry of a run has the run's number."""
    split = [n for size, run in zip(moments.shape, runs, strict=True) for n in (size, run)]
    apart = jnp.expand_dims(moments, range(1, len(split), 2))
    whole = [size * run for size, run in zip(moments.shape, runs, strict=True)]
    return jnp.reshape(jnp.broadcast_to(apart, split), whole)


def _as_far_as_divisible(sharding: NamedSharding, shape: Sequence[int]) -> NamedSharding:
    """The sharding without the axes whose size is no multiple of the number of devices there."""

    def kept(size: int, names: Any) -> Any:
        several = (names,) if isinstance(names, str) else names or ()
        return names if size % math.prod(sharding.mesh.shape[n] for n in several) == 0 else None

    return NamedSharding(sharding.mesh, P(*map(kept, shape, sharding.spec)))
