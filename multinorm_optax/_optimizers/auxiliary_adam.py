"""The papers' recipe: a direction for the matrices, and AdamW for every other parameter."""

import math
from collections.abc import Callable
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import optax

from multinorm_optax._matrices.paths import array_leaves, check_dtype
from multinorm_optax._matrices.rules import MATRIX, OTHER, AxesLike, resolve_axes
from multinorm_optax._optimizers.arguments import Mask, check_arguments, documented
from multinorm_optax._optimizers.step_scale import StepScale, scale_by_matrix_shape
from multinorm_optax._optimizers.weight_decay import add_decayed_weights


class MatrixOptimizer(optax.GradientTransformationExtraArgs):
    """An optimizer with its axes, which `audit` reads; a copy that is rebuilt has none."""

    axes: AxesLike = None


class AdamOptions(TypedDict, total=False):
    """The arguments of `auxiliary_adam` that every optimizer made by it takes, too."""

    weight_decay: optax.ScalarOrSchedule
    weight_decay_mask: Mask
    cautious_weight_decay: bool
    adam_learning_rate: optax.ScalarOrSchedule | None
    adam_eps: jax.typing.ArrayLike
    adam_weight_decay: optax.ScalarOrSchedule
    adam_clip_norm: jax.typing.ArrayLike | None
    adam_moment_dtype: jax.typing.DTypeLike | None


class AuxiliaryAdamOptions(AdamOptions, total=False):
    """The same with those for directions without state."""

    alpha: optax.ScalarOrSchedule
    momentum: jax.typing.ArrayLike | None
    nesterov: bool
    momentum_dtype: jax.typing.DTypeLike | None
    step_scale: StepScale
    adam_b1: jax.typing.ArrayLike
    adam_b2: jax.typing.ArrayLike


