"""MNGD, multi-normalized gradient descent: the optimizer for any list of norms."""

from collections.abc import Sequence

import jax
import optax

from multinorm_optax._alternation.base import NumIters, Tolerance
from multinorm_optax._alternation.combinator import multi_normalize
from multinorm_optax._matrices.rules import AxesLike
from multinorm_optax._norms.base import Projection
from multinorm_optax._norms.normalize import normalize
from multinorm_optax._optimizers.arguments import Mask, documented
from multinorm_optax._optimizers.auxiliary_adam import auxiliary_adam
from multinorm_optax._optimizers.step_scale import StepScale


@documented
def mngd(
    learning_rate: optax.ScalarOrSchedule,
    norms: Sequence[Projection],
    *,
    axes: AxesLike = None,
    num_iters: NumIters = 5,
    tol: Tolerance = None,
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
    """Multi-normalized gradient descent for any list of norms.

    W <- W - alpha * learning_rate * MultiNorm(G, L), the `auxiliary_adam` of `multi_normalize`
    (Scetbon et al., arXiv 2502.06742, algorithm MNGD). `(RowNorm(), ColumnNorm())` gives SinkGD,
    `(MaxNorm(),)` sign descent, and `(SpectralNorm(),)` Muon without momentum.

    Args:
      norms: norms or projections, in order.
      ...

    Example:
      >>> from multinorm_optax import RowNorm, SpectralNorm, mngd
      >>> tx = mngd(0.02, (RowNorm(), SpectralNorm()), num_iters=3)
    """

    def direction(axes: AxesLike) -> optax.GradientTransformation:
        projections = (normalize(norm, axes) for norm in norms)
        return multi_normalize(*projections, num_iters=num_iters, tol=tol)

    return auxiliary_adam(
        direction,
        learning_rate,
        axes=axes,
        alpha=alpha,
        momentum=momentum,
        nesterov=nesterov,
        momentum_dtype=momentum_dtype,
        step_scale=step_scale,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
        cautious_weight_decay=cautious_weight_decay,
        adam_learning_rate=adam_learning_rate,
        adam_b1=adam_b1,
        adam_b2=adam_b2,
        adam_eps=adam_eps,
        adam_weight_decay=adam_weight_decay,
        adam_clip_norm=adam_clip_norm,
        adam_moment_dtype=adam_moment_dtype,
    )
