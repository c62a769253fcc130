"""The whole-model recipe: stateless for the matrices, Adam for everything else.

The recipe of both papers' experiments (Scetbon et al., arXiv 2502.06742; Ma et al., arXiv
2412.13148, Section 6): projections apply to the linear weights of attention and MLP; embeddings,
norm gains and the head go to Adam; one learning rate for all, which on the linear weights is
multiplied by alpha.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from multinorm_optax._matrices.rules import MATRIX, OTHER, AxesLike, group_labels

Mask = Any | Callable[[optax.Params], Any] | None


@dataclasses.dataclass(frozen=True)
class AdamGroup:
    """AdamW for what is not a matrix: embeddings, the head, norm gains, biases.

    Attributes:
      learning_rate: a number or a schedule; None for the optimizer's own learning rate.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
      weight_decay: decoupled weight decay of this group.
      clip_norm: clips the global norm of this group's gradients; None does not. The matrices'
        directions do not depend on the scale of their gradients: clipping these has no effect.
    """

    learning_rate: optax.ScalarOrSchedule | None = None
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None


def whole_model(
    direction: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule = 0.02,
    *,
    axes: AxesLike = None,
    alpha: jax.typing.ArrayLike = 0.05,
    momentum: jax.typing.ArrayLike | None = None,
    nesterov: bool = False,
    weight_decay: jax.typing.ArrayLike = 0.0,
    weight_decay_mask: Mask = None,
    adam: AdamGroup = AdamGroup(),
) -> optax.GradientTransformationExtraArgs:
    """The papers' recipe around any direction for the matrices.

    Matrices: W <- W - alpha * learning_rate * (T(M) + weight_decay * W), where M is the gradient G,
    or with `momentum` the sum M <- momentum * M + G (with `nesterov`: G + momentum * M). Everything
    else: AdamW.

    Args:
      direction: T, a transformation of the matrices; without state, to keep them without state.
      learning_rate: a number or a schedule; 0.02 is the papers'.
      axes: which axes of each leaf are rows and columns, and which leaves are matrices at all, see
        `resolve_axes`. Under `optax.inject_hyperparams` a callable belongs into its `static_args`.
      alpha: multiplies the learning rate of the matrices, by default to 1e-3 per unit of root mean
        square.
      momentum: decay of a sum of gradients kept *before* the normalization, which is one array of
        state per matrix; None, the papers' choice, keeps none.
      nesterov: whether that momentum looks ahead.
      weight_decay: decoupled weight decay of the matrices. It needs `params` in `update`.
      weight_decay_mask: a tree of booleans or a function of the parameters that makes one, as for
        `optax.adamw`; it restricts the weight decay of both groups.
      adam: how everything else is trained.

    Returns:
      An optimizer. Its state is Adam's for what is not a matrix, momentum if asked for, and one
      count if a rate is a schedule; without momentum the matrices' group has no state.

    Raises:
      ValueError: in `init` and `update`, for leaves that no rule in `axes` covers.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from multinorm_optax import normalize_max, whole_model
      >>> tx = whole_model(normalize_max(), optax.cosine_decay_schedule(0.02, 100))
      >>> params = {"dense": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> [round(float(x.ravel()[0]), 5) for x in jax.tree.leaves(updates)]     # bias, kernel
      [-0.02, -0.001]
    """
    matrix_parts, adam_parts = [direction], [optax.scale_by_adam(adam.b1, adam.b2, adam.eps)]
    if momentum is not None:
        matrix_parts.insert(0, optax.trace(momentum, nesterov))
    if adam.clip_norm is not None:
        adam_parts.insert(0, optax.clip_by_global_norm(adam.clip_norm))
    for parts, decay in ((matrix_parts, weight_decay), (adam_parts, adam.weight_decay)):
        if not (isinstance(decay, int | float) and decay == 0):
            parts.append(optax.add_decayed_weights(decay, weight_decay_mask))
    rates = {
        MATRIX: lambda count: alpha * _at(learning_rate, count),
        OTHER: lambda count: _at(
            learning_rate if adam.learning_rate is None else adam.learning_rate, count
        ),
    }
    scheduled = callable(learning_rate) or callable(adam.learning_rate)
    labels = group_labels(axes)
    directions = {MATRIX: optax.chain(*matrix_parts), OTHER: optax.chain(*adam_parts)}
    return optax.chain(
        optax.partition(directions, labels), _descend_by_group(rates, labels, scheduled)
    )


def _at(rate: optax.ScalarOrSchedule, count: Any) -> Any:
    return rate(count) if callable(rate) else rate


def _descend_by_group(
    rates: dict[str, Callable[[Any], Any]], labels: Callable[[Any], Any], scheduled: bool
) -> optax.GradientTransformation:
    """Multiplies every update by minus its group's rate, with one step count for all groups."""

    def init(params: optax.Params) -> optax.OptState:
        del params
        return (
            optax.ScaleByScheduleState(jnp.zeros([], jnp.int32))
            if scheduled
            else optax.EmptyState()
        )

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        count = state.count if scheduled else None
        now = {group: rate(count) for group, rate in rates.items()}
        updates = jax.tree.map(
            lambda u, label: jnp.asarray(-now[label], u.dtype) * u, updates, labels(updates)
        )
        if scheduled:
            state = optax.ScaleByScheduleState(optax.safe_increment(count))
        return updates, state

    return optax.GradientTransformation(init, update)
