"""Transformations that are mapped over the layers of a stack."""

from typing import Any

import jax
import optax


def per_layer(
    transformation: optax.GradientTransformation, ndim: int
) -> optax.GradientTransformation:
    """Apply a transformation to each layer of a stack separately.

    Leaves have a leading axis of layers, and so has the state, except for its scalars: counts of
    steps are the same in all layers, and remain one number. A condition on such a count therefore
    stays a branch.

    Args:
        transformation: applied to each layer.
        ndim: axes of one layer's leaf. A leaf with no more axes is one layer, as in a layer-wise
            step.
    """

    def is_stack(tree: Any) -> bool:
        return {leaf.ndim for leaf in jax.tree.leaves(tree)} == {ndim + 1}

    def layers_of(tree: optax.Params) -> Any:
        layer = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape[1:], w.dtype), tree)
        state = jax.eval_shape(transformation.init, layer)
        return jax.tree.map(lambda leaf: 0 if leaf.ndim else None, state)

    def init(params: optax.Params) -> optax.OptState:
        if not is_stack(params):
            return transformation.init(params)
        return jax.vmap(transformation.init, out_axes=layers_of(params))(params)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        if not is_stack(updates):
            return transformation.update(updates, state, params)
        axes = layers_of(updates)
        mapped = jax.vmap(transformation.update, in_axes=(0, axes, 0), out_axes=(0, axes))
        return mapped(updates, state, params)

    return optax.GradientTransformation(init, update)
