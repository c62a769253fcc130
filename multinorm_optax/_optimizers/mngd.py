"""MNGD, multi-normalized gradient descent: the optimizer for any list of norms."""

from collections.abc import Sequence
from typing import Unpack

import optax

from multinorm_optax._alternation.base import NumIters, Tolerance
from multinorm_optax._alternation.combinator import multi_normalize
from multinorm_optax._matrices.rules import AxesLike
from multinorm_optax._norms.base import Projection
from multinorm_optax._norms.normalize import normalize
from multinorm_optax._optimizers.arguments import documented, takes_options_of
from multinorm_optax._optimizers.auxiliary_adam import AuxiliaryAdamOptions, auxiliary_adam


@documented
@takes_options_of(auxiliary_adam)
def mngd(
    learning_rate: optax.ScalarOrSchedule,
    norms: Sequence[Projection],
    *,
    axes: AxesLike = None,
    num_iters: NumIters = 5,
    tol: Tolerance = None,
    **options: Unpack[AuxiliaryAdamOptions],
) -> optax.GradientTransformationExtraArgs:
    """Multi-normalized gradient descent for any list of norms.

    W <- W - alpha * learning_rate * MultiNorm(G, L), the `auxiliary_adam` of `multi_normalize`
    (Scetbon et al., arXiv 2502.06742, algorithm MNGD). `(RowNorm(), ColumnNorm())` gives SinkGD,
    `(MaxNorm(),)` sign descent, and `(SpectralNorm(),)` with `num_iters=1` Muon without momentum;
    more sweeps would lift the rounding errors in zero singular values too.

    Args:
      norms: norms or projections, in order.
      ...

    Raises:
      TypeError: if `norms` is not a sequence, or has something else than norms and projections.

    Example:
      >>> from multinorm_optax import RowNorm, SpectralNorm, mngd
      >>> tx = mngd(0.02, (RowNorm(), SpectralNorm()), num_iters=3)
    """

    def direction(axes: AxesLike) -> optax.GradientTransformation:
        projections = (normalize(norm, axes) for norm in norms)
        return multi_normalize(*projections, num_iters=num_iters, tol=tol)

    if not isinstance(norms, Sequence):
        raise TypeError(f"norms must be a sequence of norms, such as (RowNorm(),), got {norms!r}")
    return auxiliary_adam(direction, learning_rate, axes=axes, **options)
