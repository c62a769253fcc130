"""Floating-point care: one upcast, exact power-of-two scaling, no epsilon."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def compute_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype of computations: float32 for narrower formats, otherwise the dtype itself."""
    wide = jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits >= 32
    return jnp.dtype(dtype if wide else jnp.float32)


def abs_sq(x: jax.Array) -> jax.Array:
    """|x|^2, real also for complex x."""
    return jnp.real(x * jnp.conj(x)) if jnp.iscomplexobj(x) else x * x


def peak(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """max |x| over the axes (kept); 0 for an empty array. XLA on CPU may ignore a NaN."""
    return jnp.max(jnp.abs(x), axis=tuple(axes), keepdims=True, initial=0)


def largest(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """max |x| over the axes (kept); 0 for an empty array, NaN if there is a NaN."""
    invalid = jnp.any(jnp.isnan(x), axis=tuple(axes), keepdims=True)
    return jnp.where(invalid, jnp.nan, peak(x, axes))


def any_nonzero(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """Whether an entry along the axes (kept) is not zero, by the extremes; a NaN may not count."""
    # the peak alone would have XLA keep a copy of bfloat16 weights where sweeps have a tolerance
    if jnp.iscomplexobj(x):
        return peak(x, axes) > 0
    high = jnp.max(x, axis=tuple(axes), keepdims=True, initial=0)
    low = jnp.min(x, axis=tuple(axes), keepdims=True, initial=0)
    return (high > 0) | (low < 0)


def unit_scale(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """A power of two s with s max |x| in [3/8, 3/4], as far as the exponent range allows.

    It is 1 for zero, NaN and infinity, so that these reach the result. No gradient flows through
    it, because results do not depend on the scale.
    """
    magnitude = jax.lax.stop_gradient(peak(x, axes))
    usable = jnp.isfinite(magnitude) & (magnitude > 0)
    limits = jnp.finfo(magnitude.dtype)
    nearest = jax.lax.reduce_precision(jnp.where(usable, magnitude, 1), limits.nexp, 0)
    scale = jnp.clip(0.5 / nearest, limits.tiny, 1 / limits.tiny)
    return jnp.where(usable, scale, 1)


def inverse_or_one(x: jax.Array) -> jax.Array:
    """1/x, or 1 with a finite derivative where x is zero."""
    return jnp.where(x == 0, 1, 1 / jnp.where(x == 0, 1, x))


def sqrt_or_zero(x: jax.Array) -> jax.Array:
    """The square root, with derivative zero at zero."""
    return jnp.where(x == 0, 0, jnp.sqrt(jnp.where(x == 0, 1, x)))
