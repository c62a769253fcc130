"""Stateless directions for embeddings and output heads: a Sinkhorn alternation."""

import jax
import jax.numpy as jnp
import optax

from multinorm_optax._alternation.combinator import multi_normalize
from multinorm_optax._matrices.axes import MatrixAxes
from multinorm_optax._matrices.rules import AxesLike, on_matrices
from multinorm_optax._norms.euclidean import RowNorm
from multinorm_optax._norms.normalize import normalize_columns, normalize_rows
from multinorm_optax._norms.precision import compute_dtype, unit_scale
from multinorm_optax._optimizers.arguments import check_arguments, documented
from multinorm_optax._optimizers.auxiliary_adam import in_float32


def zero_small_rows(
    axes: AxesLike = None, threshold: jax.typing.ArrayLike = 1e-3
) -> optax.GradientTransformation:
    """Set rows to zero whose norm is at most `threshold` times the mean norm of the rows."""

    def without_small_rows(g: jax.Array, found: MatrixAxes) -> jax.Array:
        x = g.astype(compute_dtype(g.dtype))
        norms = RowNorm().group_norms(x * unit_scale(x, found.matrix), found)
        mean = jnp.mean(norms, axis=found.output, keepdims=True)
        return jnp.where((norms <= threshold * mean) & jnp.isfinite(mean), 0, g)

    return on_matrices(without_small_rows, axes)


@documented
def scale_by_token_sinkhorn(
    axes: AxesLike = None, num_iters: int = 5, threshold: jax.typing.ArrayLike = 1e-3
) -> optax.GradientTransformation:
    """Normalize tables of tokens: set small rows to zero, then run 2 num_iters + 1 half-steps.

    A row (output) belongs to one token, a column (input) to a dimension of the width: use
    `MatrixAxes(output=0, input=1)` for an embedding table (tokens, width); a head's flax kernel
    (width, tokens) has its tokens as output features anyway. Rows with ||G_i,:||_2 <= tau * mean
    over k of ||G_k,:||_2 become zero, because normalization would amplify their noise, unless the
    matrix has a NaN or an infinity. All other rows end with root mean square 1 exactly, columns
    approximately. Five sweeps are the eleven half-steps of DeepSeek-AI, arXiv 2609.19969, Section
    2.5, which apply to Nesterov momentum, with 0.18 times the learning rate of the other weights.

    Args:
      num_iters: sweeps of columns and rows after the first half-step on the rows.
      ...

    Returns:
      A transformation without state; dtypes and errors as for `normalize`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from multinorm_optax import MatrixAxes, scale_by_token_sinkhorn
      >>> table = jax.random.normal(jax.random.key(0), (256, 32)).at[7].set(0)
      >>> tx = scale_by_token_sinkhorn(MatrixAxes(output=0, input=1))
      >>> update, _ = tx.update(table, tx.init(table))
      >>> size = jnp.sqrt(jnp.mean(update**2, axis=1))
      >>> bool(jnp.allclose(size.at[7].set(1), 1)), float(size[7])
      (True, 0.0)
    """
    check_arguments(locals())
    rows, columns = normalize_rows(axes), normalize_columns(axes)
    sweeps = multi_normalize(columns, rows, num_iters=num_iters)
    return in_float32(optax.chain(zero_small_rows(axes, threshold), rows, sweeps))
