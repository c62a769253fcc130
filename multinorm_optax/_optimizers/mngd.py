"""MNGD, multi-normalized gradient descent: the optimizer for any list of norms.

Scetbon et al., arXiv 2502.06742, algorithm MNGD: W <- W - eta * MultiNorm(G, L).
"""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from multinorm_optax._alternation.combinator import multi_normalize
from multinorm_optax._matrices.rules import AxesLike
from multinorm_optax._norms.base import Projection
from multinorm_optax._norms.normalize import normalize
from multinorm_optax._optimizers.auxiliary_adam import AdamGroup, Mask, whole_model


def mngd(
    learning_rate: optax.ScalarOrSchedule,
    norms: Sequence[Projection],
    *,
    axes: AxesLike = None,
    num_iters: Any = 5,
    tol: Any = None,
    alpha: jax.typing.ArrayLike = 0.05,
    momentum: jax.typing.ArrayLike | None = None,
    nesterov: bool = False,
    weight_decay: jax.typing.ArrayLike = 0.0,
    weight_decay_mask: Mask = None,
    adam: AdamGroup = AdamGroup(),
) -> optax.GradientTransformationExtraArgs:
    """Multi-normalized gradient descent for any list of norms.

    W <- W - alpha * learning_rate * MultiNorm(G, L), and Adam for what is no matrix (Scetbon et
    al., arXiv 2502.06742, algorithm MNGD). `(RowNorm(), ColumnNorm())` is SinkGD, `(MaxNorm(),)`
    sign descent, `(SpectralNorm(),)` spectral descent (Muon without momentum).

    Args:
      learning_rate: see `whole_model`.
      norms: norms or projections, in order.
      axes: see `resolve_axes`.
      num_iters: L, the number of sweeps, see `multi_normalize`.
      tol: stops the sweeps early, see `multi_normalize`.
      alpha: see `whole_model`.
      momentum: see `whole_model`.
      nesterov: see `whole_model`.
      weight_decay: see `whole_model`.
      weight_decay_mask: see `whole_model`.
      adam: see `whole_model`.

    Returns:
      An optimizer, see `whole_model`.

    Example:
      >>> from multinorm_optax import RowNorm, SpectralNorm, mngd
      >>> tx = mngd(0.02, (RowNorm(), SpectralNorm()), num_iters=3)
    """
    return whole_model(
        multi_normalize(*(normalize(norm, axes) for norm in norms), num_iters=num_iters, tol=tol),
        learning_rate,
        axes=axes,
        alpha=alpha,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
        adam=adam,
    )