@documented
def auxiliary_adam(
    direction: Callable[[AxesLike], optax.GradientTransformation],
    learning_rate: optax.ScalarOrSchedule = 0.02,
    *,
    axes: AxesLike = None,
    alpha: optax.ScalarOrSchedule = 0.05,
    momentum: jax.typing.ArrayLike | None = None,
    nesterov: bool = False,
    momentum_dtype: jax.typing.DTypeLike | None = None,
    step_scale: StepScale = "rms",
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask = None,
    cautious_weight_decay: bool = False,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    adam_b1: jax.typing.ArrayLike = 0.9,
    adam_b2: jax.typing.ArrayLike = 0.999,
    adam_eps: jax.typing.ArrayLike = 1e-8,
    adam_weight_decay: optax.ScalarOrSchedule = 0.0,
    adam_clip_norm: jax.typing.ArrayLike | None = None,
    adam_moment_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Train matrices along any direction, and every other parameter with AdamW.

    Matrices: W <- W - alpha * learning_rate * (s T(M) + weight_decay * W), where M is the gradient
    G, or with `momentum` the sum M <- momentum * M + G (with `nesterov`: G + momentum * M), and s
    is the factor of `step_scale`, 1 by default (Scetbon et al., arXiv 2502.06742; Ma et al., arXiv
    2412.13148, Section 6). All computation is in at least float32; updates are rounded once, to the
    gradients' dtype.

    Args:
      direction: the function from axes to T, such as `scale_by_swan` or
        `lambda axes: optax.scale_by_adam()`. It is called once with `axes`, to raise errors early,
        and in `init` and `update` with the axes of every matrix by path.
      ...

    Returns:
      An optimizer. Its state is Adam's for every other parameter, the momentum and T's state if
      there are any, and a count for each scheduled learning rate or weight decay of a group.

    Raises:
      TypeError: for an argument of the wrong type; the message names it.
      ValueError: for an unknown `step_scale`, or a number that the argument cannot have, such as a
        decay of 1; in `init` and `update`, for leaves that no rule in `axes` covers.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from multinorm_optax import MaxNorm, auxiliary_adam, normalize
      >>> signs = lambda axes: normalize(MaxNorm(), axes)
      >>> tx = auxiliary_adam(signs, optax.cosine_decay_schedule(0.02, 100))
      >>> params = {"dense": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> [round(float(x.ravel()[0]), 5) for x in jax.tree.leaves(updates)]     # bias, kernel
      [-0.02, -0.001]
    """
    if not callable(direction):
        raise TypeError(
            "direction is a function from axes to a transformation, such as scale_by_swan or"
            f" lambda axes: scale_by_sinkhorn(axes, 2), got {direction!r}"
        )
    check_arguments(locals())
    scale_by_matrix_shape(step_scale, axes)
    direction(axes)

    clip = optax.identity() if adam_clip_norm is None else optax.clip_by_global_norm(adam_clip_norm)

    def groups(tree: Any) -> optax.GradientTransformationExtraArgs:
        found = resolve_axes(axes, tree)
        names = [OTHER if each is None else MATRIX for _, each in found]
        labels = jax.tree.unflatten(jax.tree.structure(tree), names)
        of_matrices = {path: each for path, each in found if each}
        # In its group a function of the parameters would see a part of them.
        mask = weight_decay_mask(tree) if callable(weight_decay_mask) else weight_decay_mask
        matrices = optax.chain(
            optax.identity() if momentum is None else optax.trace(momentum, nesterov),
            direction(of_matrices),
            scale_by_matrix_shape(step_scale, of_matrices),
            add_decayed_weights(weight_decay, mask, cautious_weight_decay),
            optax.scale_by_learning_rate(_product(alpha, learning_rate)),
        )
        others = optax.chain(
            clip,
            optax.scale_by_adam(adam_b1, adam_b2, adam_eps),
            add_decayed_weights(adam_weight_decay, mask, cautious_weight_decay),
            optax.scale_by_learning_rate(
                learning_rate if adam_learning_rate is None else adam_learning_rate
            ),
        )
        inner = {
            MATRIX: in_float32(matrices, lambda state: _cast(state, momentum_dtype)),
            OTHER: in_float32(others, lambda state: _cast(state, adam_moment_dtype)),
        }
        return optax.partition(inner, lambda _: labels)

    def init(params: optax.Params) -> optax.OptState:
        for path, leaf in array_leaves(params):
            check_dtype(path, leaf)
        return groups(params).init(params)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        return groups(updates).update(updates, state, params, **extra)

    optimizer = MatrixOptimizer(init, update)
    optimizer.axes = axes
    return optimizer


def _product(*factors: optax.ScalarOrSchedule) -> optax.ScalarOrSchedule:
    if any(map(callable, factors)):
        return lambda count: math.prod(x(count) if callable(x) else x for x in factors)
    return math.prod(factors)


def in_float32(
    inner: optax.GradientTransformation, stored: Callable[[Any], Any] = lambda state: state
) -> optax.GradientTransformationExtraArgs:
    """Compute in at least float32, round updates once, to their dtype, and keep `stored(state)`."""
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> optax.OptState:
        return stored(inner.init(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        updates = jax.tree.map(jnp.asarray, updates)
        wide, new = inner.update(_cast(updates), _cast(state), _cast(params), **extra)
        return jax.tree.map(_rounded, wide, updates), jax.tree.map(_rounded, new, state)

    return optax.GradientTransformationExtraArgs(init, update)


def _cast(tree: Any, dtype: jax.typing.DTypeLike | None = None) -> Any:
    """Cast real floating-point arrays to a dtype, or to at least float32 if it is None."""

    def cast(x: Any) -> Any:
        found = jnp.result_type(x)
        if not jnp.issubdtype(found, jnp.floating):
            return x
        wide = found if found.itemsize >= 4 else jnp.float32
        return jnp.asarray(x, wide if dtype is None else dtype)

    return jax.tree.map(cast, tree)


def _rounded(x: Any, like: Any) -> Any:
    dtype = jnp.result_type(like)
    return jnp.asarray(x, dtype) if jnp.issubdtype(dtype, jnp.inexact) else x
