"""Projections as stateless transformations."""

import optax

from multinorm_optax._matrices.rules import WHOLE_LEAF_RULES, AxesLike, on_matrices
from multinorm_optax._norms.base import Projection
from multinorm_optax._norms.euclidean import ColumnNorm, RowNorm
from multinorm_optax._norms.orthogonalize import Orthogonalizer
from multinorm_optax._norms.spectral import SpectralNorm


class Normalization(optax.GradientTransformation):
    """A transformation with its projection and axes, which `multi_normalize` reads.

    A copy that is rebuilt from init and update has no projection.
    """

    projection: Projection = None  # type: ignore[assignment]
    axes: AxesLike = None


def normalize(projection: Projection, axes: AxesLike = None) -> optax.GradientTransformation:
    """Replace every gradient G by P(G), for any norm or projection (arXiv 2502.06742).

    Args:
      projection: a `Norm` or `Projection`, of this package or your own.
      axes: which axes of each leaf are rows and columns: a `MatrixAxes`, rules by path, or a tree
        of specs (the forms of `resolve_axes`); None for `FLAX_RULES`. A projection that acts entry
        by entry, such as `MaxNorm`, needs none, and takes leaves of any rank and role.

    Returns:
      A transformation with `optax.EmptyState`. Updates keep their dtype; half precisions are
      computed in float32. Zero rows, columns and matrices stay zero and do not count in m and n;
      NaN and infinity are passed on.

    Raises:
      ValueError: for a leaf that is not a matrix, or that no rule covers.
      TypeError: for a leaf of integers, or if `projection` is not a `Norm` or `Projection`.

    Example:
      >>> import jax.numpy as jnp
      >>> from multinorm_optax import RowNorm, normalize
      >>> tx = normalize(RowNorm())
      >>> gradient = {"kernel": jnp.array([[3.0, 0.0], [3.0, 0.0]])}      # (in, out)
      >>> updates, _ = tx.update(gradient, tx.init(gradient))
      >>> updates["kernel"].tolist()
      [[1.0, 0.0], [1.0, 0.0]]
    """
    if not isinstance(projection, Projection):
        raise TypeError(f"{projection!r} is not a norm or projection, such as RowNorm()")
    if axes is None and projection.entrywise:
        axes = WHOLE_LEAF_RULES
    normalization = Normalization(*on_matrices(projection, axes))
    normalization.projection, normalization.axes = projection, axes
    return normalization


def normalize_rows(axes: AxesLike = None) -> optax.GradientTransformation:
    """Replace each row (output feature) by sqrt(n) W_i,: / ||W_i,:||_2; see `normalize`."""
    return normalize(RowNorm(), axes)


def normalize_columns(axes: AxesLike = None) -> optax.GradientTransformation:
    """Replace each column (input feature) by sqrt(m) W_:,j / ||W_:,j||_2; see `normalize`."""
    return normalize(ColumnNorm(), axes)


def normalize_spectral(
    axes: AxesLike = None, orthogonalizer: Orthogonalizer | None = None
) -> optax.GradientTransformation:
    """Replace each matrix U S V^T by sqrt(max(m, n)) U V^T; see `normalize`.

    Args:
      axes: which axes of each leaf are rows and columns: a `MatrixAxes`, rules by path, or a tree
        of specs (the forms of `resolve_axes`); None for `FLAX_RULES`.
      orthogonalizer: how U V^T is computed: `polar_express()` (default: to rounding),
        `newton_schulz()`, `muon_quintic()`, `swan_whitening()`, `exact_svd()` or your own.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from multinorm_optax import normalize_spectral, exact_svd
      >>> gradient = {"kernel": jax.random.normal(jax.random.key(0), (3, 5))}
      >>> tx = normalize_spectral(orthogonalizer=exact_svd())
      >>> updates, _ = tx.update(gradient, tx.init(gradient))
      >>> [round(float(s), 3) for s in jnp.linalg.svd(updates["kernel"], compute_uv=False)]
      [2.236, 2.236, 2.236]
    """
    norm = SpectralNorm() if orthogonalizer is None else SpectralNorm(orthogonalizer)
    return normalize(norm, axes)
