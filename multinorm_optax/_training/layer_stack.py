"""Loops over stacked layers: one forward, one backward that rewrites the layers in place.

The CPU compiler of jax before 0.11 replaces 16-bit floats by float32, and would convert the whole
stack for each layer. There the loops carry 16-bit floats as integers ("encoded").
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def forward(block: Callable[[Any, Any], Any], stack: Any, x: Any) -> tuple[Any, Any]:
    """Run x <- block(layer, x) over all layers; return the last x, and all encoded inputs."""

    def one_layer(x: Any, layer: Any) -> tuple[Any, Any]:
        return block(_decode(layer, stack), x), _encode(x)

    return jax.lax.scan(one_layer, x, _encode(stack))


def backward(
    rewrite: Callable[[Any, Any, Any], tuple[Any, Any]],
    stack: Any,
    inputs_and_output: tuple[Any, Any],
    cotangent: Any,
) -> tuple[Any, Any]:
    """Run layer, cotangent <- rewrite(layer, x, cotangent) over all layers, the last one first.

    Takes the encoded inputs of all layers and the last output; returns the new stack, and the
    cotangent of the first input.
    """
    # Each layer is read from the stack after the last write: XLA might read an older stack after
    # the write, and would copy it.
    inputs, output = inputs_and_output

    def read(encoded: Any, number: Any) -> Any:
        layer = jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False), encoded
        )
        return _decode(layer, stack)

    def one_layer(carry: Any, number_and_input: Any) -> tuple[Any, None]:
        encoded, layer, cotangent = carry
        number, x = number_and_input
        layer, cotangent = rewrite(layer, _decode(x, output), cotangent)

        def write(leaf: jax.Array, new: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_index_in_dim(leaf, new, number, 0)

        encoded = jax.tree.map(write, encoded, _encode(layer))
        return (encoded, read(encoded, jnp.maximum(number - 1, 0)), cotangent), None

    encoded, layers = _encode(stack), jax.tree.leaves(stack)[0].shape[0]
    start = encoded, read(encoded, layers - 1), cotangent
    scanned = jnp.arange(layers), inputs
    (encoded, _, cotangent), _ = jax.lax.scan(one_layer, start, scanned, reverse=True)
    return _decode(encoded, stack), cotangent


def _encode(tree: Any) -> Any:
    """The tree with 16-bit floats as integers if the compiler needs it."""
    if jax.default_backend() != "cpu" or jax.__version_info__ >= (0, 11):
        return tree

    def encode(leaf: jax.Array) -> jax.Array:
        half = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize == 2
        return jax.lax.bitcast_convert_type(leaf, jnp.uint16) if half else leaf

    return jax.tree.map(encode, tree)


def _decode(tree: Any, like: Any) -> Any:
    """The inverse of `_encode`, for a tree with the dtypes of `like`."""

    def decode(leaf: jax.Array, before: jax.Array) -> jax.Array:
        encoded = leaf.dtype != before.dtype
        return jax.lax.bitcast_convert_type(leaf, before.dtype) if encoded else leaf

    return jax.tree.map(decode, tree, like)
