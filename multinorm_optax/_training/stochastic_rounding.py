"""Stochastic rounding, by which small updates move weights in bfloat16."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from multinorm_optax._matrices.axes import describe

_FORMATS = ("bfloat16", "float16", "float8_e5m2", "float8_e4m3fn", "float8_e4m3", "float8_e3m4")
"""Narrow formats with a sign bit, in which the next bit pattern is the next number."""


def apply_updates_stochastically(
    params: optax.Params, updates: optax.Updates, key: jax.Array
) -> optax.Params:
    """Apply updates as optax does, with stochastic rounding of weights narrower than float32.

    Rounding to nearest always loses an update below 2^-9 of a bfloat16 weight; rounding to a random
    neighbor is right on average (Gupta et al., arXiv 1502.02551, Section 3; for training in
    bfloat16 Zamirai et al., arXiv 2010.06192).

    For a narrow weight, x = p + u is computed in float32. Of the two neighbors a <= x <= b in its
    dtype, the result is b with probability (x - a) / (b - a), else a. The errors of n steps add up
    to at most about (b - a) sqrt(n) / 2. If x is representable, infinite, NaN or beyond the largest
    number, the result is that of a cast. A CPU may take sums below 1.2e-38, float32's smallest
    normal number, for zero. `optax.apply_updates` handles all other leaves.

    Updates may have any dtype. But an optimizer that adds small numbers to large ones in bfloat16
    loses them: moving averages stop. Then use `optax.tree.cast` to float32, on gradients before
    `update` and on parameters before `init`.

    On a CPU the random bits of a leaf take up to 16 bytes of temporary memory per weight with JAX's
    default keys, and none with `jax.random.key(seed, impl="rbg")`.

    Args:
      params: the weights; bfloat16, float16 and float8 (e5m2, e4m3fn, e4m3, e3m4) are rounded.
      updates: a tree of the same structure and shapes.
      key: a key of `jax.random` for this step, such as `jax.random.fold_in(key, step)`. With JAX's
        default keys the result does not depend on the sharding of the weights. Under `jax.vmap` and
        `jax.shard_map` give every instance its own key.

    Returns:
      The new weights, in the dtypes of the old ones. Other narrow formats raise a TypeError.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from multinorm_optax import apply_updates_stochastically, sinkgd
      >>> params = {"kernel": jnp.ones((256, 1024), jnp.bfloat16)}
      >>> gradient = {"kernel": jax.random.normal(jax.random.key(0), (256, 1024), jnp.bfloat16)}
      >>> tx = sinkgd(0.004)                                      # a step of 2e-4 for each weight
      >>> updates, state = jax.jit(tx.update)(gradient, tx.init(params), params)
      >>> bool(jnp.all(optax.apply_updates(params, updates)["kernel"] == 1))          # lost
      True
      >>> new = apply_updates_stochastically(params, updates, jax.random.key(1))
      >>> [float(w) for w in jnp.unique(new["kernel"])]                               # neighbors
      [0.99609375, 1.0, 1.0078125]
    """
    places = itertools.count()

    def moved(path: tuple[Any, ...], p: jax.Array, u: jax.Array) -> jax.Array | None:
        place = next(places)
        dtype = None if p is None else jnp.asarray(p).dtype
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating) or jnp.finfo(dtype).bits >= 32:
            return optax.apply_updates(p, u)
        if dtype.name not in _FORMATS:
            name = describe(jax.tree_util.keystr(path, simple=True, separator="/"), jnp.shape(p))
            raise TypeError(
                f"{name}: stochastic rounding to {dtype.name} is not supported; keep this weight in"
                f" one of {', '.join(_FORMATS)}, or in float32"
            )
        x = jnp.asarray(p).astype(jnp.float32) + jnp.asarray(u).astype(jnp.float32)
        return _rounded(x, dtype, jax.random.fold_in(key, place))

    return jax.tree_util.tree_map_with_path(
        moved, params, updates, is_leaf=lambda leaf: leaf is None
    )


@functools.partial(jax.jit, static_argnames="dtype")  # one program if the caller has no jit
def _rounded(x: jax.Array, dtype: jnp.dtype, key: jax.Array) -> jax.Array:
    """Round float32 numbers to one of their two neighbors in a format of `_FORMATS`.

    It uses integers, because XLA flushes small float32 numbers to zero on some machines. The
    significand, shifted to the format's precision, is the neighbor towards zero; the dropped bits
    are the probability of the other one, in units of 2^-32.
    """
    to = jnp.finfo(dtype)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    magnitude = bits & 0x7FFFFFFF
    exponent = jnp.maximum(magnitude >> 23, 1)
    significand = magnitude - ((exponent - 1) << 23)  # 24 bits with the leading one
    first = 127 + int(to.minexp)
    normal = jnp.maximum(exponent, first)  # the format's subnormals share their exponent
    dropped = 23 - int(to.nmant) + normal - exponent
    towards_zero = (significand >> jnp.minimum(dropped, 31)) + ((normal - first) << int(to.nmant))
    chance = jnp.where(
        dropped <= 32,
        significand << (32 - jnp.minimum(dropped, 32)),
        significand >> jnp.minimum(jnp.maximum(dropped, 32) - 32, 31),
    )
    # On a mesh without Explicit axes XLA chooses the sharding of the bits.
    explicit = jax.sharding.get_abstract_mesh().explicit_axes
    sharding = jax.typeof(x).sharding if explicit else None
    away = jax.random.bits(key, x.shape, jnp.uint32, out_sharding=sharding) < chance
    pattern = (towards_zero + away.astype(jnp.uint32)) | (bits >> 31 << (to.bits - 1))
    width = {8: jnp.uint8, 16: jnp.uint16}[to.bits]
    neighbor = jax.lax.bitcast_convert_type(pattern.astype(width), dtype)
    return jnp.where(jnp.abs(x) <= float(to.max), neighbor, x.astype(dtype))
