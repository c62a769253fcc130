"""SWAN: GradNorm, then GradWhitening, then a rescaling to root mean square 1."""

import dataclasses
import functools
import math
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax

from multinorm_optax._alternation.base import NumIters
from multinorm_optax._alternation.combinator import multi_normalize
from multinorm_optax._matrices.axes import MatrixAxes
from multinorm_optax._matrices.fused import Fused, map_spec
from multinorm_optax._matrices.rules import AxesLike, resolve_axes
from multinorm_optax._norms.base import MatrixSize, Projection
from multinorm_optax._norms.euclidean import FrobeniusNorm, RowNorm
from multinorm_optax._norms.normalize import normalize, normalize_spectral
from multinorm_optax._norms.orthogonalize import Orthogonalizer
from multinorm_optax._norms.precision import peak, unit_scale
from multinorm_optax._optimizers.arguments import check_arguments, documented, takes_options_of
from multinorm_optax._optimizers.auxiliary_adam import (
    AuxiliaryAdamOptions,
    auxiliary_adam,
    in_float32,
)
from multinorm_optax._optimizers.sinkgd import scale_by_sinkhorn


@dataclasses.dataclass(frozen=True)
class CenteredRows(Projection):
    """SWAN's GradNorm: rows of mean 0 and variance 1, or zero if constant up to rounding."""

    def project(self, x: jax.Array, axes: MatrixAxes, size: MatrixSize) -> jax.Array:
        x = x * unit_scale(x, axes.input)
        count = max(1, math.prod(x.shape[axis] for axis in axes.input))
        centered = x - jnp.sum(x, axis=axes.input, keepdims=True) / count
        rounding = 4 * jnp.finfo(x.dtype).eps * peak(x, axes.input)
        constant = jnp.all(jnp.abs(centered) <= rounding, axis=axes.input, keepdims=True)
        return RowNorm().project(jnp.where(constant, 0, centered), axes, size)


@documented
def scale_by_swan(
    axes: AxesLike = None,
    centered: bool = False,
    orthogonalizer: Orthogonalizer | None = None,
    num_iters: NumIters | None = None,
) -> optax.GradientTransformation:
    """Replace every gradient by SWAN's direction, of root mean square 1.

    With G oriented so that m <= n: divide rows by their root mean square (or, `centered`, subtract
    their mean and divide by their standard deviation: GradNorm of the paper), then compute
    (G G^T)^(-1/2) G (GradWhitening), then scale to Frobenius norm sqrt(m n) (Ma et al., arXiv
    2412.13148, Section 4). Uncentered, this is one sweep of multi-normalization with a row and a
    spectral norm (arXiv 2502.06742), whose result is a fixed point if G has full rank. The
    whitening is exact to rounding, unlike the paper's ten coupled Newton-Schulz steps,
    `swan_whitening()`, which learned less in large batches in a study of small models. With
    `num_iters`, that many sweeps of `scale_by_sinkhorn`, along the rows and columns of `axes`, take
    the place of GradNorm.

    Dtypes and errors are those of `multi_normalize`; the state has no leaves. On a mesh with Auto
    axes, which a transformation cannot see, devices may send many times as much as with Explicit
    axes: use `jax.sharding.explicit_axes(tx.update, in_sharding=...)` with the shardings of
    gradients, state and weights.

    Args:
      num_iters: sweeps of rows and columns before the whitening. None, as in the papers, normalizes
        rows alone; 2 ended at the same loss or lower in that study.
      ...

    Raises:
      ValueError: also if both `centered` and `num_iters` are given.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from multinorm_optax import scale_by_swan
      >>> gradient = {"kernel": jax.random.normal(jax.random.key(0), (160, 64))}
      >>> tx = scale_by_swan()
      >>> updates, _ = tx.update(gradient, tx.init(gradient))
      >>> round(float(jnp.mean(updates["kernel"] ** 2)), 5)
      1.0
    """
    check_arguments(locals())
    if centered and num_iters is not None:
        raise ValueError("give either centered or num_iters: sweeps do not center rows")

    def oriented(tree: Any) -> dict[str, MatrixAxes | Fused | None]:
        found = zip(resolve_axes(axes, tree), jax.tree.leaves(tree), strict=True)
        return {
            path: each and map_spec(MatrixAxes.oriented, each, np.shape(leaf))
            for (path, each), leaf in found
        }

    rows = normalize(CenteredRows() if centered else RowNorm(), oriented)
    spectral = normalize_spectral(oriented, orthogonalizer)
    unit = normalize(FrobeniusNorm(), oriented)
    if num_iters is None:
        return multi_normalize(rows, spectral, unit, num_iters=1)
    sweeps = scale_by_sinkhorn(axes, num_iters)
    return in_float32(optax.chain(sweeps, multi_normalize(spectral, unit, num_iters=1)))


@documented
@takes_options_of(auxiliary_adam)
def swan(
    learning_rate: optax.ScalarOrSchedule = 0.02,
    *,
    axes: AxesLike = None,
    centered: bool = False,
    orthogonalizer: Orthogonalizer | None = None,
    num_iters: NumIters | None = None,
    **options: Unpack[AuxiliaryAdamOptions],
) -> optax.GradientTransformationExtraArgs:
    """SWAN: normalized rows, whitened and rescaled, and Adam for every other parameter.

    The `auxiliary_adam` of `scale_by_swan` (Ma et al., arXiv 2412.13148, Section 4). The defaults
    are the papers', except for the whitening, which is exact; rows are not centered, as in the
    later paper.

    Args:
      num_iters: sweeps of rows and columns before the whitening. None normalizes rows alone.
      ...

    Example:
      >>> import jax.numpy as jnp
      >>> from multinorm_optax import swan
      >>> params = {"dense": {"kernel": jnp.eye(4), "bias": jnp.ones(4)}}
      >>> tx = swan(0.02)
      >>> updates, _ = tx.update(params, tx.init(params), params)
      >>> round(float(jnp.sqrt(jnp.mean(updates["dense"]["kernel"] ** 2))), 6)
      0.001
    """
    direction = functools.partial(
        scale_by_swan, centered=centered, orthogonalizer=orthogonalizer, num_iters=num_iters
    )
    return auxiliary_adam(direction, learning_rate, axes=axes, **options)
