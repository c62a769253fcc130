"""Sums of squares over the whole range of a dtype.

Squares of a gradient leave float32's range long before the gradient does. As in Blue's algorithm
(ACM TOMS 1978), they are summed at several powers of two, and each group takes a sum that lost
nothing. So results are bitwise invariant to the gradient's scale, and need no epsilon.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from multinorm_optax._matrices.stacks import explicit_sharding
from multinorm_optax._norms.base import Count
from multinorm_optax._norms.precision import abs_sq, compute_dtype

Factors = tuple[jax.Array, ...]
"""A weight in any dtype, and scales that broadcast against it; their product is the matrix."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of a fused weight as runs of equal blocks along an extra axis.

    Attributes:
      axis: the axis of the blocks; the next axis is inside a block.
      blocks: the number of blocks of each part.
    """

    axis: int
    blocks: tuple[int, ...]

    def reduce(self, function: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
        """Reduce over the blocks of each part, and repeat the result for all blocks of the part."""
        *ends, _ = itertools.accumulate(self.blocks)
        return jnp.concatenate(
            [
                jnp.broadcast_to(function(part, axis=self.axis, keepdims=True), part.shape)
                for part in jnp.split(x, ends, self.axis)
            ],
            self.axis,
        )


class Group(NamedTuple):
    """The axes that span a group of entries, which may extend over the blocks of a part."""

    axes: tuple[int, ...]
    parts: Parts | None = None

    def sum(self, x: jax.Array) -> jax.Array:
        """The sum over each group; its axes keep size one."""
        return self.extend(jnp.sum(x, axis=self.axes, keepdims=True))

    def extend(self, total: jax.Array, function: Callable[..., jax.Array] = jnp.sum) -> jax.Array:
        """The sum, or another function, over each group from those over `axes`."""
        if self.parts is None or self.parts.axis + 1 not in self.axes:
            return total
        return self.parts.reduce(function, total)


def product(factors: Factors) -> jax.Array:
    """The matrix, in at least float32; the first scale brings every group to order one."""
    weight, *scales = factors
    return math.prod(scales, start=weight.astype(compute_dtype(weight.dtype)))


def sum_of_squares(factors: Factors, group: Group) -> jax.Array:
    """The sum of |x|^2 over each group (axes keep size one)."""
    if _is_tall_and_long(factors, group.axes):
        return group.extend(_sum_by_chunks(factors, group.axes[0]))
    return group.sum(abs_sq(product(factors)))


_CHUNK, _LONG = 64, 8192


def _is_tall_and_long(factors: Factors, axes: tuple[int, ...]) -> bool:
    """Whether a CPU sums over rows that are long in memory."""
    weight = factors[0]
    on_cpu = jax.default_backend() == "cpu"
    if not on_cpu or len(axes) != 1 or explicit_sharding(weight):
        return False
    rows, row = weight.shape[axes[0]], math.prod(weight.shape[axes[0] + 1 :])
    return row > _LONG and rows > _CHUNK and rows % _CHUNK == 0


def _sum_by_chunks(factors: Factors, axis: int) -> jax.Array:
    """The sum of squares along an axis, in chunks of rows, whose sums stay in a CPU's cache.

    The barriers keep conversion and squares after the split; XLA would write them to memory.
    """

    def split(each: jax.Array) -> jax.Array:
        chunk = _CHUNK if each.shape[axis] > 1 else 1
        return each.reshape(*each.shape[:axis], -1, chunk, *each.shape[axis + 1 :])

    factors = jax.lax.optimization_barrier(tuple(map(split, factors)))
    partial = jnp.sum(abs_sq(product(factors)), axis=axis + 1)
    return jnp.sum(jax.lax.optimization_barrier(partial), axis=axis, keepdims=True)


def clamped(scale: jax.Array, dead: jax.Array) -> jax.Array:
    """The scale within the dtype's normal range; 0 for a group of zeros."""
    limits = jnp.finfo(scale.dtype)
    scale = jax.lax.clamp(limits.tiny, scale, limits.max)
    return jax.lax.select(dead, jnp.zeros_like(scale), scale)


def is_normal(scale: jax.Array) -> jax.Array:
    """Whether a scale is inside the dtype's normal range."""
    limits = jnp.finfo(scale.dtype)
    return (scale > limits.tiny) & (scale < limits.max)


def is_near(scale: jax.Array, first: jax.Array) -> jax.Array:
    """Whether a scale is, in float32, within a factor of 2^100 of the first one."""
    bound = scale.dtype.type(2.0 ** (25 * int(jnp.finfo(scale.dtype).maxexp) // 32))
    ratio = scale / first
    return jax.lax.clamp(1 / bound, ratio, bound) == ratio


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def inverse_rms(factors: Factors, group: Group, size: Count) -> jax.Array:
    """1 / sqrt(sum of squares / size) of each group within the dtype's normal range, 0 for zeros.

    With a scale among the factors the entries are taken to be at most of order one.
    """
    total, window = _windowed(factors, group)
    dead = total == 0
    return clamped(window * jnp.sqrt(size / (total + dead.astype(total.dtype))), dead)


@inverse_rms.defjvp
def _(group, primals, tangents):  # type: ignore[no-untyped-def]
    # With x of unit root mean square, as the scale makes it, nothing leaves the range.
    (factors, size), (change, _) = primals, tangents
    scale = inverse_rms(factors, group, size)
    x, dx = jax.jvp(lambda factors: product((*factors, scale)), (factors,), (change,))
    inner = group.sum(jnp.real(jnp.conj(x) * dx))
    return scale, -scale * inner / size


def _windowed(factors: Factors, group: Group) -> tuple[jax.Array, jax.Array | float]:
    """The sum of |s x|^2, and the power of two s with which each group's sum loses nothing."""
    weight, *scales = factors
    exponent = int(jnp.finfo(compute_dtype(weight.dtype)).maxexp)
    if scales:
        # The mean of |x|^2 is one at most, or 16 where the first scale was clamped to a normal
        # number, so that one power of two fits every group.
        power = 2.0 ** ((exponent - 6 - weight.size.bit_length()) // 2)
        return sum_of_squares((*factors, _known_at_run_time(power, scales[-1])), group), power
    # At the first one the square of every normal number is normal, and its own square is finite.
    up, down = 2.0 ** (exponent // 2 - 1), 2.0 ** -(35 * exponent // 64)
    low, high = down, 2.0 ** (25 * exponent // 32)
    plain = sum_of_squares(factors, group)
    choices = [(plain < low, up), (plain >= high, down)]
    window = jnp.ones_like(plain)
    for outside, power in choices:
        window = jax.lax.select(outside, jnp.full_like(plain, power), window)
    if jax.default_backend() == "cpu":
        # The barrier keeps XLA from sharing subexpressions between both sums.
        return sum_of_squares(jax.lax.optimization_barrier((weight, window)), group), window
    # An accelerator sums at every power at once: no sum needs another, so that XLA's GPU compiler
    # joins all three along contiguous entries, and two along others.
    total = plain
    for outside, power in choices:
        x = product(factors)
        y = x * power
        # XLA may replace (x power)^2 by x^2 power^2. A second summand, too small to change the sum,
        # prevents this.
        y = y + (x if power > 1 else y * power)
        total = jax.lax.select(outside, group.sum(abs_sq(y)), total)
    return total, window


def _known_at_run_time(power: float, scale: jax.Array) -> jax.Array:
    """The power where the scale is not zero; XLA would replace (x power)^2 by x^2 power^2."""
    return jax.lax.select(scale == 0, jnp.zeros_like(scale), jnp.full_like(scale, power))
