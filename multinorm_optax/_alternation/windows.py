"""Sums of squares over the whole range of a dtype, in one pass over the entries.

Squares of a gradient leave float32's range long before the gradient does. As in Blue's algorithm
(ACM TOMS 1978), they are summed at several powers of two, and each group takes a sum that lost
nothing. So results are bitwise invariant to the gradient's scale, and need no epsilon.
"""

import functools
import math
import operator

import jax
import jax.numpy as jnp

from multinorm_optax._norms.precision import abs_sq, compute_dtype

Factors = tuple[jax.Array, ...]
"""A weight in any dtype, and scales that broadcast against it; their product is the matrix."""


def product(factors: Factors) -> jax.Array:
    """The matrix, in at least float32; the first scale brings every group to order one."""
    weight, *scales = factors
    x = weight.astype(compute_dtype(weight.dtype))
    if scales:
        x = x * scales[0]
    return x * functools.reduce(operator.mul, scales[1:]) if scales[1:] else x


def sum_of_squares(factors: Factors, group: tuple[int, ...], power: float = 1.0) -> jax.Array:
    """The sum of |x|^2 over each group, kept; a power of two is also the last factor."""
    if _is_tall_and_long(factors, group):
        return _sum_by_chunks(factors, group[0], power)
    return jnp.sum(_squares(factors, power), axis=group, keepdims=True)


def _squares(factors: Factors, power: float) -> jax.Array:
    x = product(factors)
    if power != 1:
        # XLA may take (x power)^2 for x^2 power^2, which leaves the range. A second summand, too
        # small to change the sum, keeps it from that.
        x = x + (product(factors[:-1]) if power > 1 else x * factors[-1])
    return abs_sq(x)


_CHUNK, _LONG = 64, 8192


def _is_tall_and_long(factors: Factors, group: tuple[int, ...]) -> bool:
    """Whether rows that are long in memory are summed up; without a scale XLA undoes the split."""
    weight, *scales = factors
    if not scales or len(group) != 1 or any(jax.typeof(weight).sharding.spec):
        return False
    rows, row = weight.shape[group[0]], math.prod(weight.shape[group[0] + 1 :])
    return row > _LONG and rows > _CHUNK and rows % _CHUNK == 0


def _sum_by_chunks(factors: Factors, axis: int, power: float) -> jax.Array:
    """The sum of squares in chunks of rows: each row of a sum leaves a CPU's cache.

    The barriers keep conversion and squares behind the split, or XLA would write them to memory.
    """

    def split(each: jax.Array) -> jax.Array:
        chunk = _CHUNK if each.shape[axis] > 1 else 1
        return each.reshape(*each.shape[:axis], -1, chunk, *each.shape[axis + 1 :])

    weight, *scales = map(split, factors)
    scales = jax.lax.optimization_barrier(scales)
    partial = jnp.sum(_squares((weight, *scales), power), axis=axis + 1)
    return jnp.sum(jax.lax.optimization_barrier(partial), axis=axis, keepdims=True)


def inverse_rms(factors: Factors, group: tuple[int, ...], size: int | jax.Array) -> jax.Array:
    """1 / sqrt(sum of squares / size) of each group within the dtype's normal range, 0 for zeros.

    With a scale among the factors the entries are taken to be at most of order one.
    """
    total, window = _windowed(factors, group)
    dead, limits = total == 0, jnp.finfo(total.dtype)
    scale = window * jnp.sqrt(size / (total + dead))
    scale = jax.lax.clamp(limits.tiny, scale, limits.max)
    return jax.lax.select(dead, jnp.zeros_like(scale), scale)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _windowed(factors: Factors, group: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The sum of |s x|^2 and the power of two s, for each group one that loses nothing."""
    weight, *scales = factors
    exponent = int(jnp.finfo(compute_dtype(weight.dtype)).maxexp)
    power, low, high = (2.0 ** (share * exponent // 64) for share in (40, -35, 50))
    plain = sum_of_squares(factors, group)
    total, window, choices = plain, jnp.ones_like(plain), [(plain < low, power)]
    if not scales:
        choices.append((plain >= high, 1 / power))
    for outside, factor in choices:
        # The barrier keeps XLA from computing once what the sums have in common, and writing it
        # to an array of the weight's size.
        constant = jnp.full_like(plain, factor)
        scaled = jax.lax.optimization_barrier((*scales, constant))
        found = sum_of_squares((weight, *scaled), group, factor)
        if plain.size in (1, weight.size):
            # XLA may fold the square of a single entry to 0 * infinity if the weight is a constant
            # zero, as the gradient of an unused parameter is.
            found = jnp.where((found != found) & (plain == 0), 0, found)
        total = jax.lax.select(outside, found, total)
        window = jax.lax.select(outside, constant, window)
    return total, window


@_windowed.defjvp
def _(group, primals, tangents):  # type: ignore[no-untyped-def]
    # The sums that were not chosen may have overflowed: only the chosen one is differentiated.
    (factors,), (tangent,) = primals, tangents
    total, window = _windowed(factors, group)

    def chosen(factors: Factors) -> jax.Array:
        return sum_of_squares((*factors, window), group)

    return (total, window), (jax.jvp(chosen, (factors,), (tangent,))[1], jnp.zeros_like(window))
