"""Stacks of layers in a loop: one layer read, one written in place, 16-bit floats as integers."""

from typing import Any

import jax
import jax.numpy as jnp


def is_half(dtype: Any) -> bool:
    """Whether it is a floating-point dtype of 16 bits."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize == 2


def unchanged(tree: Any) -> Any:
    """The tree itself."""
    return tree


def as_integers(tree: Any) -> Any:
    """The bits of floating-point numbers of 16 bits."""
    return jax.tree.map(
        lambda leaf: (
            jax.lax.bitcast_convert_type(leaf, jnp.uint16) if is_half(leaf.dtype) else leaf
        ),
        tree,
    )


def decode(tree: Any, like: Any) -> Any:
    """The inverse of `as_integers` and of `unchanged`, from the dtypes of what there was before."""
    return jax.tree.map(
        lambda leaf, before: (
            jax.lax.bitcast_convert_type(leaf, before.dtype) if is_half(before.dtype) else leaf
        ),
        tree,
        like,
    )


def read_layer(tree: Any, number: Any) -> Any:
    """One layer of stacks."""
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False), tree
    )


def write_layer(tree: Any, layer: Any, number: Any) -> Any:
    """The stacks with one layer in the place of another."""
    return jax.tree.map(
        lambda leaf, new: jax.lax.dynamic_update_index_in_dim(leaf, new, number, 0), tree, layer
    )
