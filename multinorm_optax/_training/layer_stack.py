"""Loops over stacked layers: one forward, one backward that rewrites the layers in place.

Every leaf of a stack has a leading axis with one entry per layer. The loops carry what `encode`
makes of a stack, see `half_floats`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from multinorm_optax._training.half_floats import Encode, decode


def forward(
    block: Callable[[Any, Any], Any], stack: Any, x: Any, encode: Encode
) -> tuple[Any, Any]:
    """Run x <- block(layer, x) over all layers; return the last x, and all encoded inputs."""

    def one_layer(x: Any, layer: Any) -> tuple[Any, Any]:
        return block(decode(layer, stack), x), encode(x)

    return jax.lax.scan(one_layer, x, encode(stack))


def backward(
    rewrite: Callable[[Any, Any, Any], tuple[Any, Any]],
    stack: Any,
    inputs_and_output: tuple[Any, Any],
    cotangent: Any,
    encode: Encode,
) -> tuple[Any, Any]:
    """Run layer, cotangent <- rewrite(layer, x, cotangent) over all layers, the last one first.

    The loop reads each layer from the stack that it has just written the layer above into. From the
    stack before that write, XLA could read after writing, and would copy the whole stack.

    Args:
      rewrite: gives a new layer of the same shapes and dtypes, and the cotangent of x.
      stack: the layers.
      inputs_and_output: the encoded inputs of all layers, and the output of the last one.
      cotangent: that of the output.
      encode: that of the layers; `forward` may have had another one.

    Returns:
      The new stack, and the cotangent of the first layer's input.
    """
    inputs, output = inputs_and_output

    def read(encoded: Any, number: Any) -> Any:
        def entry(leaf: jax.Array) -> jax.Array:
            return jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False)

        return decode(jax.tree.map(entry, encoded), stack)

    def one_layer(carry: Any, number_and_input: Any) -> tuple[Any, None]:
        encoded, layer, cotangent = carry
        number, x = number_and_input

        def write(leaf: jax.Array, new: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_index_in_dim(leaf, new, number, 0)

        layer, cotangent = rewrite(layer, decode(x, output), cotangent)
        encoded = jax.tree.map(write, encoded, encode(layer))
        return (encoded, read(encoded, jnp.maximum(number - 1, 0)), cotangent), None

    encoded, layers = encode(stack), jax.tree.leaves(stack)[0].shape[0]
    (encoded, _, cotangent), _ = jax.lax.scan(
        one_layer,
        (encoded, read(encoded, layers - 1), cotangent),
        (jnp.arange(layers), inputs),
        reverse=True,
    )
    return decode(encoded, stack), cotangent
