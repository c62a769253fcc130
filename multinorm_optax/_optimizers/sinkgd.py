"""SinkGD and its direction SR-Sinkhorn, the alternation of rows and columns."""

import functools
from typing import Unpack

import optax

from multinorm_optax._alternation.base import NumIters, Tolerance
from multinorm_optax._alternation.combinator import multi_normalize
from multinorm_optax._matrices.rules import AxesLike
from multinorm_optax._norms.normalize import normalize_columns, normalize_rows
from multinorm_optax._optimizers.arguments import documented, takes_options_of
from multinorm_optax._optimizers.auxiliary_adam import AuxiliaryAdamOptions, auxiliary_adam


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
@takes_options_of(auxiliary_adam)
def sinkgd(
    learning_rate: optax.ScalarOrSchedule = 0.02,
    *,
    axes: AxesLike = None,
    num_iters: NumIters = 5,
    tol: Tolerance = None,
    **options: Unpack[AuxiliaryAdamOptions],
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
    direction = functools.partial(scale_by_sinkhorn, num_iters=num_iters, tol=tol)
    return auxiliary_adam(direction, learning_rate, axes=axes, **options)
