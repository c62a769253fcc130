"""LDAdam: Adam in a low-dimensional subspace that moves every step."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, Unpack

import jax
import jax.numpy as jnp
import optax

from multinorm_optax._baselines.ldadam.step import LowRankPart, initial_part, next_part
from multinorm_optax._matrices.axes import Shape, describe, is_integer
from multinorm_optax._matrices.fused import specs_of, split_fused
from multinorm_optax._matrices.paths import FoundSpec, SpecKind, resolve_specs, unboxed
from multinorm_optax._matrices.rules import AxesLike, resolve_matrices
from multinorm_optax._matrices.suggestions import missing_text
from multinorm_optax._optimizers.arguments import check_arguments, documented, takes_options_of
from multinorm_optax._optimizers.auxiliary_adam import AdamOptions, auxiliary_adam

RankLike: TypeAlias = int | Sequence[tuple[str, int]] | optax.Params


class ScaleByLDAdamState(NamedTuple):
    """The number of steps, and trees like the parameters; `error` is empty without feedback."""

    count: Any
    basis: optax.Updates
    mu: optax.Updates
    nu: optax.Updates
    error: optax.Updates


@documented
def scale_by_ldadam(
    axes: AxesLike = None,
    rank: RankLike = 16,
    *,
    b1: jax.typing.ArrayLike = 0.908,
    b2: jax.typing.ArrayLike = 0.99,
    rho: jax.typing.ArrayLike = 0.908,
    eps: jax.typing.ArrayLike = 1e-8,
    error_feedback: bool = True,
) -> optax.GradientTransformation:
    """Replace every gradient by Adam's direction in a subspace that moves every step.

    Every leaf must be a matrix or a stack of matrices, m x n with m <= n, transposed if necessary;
    the rows of a square matrix are the output features. With k steps before this one and A = G + E:

        P' = the first r left singular vectors of A                            if k = 0
             the Q-factor of B B^T P, B = rho P M/(1 - b1^k) + (1 - rho) A     otherwise
        g = P'^T A;  C = P'^T P;  N = C M
        E <- A - P' g + b1/(1 - b1) (P M - P' N)
        V <- | (C*C) (V - c2 (M/c1)^2) + c2 (N/c1)^2 |,  c_i = 1 - b_i^k      if k > 0
        M <- b1 N + (1 - b1) g;  V <- b2 V + (1 - b2) g^2;  P <- P'
        update = P ((M / (1 - b1^(k+1))) / (sqrt(V / (1 - b2^(k+1))) + eps))

    (Robert, Safaryan, Modoranu, Alistarh, arXiv 2410.16103, Algorithm 1.) State and arithmetic are
    in float32, or float64 for float64 weights; updates have the gradients' dtype.

    The first step has a branch of its own (`lax.cond`), for which a GPU waits in every step: no
    fixed number of products reaches the singular vectors of an arbitrary gradient. Without the
    branch every step would decompose A, for about min(m, n) / r times the cost of its products.

    If the rank of A is below r, the other columns of the basis are arbitrary but orthonormal. A
    gradient of zeros gives an update of zeros. The basis does not depend on the scale of A, but the
    moments do: below entries of 1e-19 the second moment underflows to zero and `eps` dominates;
    above 1e19 it is infinite, and stays infinite, and the update is zero; above 1e36 sums overflow
    to NaN. NaN and infinity in the gradient reach the update and the state.

    Args:
      ...

    Returns:
      A transformation with the state `(count, basis, mu, nu, error)`: (batch..., m, r) for the
      basis, (batch..., r, n) for each moment, and the weight's shape for the error; for a `Fused`
      weight a tuple of such arrays, one per part, all of the weight's rank r. Only the error keeps
      the box of a `flax.linen.Partitioned` parameter.

    Raises:
      TypeError: if a rank is not an integer.
      ValueError: in `init`, for a rank below 1 or above min(m, n), and for a leaf without a rank;
        in `init` and `update`, for leaves that are not matrices or that no rule covers.

    Example:
      >>> import jax
      >>> from multinorm_optax import scale_by_ldadam
      >>> params = {"kernel": jax.random.normal(jax.random.key(0), (160, 64))}
      >>> tx = scale_by_ldadam(rank=4)
      >>> updates, state = tx.update(params, tx.init(params))
      >>> {name: getattr(state, name)["kernel"].shape for name in ("basis", "mu", "nu", "error")}
      {'basis': (64, 4), 'mu': (4, 160), 'nu': (4, 160), 'error': (160, 64)}
    """
    check_arguments(locals())

    def init(params: optax.Params) -> ScaleByLDAdamState:
        kept, found = [], resolve_matrices(axes, params)
        parts, of_parts, _ = split_fused(jax.tree.map(jnp.asarray, params), found)
        ranks = zip(resolve_specs(rank, params, _RANK), found, strict=True)
        of_each = [ranked for ranked, spec in ranks for _ in specs_of(spec)]
        for leaf, each, (path, r) in zip(jax.tree.leaves(parts), of_parts, of_each, strict=True):
            wide = each.oriented(leaf.shape)
            m, n = wide.matrix_shape(leaf.shape)
            if not 1 <= r <= m:
                raise ValueError(
                    f"{describe(path, leaf.shape)}: rank {r} of matrices {m} x {n} is not in 1,"
                    f" ..., {m}; give `rank` a rule for this path, or leave the weight to Adam"
                    " with a rule (pattern, None) in `axes`"
                )
            kept.append(initial_part(leaf, wide, r, error_feedback))
        trees = _by_field(_structures(parts), kept)
        return ScaleByLDAdamState(jnp.zeros([], jnp.int32), *trees)

    def update(
        updates: optax.Updates, state: ScaleByLDAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleByLDAdamState]:
        del params
        count, *kept = state
        gradients, of_parts, join = split_fused(
            jax.tree.map(jnp.asarray, updates), resolve_matrices(axes, updates)
        )
        leaves, structures = jax.tree.leaves(gradients), _structures(gradients)
        fields = zip(structures, kept, strict=True)
        parts = map(LowRankPart, *(each.flatten_up_to(tree) for each, tree in fields))
        results = [
            next_part(gradient, each.oriented(gradient.shape), part, count, (b1, b2, rho, eps))
            for gradient, each, part in zip(leaves, of_parts, parts, strict=True)
        ]
        directions = join(structures.error.unflatten([direction for direction, _ in results]))
        trees = _by_field(structures, [part for _, part in results])
        return directions, ScaleByLDAdamState(optax.safe_increment(count), *trees)

    return optax.GradientTransformation(init, update)


def _structures(params: optax.Params) -> LowRankPart:
    """The structure of each field's tree; flax's boxes fit the error only."""
    plain = jax.tree.structure(unboxed(params))
    return LowRankPart(plain, plain, plain, error=jax.tree.structure(params))


def _by_field(structures: LowRankPart, parts: Sequence[LowRankPart]) -> list[optax.Updates]:
    """The parts as one tree per field."""
    return [
        structure.unflatten([part[field] for part in parts])
        for field, structure in enumerate(structures)
    ]


def _resolve_rank(spec: Any, shape: Shape, path: str) -> int:
    if not is_integer(spec):
        raise TypeError(f"{describe(path, shape)}: its rank must be an integer, got {spec!r}")
    return spec


def _likely_rank(leaf: FoundSpec) -> str:
    return str(max(1, min(16, *leaf.shape[-2:])) if len(leaf.shape) > 1 else 1)


_RANK = SpecKind(
    argument="rank",
    name="int",
    is_spec=is_integer,
    resolve=_resolve_rank,
    missing=functools.partial(missing_text, "rank", "no rule gives its rank", _likely_rank),
)


@documented
@takes_options_of(auxiliary_adam)
def ldadam(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    *,
    axes: AxesLike = None,
    rank: RankLike = 16,
    b1: jax.typing.ArrayLike = 0.908,
    b2: jax.typing.ArrayLike = 0.99,
    rho: jax.typing.ArrayLike = 0.908,
    eps: jax.typing.ArrayLike = 1e-8,
    error_feedback: bool = True,
    adam_b1: jax.typing.ArrayLike = 0.908,
    adam_b2: jax.typing.ArrayLike = 0.99,
    **options: Unpack[AdamOptions],
) -> optax.GradientTransformationExtraArgs:
    """LDAdam: low-rank Adam with error feedback for the matrices, AdamW for everything else.

    W <- W - learning_rate * (T(G) + weight_decay * W), the `auxiliary_adam` of `scale_by_ldadam`
    (Robert et al., arXiv 2410.16103). The defaults are the paper's, also for Adam's decays.

    Args:
      ...

    Example:
      >>> import jax.numpy as jnp
      >>> from multinorm_optax import audit, ldadam
      >>> params = {"dense": {"kernel": jnp.ones((64, 32)), "bias": jnp.ones(32)}}
      >>> for error_feedback in (False, True):
      ...     tx = ldadam(rank=4, error_feedback=error_feedback)
      ...     print(audit(params, tx).state_bytes_of("matrix"))    # 4 (2 r n + r m) and + 4 m n
      2560
      10752
    """
    direction = functools.partial(
        scale_by_ldadam, rank=rank, b1=b1, b2=b2, rho=rho, eps=eps, error_feedback=error_feedback
    )
    return auxiliary_adam(
        direction, learning_rate, axes=axes, alpha=1.0, adam_b1=adam_b1, adam_b2=adam_b2, **options
    )
