"""16-bit floats as integers, for the CPU compiler of jax before 0.11.

That compiler computes with float32 in place of 16-bit floats, and converts a whole stack in order
to read or write one layer of it. Loops that carry the bits as integers escape that.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Encode = Callable[[Any], Any]


def with_encoding(function: Callable[..., Any], stack: Any, *arguments: Any) -> Any:
    """Call `function(encode, *arguments)` with the encoding that the stack's loops need."""

    halves = any(_is_half(leaf.dtype) for leaf in jax.tree.leaves(stack))
    old_cpu = jax.default_backend() == "cpu" and jax.__version_info__ < (0, 11)
    return function(_bits if halves and old_cpu else _unchanged, *arguments)


def _unchanged(tree: Any) -> Any:
    return tree


def decode(tree: Any, like: Any) -> Any:
    """The inverse of both encodings; `like` has the dtypes."""

    def of(leaf: jax.Array, before: jax.Array) -> jax.Array:
        encoded = leaf.dtype != before.dtype
        return jax.lax.bitcast_convert_type(leaf, before.dtype) if encoded else leaf

    return jax.tree.map(of, tree, like)


def _bits(tree: Any) -> Any:
    def of(leaf: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(leaf, jnp.uint16) if _is_half(leaf.dtype) else leaf

    return jax.tree.map(of, tree)


def _is_half(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize == 2
