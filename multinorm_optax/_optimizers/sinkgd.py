"""SinkGD and its direction SR-Sinkhorn, the alternation of rows and columns."""

import jax
import optax

from multinorm_optax._alternation.base import NumIters, Tolerance
from multinorm_optax._alternation.combinator import multi_normalize
from multinorm_optax._matrices.rules import AxesLike
from multinorm_optax._norms.normalize import normalize_columns, normalize_rows
from multinorm_optax._optimizers.arguments import Mask, documented
from multinorm_optax._optimizers.auxiliary_adam import auxiliary_adam
from multinorm_optax._optimizers.step_scale import StepScale


@documented
def scale_by_sinkhorn(
    axes: AxesLike = None, num_iters: NumIters = 5, tol: Tolerance = None
) -> optax.GradientTransformation:
    """Replace every gradient by SR-Sinkhorn(G, L): rows and columns of root mean square 1.

        X <- G;  L times:  X <- sqrt(n) Q^-1 X,  Q = diag ||X_i,:||_2   (rows)
                           X <- sqrt(m) X R^-1,  R = diag ||X_:,j||_2   (columns)

    (Scetbon et al., arXiv 2502.06742, Algorithm 3). State, dtypes and errors are those of
    `multi_normalize`. The resulting columns are exact, the rows approximate, and the Frobenius norm
    is sqrt(m n). A sweep multiplies the row error by about sigma^2, where sigma is the second
    singular value of X*X over its first: 0.07 for a 64 x 160 Gaussian matrix, and 1, in the limit,
    for a matrix without total support, such as a triangular one.

    Args:
      ...

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from multinorm_optax import scale_by_sinkhorn
      >>> gradient = {"kernel": 1e-30 * jax.random.normal(jax.random.key(0), (160, 64))}
      >>> tx = scale_by_sinkhorn()
      >>> updates, _ = tx.update(gradient, tx.init(gradient))
      >>> rms = [jnp.sqrt(jnp.mean(updates["kernel"] ** 2, axis=axis)) for axis in (0, 1)]
      >>> [bool(jnp.allclose(each, 1)) for each in rms]
      [True, True]
    """
    rows, columns = normalize_rows(axes), normalize_columns(axes)
    return multi_normalize(rows, columns, num_iters=num_iters, tol=tol)


@documented
def sinkgd(
    learning_rate: optax.ScalarOrSchedule = 0.02,
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
    """SinkGD: SR-Sinkhorn for the matrices, and Adam for every other parameter.

    W <- W - alpha * learning_rate * SR-Sinkhorn(G, L), the `auxiliary_adam` of `scale_by_sinkhorn`
    (Scetbon et al., arXiv 2502.06742, algorithm SinkGD). The defaults are the paper's.

    Args:
      ...

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from multinorm_optax import sinkgd
      >>> params = {"dense": {"kernel": jnp.ones((64, 32)), "bias": jnp.ones(32)}}
      >>> tx = sinkgd(0.02)
      >>> state = tx.init(params)
      >>> [x.shape for x in jax.tree.leaves(state)]       # Adam's count and moments of the bias
      [(), (32,), (32,)]
    """
    return auxiliary_adam(
        lambda axes: scale_by_sinkhorn(axes, num_iters, tol),
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
