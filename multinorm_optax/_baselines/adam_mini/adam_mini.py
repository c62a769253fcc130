"""Adam-mini: a full first moment, and one second moment per block of a weight."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from multinorm_optax._baselines.adam_mini.blocks import Blocks, BlocksLike, resolve_blocks
from multinorm_optax._baselines.adam_mini.means import Moments, mean_squares
from multinorm_optax._matrices.fused import Fused
from multinorm_optax._matrices.paths import array_leaves, check_dtype, named_leaves, unboxed
from multinorm_optax._matrices.roles import is_norm_or_bias
from multinorm_optax._norms.precision import compute_dtype
from multinorm_optax._optimizers.arguments import Mask, check_arguments, documented
from multinorm_optax._optimizers.auxiliary_adam import in_float32
from multinorm_optax._optimizers.weight_decay import add_decayed_weights

_update_moment, _unbiased = optax.tree.update_moment, optax.tree.bias_correction


@documented
def scale_by_adam_mini(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    blocks: BlocksLike,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformation:
    """Adam's direction with one second moment per block.

    m <- b1 m + (1 - b1) g, and v_b <- b2 v_b + (1 - b2) mean |g_i|^2 over the entries i of block b.
    The update of such an entry at step t = 1, 2, ... is m / (1 - b1^t) / (sqrt(v_b / (1 - b2^t)) +
    eps) (Zhang et al., arXiv 2406.16793, Algorithm 1, version 1.1 of their code). With blocks of
    one entry this is `optax.scale_by_adam`.

    Computation and second moment are in float32, or in float64 for float64 parameters: with
    b2 = 0.999 a second moment in bfloat16 would not move. Updates keep the gradients' dtype.

    Args:
      blocks: which entries share a second moment; required, because shapes do not show attention
        heads. One spec for all leaves; rules `[(pattern, spec), ...]`, of which the first whose
        regular expression matches a leaf's whole path decides (see `flax_blocks`); a tree of specs,
        or a prefix of one; or a function of the parameters that returns one, to be listed in the
        `static_args` of `optax.inject_hyperparams`. A spec is `Blocks` or `Fused`, or for a block
        per output neuron `MatrixAxes` or `optax.contrib.MuonDimensionNumbers`. In a rule it may be
        a function of path and shape that returns a spec, or `UNCOVERED` to leave the leaf to the
        next rule.
      ...

    Returns:
      A transformation with the state `optax.ScaleByAdamState(count, mu, nu)`. For each parameter
      nu is an array with as many axes (without the box of a `flax.linen.Partitioned` parameter), of
      size 1 where all entries share and n / length where runs of them do; with `Fused` a tuple of
      such arrays, one per part.

    Raises:
      ValueError: in `init` and `update`, for leaves that no rule covers or whose blocks do not fit.
      TypeError: for leaves that are not of a floating-point or complex dtype, and for other specs.

    Example:
      >>> import jax.numpy as jnp
      >>> from multinorm_optax import Blocks, scale_by_adam_mini
      >>> gradient = {"kernel": jnp.array([[1.0, 3.0], [7.0, -3.0]])}         # (in, out)
      >>> tx = scale_by_adam_mini(blocks=Blocks(whole=-2))
      >>> updates, state = tx.update(gradient, tx.init(gradient))
      >>> updates["kernel"].round(1)                   # each column over its root mean square
      Array([[ 0.2,  1. ],
             [ 1.4, -1. ]], dtype=float32)
      >>> state.nu["kernel"].shape
      (1, 2)
    """
    check_arguments(locals())

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        found = _resolve(blocks, params)

        def zeros(leaves: list[jax.Array]) -> list[Moments]:
            means = [mean_squares(*each)[0] for each in zip(leaves, found, strict=True)]
            return optax.tree.zeros_like(means)

        # Compiled, this computes only zeros, but with the shardings of the means of gradients.
        nu = jax.jit(zeros, keep_unused=True)(jax.tree.leaves(params))

        def first_moment(p: jax.Array) -> jax.Array:
            return jnp.zeros_like(p, None if jnp.iscomplexobj(p) else mu_dtype)

        return optax.ScaleByAdamState(
            count=jnp.zeros([], jnp.int32),
            mu=jax.tree.map(first_moment, params),
            nu=jax.tree.unflatten(jax.tree.structure(unboxed(params)), nu),
        )

    def update(
        updates: optax.Updates, state: optax.ScaleByAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        del params
        count = optax.safe_increment(state.count)

        def step(
            g: jax.Array, mu: jax.Array, nu: Moments, found: Blocks | Fused
        ) -> tuple[jax.Array, jax.Array, Moments]:
            x = g.astype(compute_dtype(g.dtype))
            means, spread = mean_squares(x, found)
            first = _update_moment(x, mu.astype(x.dtype), b1, 1)
            second = _update_moment(means, nu, b2, 1)
            sizes = jax.tree.map(lambda v: jnp.sqrt(v) + eps, _unbiased(second, b2, count))
            direction = (_unbiased(first, b1, count) / spread(sizes)).astype(g.dtype)
            return direction, first.astype(mu.dtype), optax.tree.cast_like(second, nu)

        gradients = jax.tree.leaves(jax.tree.map(jnp.asarray, updates))
        structure: Any = jax.tree.structure(state.mu)
        without_boxes: Any = jax.tree.structure(unboxed(state.mu))
        moments = jax.tree.leaves(state.mu), without_boxes.flatten_up_to(state.nu)
        results = list(map(step, gradients, *moments, _resolve(blocks, updates)))
        directions, mu, nu = ([result[i] for result in results] for i in range(3))
        state = optax.ScaleByAdamState(count, structure.unflatten(mu), without_boxes.unflatten(nu))
        return jax.tree.unflatten(jax.tree.structure(updates), directions), state

    return optax.GradientTransformation(init, update)


@documented
def adam_mini(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    *,
    blocks: BlocksLike,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask = None,
    cautious_weight_decay: bool = False,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam-mini: AdamW with one second moment per block, which halves its state.

    W <- W - learning_rate * (D + weight_decay * W) with the direction D of `scale_by_adam_mini`.
    The defaults are those of Zhang et al., arXiv 2406.16793.

    Args:
      blocks: which entries share a second moment, see `scale_by_adam_mini`; often `flax_blocks`.
      weight_decay: decoupled, a number or a schedule. Unless it is 0, `update` needs `params`.
      weight_decay_mask: as for `optax.adamw`, a tree (or prefix) of booleans or a function of the
        parameters that returns one. None decays all leaves except, by their paths, norm gains and
        biases; True decays everything.
      ...

    Returns:
      An optimizer with the errors and the state of `scale_by_adam_mini`, and a schedule's count.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from multinorm_optax import adam_mini, flax_blocks
      >>> params = {"attention": {"query": {"kernel": jnp.ones((64, 48))}}, "up": {
      ...     "kernel": jnp.ones((64, 128)), "bias": jnp.ones(128)}}
      >>> tx = adam_mini(1e-3, blocks=flax_blocks(head_dim=16), weight_decay=0.1)
      >>> jax.tree.map(jnp.shape, tx.init(params)[0].nu)
      {'attention': {'query': {'kernel': (1, 3)}}, 'up': {'bias': (128,), 'kernel': (1, 128)}}
    """
    check_arguments(locals())
    mask = _no_norms_or_biases if weight_decay_mask is None else weight_decay_mask
    direction = scale_by_adam_mini(b1, b2, eps, blocks=blocks, mu_dtype=mu_dtype)
    decay = add_decayed_weights(weight_decay, mask, cautious_weight_decay)
    return in_float32(optax.chain(direction, decay, optax.scale_by_learning_rate(learning_rate)))


def _no_norms_or_biases(params: optax.Params) -> Any:
    decayed = [not is_norm_or_bias(path) for path, _ in named_leaves(params)]
    return jax.tree.unflatten(jax.tree.structure(params), decayed)


def _resolve(blocks: BlocksLike, tree: Any) -> list[Blocks | Fused]:
    """The blocks of every leaf; raise for integers."""
    for path, leaf in array_leaves(tree):
        check_dtype(path, leaf)
    return [found for _, found in resolve_blocks(blocks, tree)]
