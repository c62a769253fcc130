"""SWAN: GradNorm, then GradWhitening, then a rescaling to root mean square 1.

Ma et al., arXiv 2412.13148, Section 4, for a weight oriented so that m <= n. In the terms of
Scetbon et al., arXiv 2502.06742, it is one sweep of multi-normalization with a row and a
spectral norm, whose exact form is a fixed point after that one sweep.
"""

import optax

from multinorm_optax._multi_normalize import multi_normalize
from multinorm_optax._norms import CenteredRows, Oriented, RowNorm
from multinorm_optax._orthogonalize import Orthogonalizer, swan_whitening
from multinorm_optax._projections import normalize, normalize_frobenius, normalize_spectral
from multinorm_optax._rules import AxesLike


def scale_by_swan(
    axes: AxesLike = None,
    centered: bool = False,
    orthogonalizer: Orthogonalizer | None = None,
) -> optax.GradientTransformation:
    """Replaces every gradient by SWAN's direction, of root mean square 1.

    With G oriented so that m <= n: rows divided by their root mean square (or, `centered`, minus
    their mean and over their standard deviation: GradNorm of the paper), then (G G^T)^(-1/2) G by
    Newton-Schulz (GradWhitening), then scaled to Frobenius norm sqrt(m n).

    Args:
      axes: which axes of each leaf are rows and columns, see `resolve_axes`.
      centered: whether rows are centred. The later papers do not.
      orthogonalizer: the whitening, by default the paper's `swan_whitening()`.

    Returns:
      A transformation with `optax.EmptyState`; dtypes and errors as for `multi_normalize`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from multinorm_optax import scale_by_swan
      >>> gradient = {"kernel": jax.random.normal(jax.random.key(0), (160, 64))}
      >>> tx = scale_by_swan()
      >>> updates, _ = tx.update(gradient, tx.init(gradient))
      >>> round(float(jnp.mean(updates["kernel"] ** 2)), 5)
      1.0
    """
    rows = Oriented(CenteredRows() if centered else RowNorm())
    whitening = swan_whitening() if orthogonalizer is None else orthogonalizer
    return multi_normalize(
        normalize(rows, axes),
        normalize_spectral(axes, whitening),
        normalize_frobenius(axes),
        num_iters=1,
    )
