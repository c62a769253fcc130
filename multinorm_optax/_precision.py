"""Floating-point care: one upcast, exact power-of-two scaling, no epsilon.

Squares of a gradient under- or overflow float32 long before the gradient does. Scaling by a power
of two near the largest magnitude first is exact, so that results are bitwise invariant to the
gradient's scale and no epsilon is needed in any denominator.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def compute_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype of the computation: float32 for the half precisions, else the dtype itself."""
    return jnp.promote_types(dtype, jnp.float32)


def abs_sq(x: jax.Array) -> jax.Array:
    """|x|^2, real also for complex x."""
    return jnp.real(x * jnp.conj(x)) if jnp.iscomplexobj(x) else x * x


def peak(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """max |x| over the axes (kept with size one); 0 for an empty array.

    Fit for choosing a scale only: XLA's maximum on CPU may pass over a NaN.
    """
    return jnp.max(jnp.abs(x), axis=tuple(axes), keepdims=True, initial=0)


_CHUNK = 64
_LONG_ROW = 8192


def sum_of_squares(x: jax.Array, scales: Sequence[Any], axes: Sequence[int]) -> jax.Array:
    """The sum of |x * scales[0] * ...|^2 over the axes (kept with size one).

    Each scale has, along every axis, size one or that of x. What lies in memory as long rows that
    are to be added up is added in chunks of rows: XLA on CPU would leave its cache with every row.
    """
    axis = axes[0] if len(axes) == 1 else -1
    chunked = (
        0 <= axis < x.ndim - 1
        and math.prod(x.shape[axis + 1 :]) >= _LONG_ROW
        and x.shape[axis] > _CHUNK
        and x.shape[axis] % _CHUNK == 0
        and not any(jax.typeof(x).sharding.spec)
    )
    if not chunked:
        return jnp.sum(abs_sq(math.prod(scales, start=x)), axis=tuple(axes), keepdims=True)

    def split(each: Any) -> Any:
        if jnp.ndim(each) == 0:
            return each
        chunk = _CHUNK if each.shape[axis] > 1 else 1
        return each.reshape(*each.shape[:axis], -1, chunk, *each.shape[axis + 1 :])

    # Barriers keep XLA from moving the split behind the squares, which it would write to memory.
    scales = jax.lax.optimization_barrier(tuple(map(split, scales)))
    squares = abs_sq(math.prod(scales, start=split(x)))
    partial = jax.lax.optimization_barrier(jnp.sum(squares, axis=axis + 1))
    return jnp.sum(partial, axis=axis, keepdims=True)


def largest(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """max |x| over the axes (kept with size one); 0 for an empty array, NaN if there is a NaN."""
    invalid = jnp.any(jnp.isnan(x), axis=tuple(axes), keepdims=True)
    return jnp.where(invalid, jnp.nan, peak(x, axes))


def any_nonzero(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """Whether an entry along the axes (kept with size one) is not zero; a NaN need not count.

    From the extremes: XLA on CPU would write the mask `x != 0` to memory.
    """
    if jnp.iscomplexobj(x):
        return peak(x, axes) > 0
    high = jnp.max(x, axis=tuple(axes), keepdims=True, initial=0)
    low = jnp.min(x, axis=tuple(axes), keepdims=True, initial=0)
    return (high > 0) | (low < 0)


def inverse_power_of_two(magnitude: jax.Array) -> jax.Array:
    """A power of two s with s * magnitude in [1/2, 1), as far as the exponent range allows.

    One for zero, NaN and infinity, so that these reach the result. No gradient flows through it:
    what it scales is scale invariant.
    """
    magnitude = jax.lax.stop_gradient(magnitude)
    usable = jnp.isfinite(magnitude) & (magnitude > 0)
    _, exponent = jnp.frexp(jnp.where(usable, magnitude, 1))
    limit = -jnp.finfo(magnitude.dtype).minexp
    scale = jnp.ldexp(jnp.ones_like(magnitude), -jnp.clip(exponent, -limit, limit))
    return jnp.where(usable, scale, 1)


def inverse_or_one(x: jax.Array) -> jax.Array:
    """1/x, and 1 where x is zero; its derivative is finite there too."""
    return jnp.where(x == 0, 1, 1 / jnp.where(x == 0, 1, x))


def sqrt_or_zero(x: jax.Array) -> jax.Array:
    """The square root, with a zero instead of an infinite derivative at zero."""
    return jnp.where(x == 0, 0, jnp.sqrt(jnp.where(x == 0, 1, x)))
