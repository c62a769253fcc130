"""Decoupled weight decay of every entry, or only of those that the step makes smaller anyway."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from multinorm_optax._optimizers.arguments import Mask


def add_decayed_weights(
    weight_decay: optax.ScalarOrSchedule, mask: Mask, cautious: bool
) -> optax.GradientTransformationExtraArgs:
    """Add weight_decay * W to directions D, as optax does; if `cautious`, only where D * W >= 0.

    For the latter see Chen et al., Cautious Weight Decay, arXiv 2510.12402; a complex entry counts
    as two real entries. The state is that of optax. The number 0 needs no parameters.
    """
    decay = optax.add_decayed_weights(weight_decay, mask)
    is_number = not (callable(weight_decay) or isinstance(weight_decay, jax.Array))
    nothing = is_number and weight_decay == 0

    def update(
        updates: optax.Updates, state: optax.OptState, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        del extra_args
        if nothing:
            return updates, state
        if cautious and params is not None:
            params = jax.tree.map(
                lambda u, w: w if u is None else _aligned(u, w),
                updates,
                params,
                is_leaf=lambda leaf: leaf is None,
            )
        return decay.update(updates, state, params)

    return optax.GradientTransformationExtraArgs(decay.init, update)


def _aligned(direction: jax.Array, weight: jax.Array) -> jax.Array:
    """The weight, with zeros where its sign is opposite to the direction's."""
    if jnp.iscomplexobj(direction) or jnp.iscomplexobj(weight):
        real, imaginary = (_aligned(part(direction), part(weight)) for part in (jnp.real, jnp.imag))
        return jax.lax.complex(real, imaginary)
    # The product of the entries could underflow.
    return jnp.where(jnp.sign(direction) * jnp.sign(weight) >= 0, weight, 0)
