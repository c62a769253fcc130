"""The alternation of arbitrary stateless transformations of a whole tree."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from multinorm_optax._alternation.base import Alternation, Residual
from multinorm_optax._norms.precision import abs_sq, compute_dtype, inverse_or_one, sqrt_or_zero


class TreeAlternation(Alternation):
    """An alternation that carries the tree."""

    def __init__(
        self,
        projections: tuple[optax.GradientTransformation, ...],
        updates: optax.Updates,
        params: optax.Params | None,
        extra_args: dict[str, Any],
    ):
        self.length = len(projections)
        self.start = jax.tree.map(lambda x: x.astype(compute_dtype(x.dtype)), updates)
        self._params = params
        self._extra_args = extra_args
        self._members = [
            (optax.with_extra_args_support(each), empty_state(index, each, updates))
            for index, each in enumerate(projections)
        ]

    def half_step(self, k: int, state: Any) -> tuple[Any, Residual]:
        member, empty = self._members[k]
        new, _ = member.update(state, empty, self._params, **self._extra_args)
        return new, lambda: jax.tree.reduce(
            jnp.maximum, jax.tree.map(_relative_change, state, new), jnp.asarray(0.0)
        )

    def inner_product(self, x: Any, y: Any) -> jax.Array:
        products = jax.tree.map(lambda x, y: jnp.sum(jnp.real(jnp.conj(x) * y)), x, y)
        return jax.tree.reduce(jnp.add, products, jnp.asarray(0.0))


def _relative_change(old: jax.Array, new: jax.Array) -> jax.Array:
    change, total = jnp.sum(abs_sq(new - old)), jnp.sum(abs_sq(new))
    return sqrt_or_zero(change * inverse_or_one(total))


def empty_state(
    index: int, projection: optax.GradientTransformation, params: optax.Params
) -> optax.OptState:
    """The state of a stateless member; raise if it has a leaf."""
    state = projection.init(params)
    if jax.tree.leaves(state):
        raise ValueError(
            f"multi_normalize alternates stateless transformations, but projection {index} has the"
            f" state {jax.tree.map(jnp.shape, state)}; chain it before or after multi_normalize"
        )
    return state
