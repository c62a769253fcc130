"""LDAdam: Adam in a subspace of few directions that moves every step.

Robert, Safaryan, Modoranu, Alistarh, "LDAdam: Adaptive Optimization from Low-Dimensional Gradient
Statistics", arXiv 2410.16103, Algorithm 1: the subspace follows the gradients by one power
iteration a step, the moments are carried over to each new basis, and what the subspace does not
hold is added to the next gradient.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from multinorm_optax._baselines.ldadam.step import LowRankPart, initial_part, next_part
from multinorm_optax._baselines.ldadam.subspace import Sides
from multinorm_optax._matrices.axes import Shape, describe
from multinorm_optax._matrices.paths import SpecKind, resolve_specs
from multinorm_optax._matrices.rules import AxesLike, resolve_matrices
from multinorm_optax._optimizers.arguments import (
    Mask,
    check_numbers,
    check_static,
    documented,
    is_integer,
)
from multinorm_optax._optimizers.auxiliary_adam import AdamGroup, auxiliary_adam

RankLike: TypeAlias = int | Sequence[tuple[str, int]] | optax.Params
"""One rank for all matrices, or rules by path, or a tree of ranks, see `scale_by_ldadam`."""


class ScaleByLDAdamState(NamedTuple):
    """The number of steps, and trees like the parameters, without arrays where nothing is kept."""

    count: Any
    basis: Any
    mu: Any
    nu: Any
    error: Any


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
    """Replaces every gradient by Adam's direction in a subspace that moves every step.

    Of a weight taken as matrices of m x n, m <= n (transposed otherwise; of a square weight the
    output features are the m rows), with k steps before this one and A = G + E:

        P' = the first r left singular vectors of A                            if k = 0
             the Q-factor of B B^T P, B = rho P M/(1 - b1^k) + (1 - rho) A     otherwise
        g = P'^T A;  C = P'^T P;  N = C M
        E <- A - P' g + b1/(1 - b1) (P M - P' N)
        V <- | (C*C) (V - c2 (M/c1)^2) + c2 (N/c1)^2 |,  c_i = 1 - b_i^k      if k > 0
        M <- b1 N + (1 - b1) g;  V <- b2 V + (1 - b2) g^2;  P <- P'
        update = P (M / (1 - b1^(k+1))) / (sqrt(V / (1 - b2^(k+1))) + eps)

    (Robert et al., arXiv 2410.16103, Algorithm 1; its defaults.) Between the two products of the
    power iteration its columns are made orthonormal, which changes neither its span nor, but for
    signs that cancel, its result, and keeps small singular values apart from rounding.

    All state is float32, or float64 for float64 weights, whatever the dtype of the gradients, and
    so is all arithmetic; updates leave with the gradients' dtype. A matrix has 2 r n + r m numbers
    of state, and m n more with error feedback.

    Where A has fewer than r directions, the others of the basis are arbitrary, orthonormal, and see
    rounding errors of A; as Adam does, it divides these by their own size as long as that is above
    `eps`. A gradient of zeros leaves a basis of unit vectors and an update of zeros, until the
    power iteration turns it. The basis does not depend on the scale of A; the moments are Adam's:
    where squares leave float32, below entries of 1e-19 the second moment is zero and `eps` rules,
    above 1e19 it is infinite, and stays so, and the update zero; above 1e36 sums overflow to NaN.
    NaN and infinity in the gradient reach the update, and the state.

    Args:
      axes: which axes of each leaf are rows and columns, see `resolve_axes`. Every leaf has to be a
        matrix or a stack of them.
      error_feedback: whether E is kept; without it A = G. It is a Python boolean.
      ...

    Returns:
      A transformation with the state `(count, basis, mu, nu, error)`: (batch..., m, r) for the
      basis, (batch..., r, n) for the moments, the weight's own shape for the error.

    Raises:
      TypeError: if a rank is no integer but, say, an array.
      ValueError: in `init`, for a rank below 1 or above min(m, n), for a leaf without a rank, for
        leaves that are not matrices or that no rule covers.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from multinorm_optax import scale_by_ldadam
      >>> params = {"kernel": jax.random.normal(jax.random.key(0), (160, 64))}
      >>> tx = scale_by_ldadam(rank=4)
      >>> state = tx.init(params)
      >>> {name: getattr(state, name)["kernel"].shape for name in ("basis", "mu", "nu", "error")}
      {'basis': (64, 4), 'mu': (4, 160), 'nu': (4, 160), 'error': (160, 64)}
      >>> updates, state = tx.update(params, state)
      >>> print(jnp.linalg.matrix_rank(updates["kernel"]))
      4
    """
    check_static(rank=rank, error_feedback=error_feedback)
    check_numbers(b1=b1, b2=b2, rho=rho, eps=eps)

    def init(params: optax.Params) -> ScaleByLDAdamState:
        leaves, structure = jax.tree.flatten(params)
        found = resolve_matrices(axes, params)
        ranks = resolve_specs(rank, params, _RANK)
        kept = []
        for leaf, of_leaf, (path, r) in zip(leaves, found, ranks, strict=True):
            sides = Sides.of(leaf.shape, of_leaf)
            kept.append(initial_part(leaf, sides, _checked(r, sides, path), error_feedback))
        return ScaleByLDAdamState(jnp.zeros([], jnp.int32), *_by_field(structure, kept))

    def update(
        updates: optax.Updates, state: ScaleByLDAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleByLDAdamState]:
        del params
        leaves = jax.tree.leaves(jax.tree.map(jnp.asarray, updates))
        structure: Any = jax.tree.structure(updates)
        kept = zip(*map(structure.flatten_up_to, state[1:]), strict=True)
        decays = (b1, b2, rho, eps)
        results = [
            next_part(g, Sides.of(g.shape, found), LowRankPart(*part), state.count, decays)
            for g, found, part in zip(leaves, resolve_matrices(axes, updates), kept, strict=True)
        ]
        directions = jax.tree.unflatten(structure, [direction for direction, _ in results])
        trees = _by_field(structure, [part for _, part in results])
        return directions, ScaleByLDAdamState(optax.safe_increment(state.count), *trees)

    return optax.GradientTransformation(init, update)


def _by_field(structure: Any, parts: Sequence[LowRankPart]) -> list[Any]:
    """A tree for every field."""
    return [
        jax.tree.unflatten(structure, [getattr(part, field) for part in parts])
        for field in LowRankPart._fields
    ]


def _resolve_rank(spec: Any, shape: Shape, path: str) -> int:
    if not is_integer(spec):
        raise TypeError(f"{describe(path, shape)}: its rank must be an integer, got {spec!r}")
    return spec


_RANK = SpecKind(
    argument="rank",
    name="int",
    is_spec=is_integer,
    resolve=_resolve_rank,
    missing=lambda pattern: f"no rule gives its rank; add one to `rank`, such as ({pattern!r}, 16)",
)


def _checked(rank: int, sides: Sides, path: str) -> int:
    m, n = sides.axes.matrix_shape(sides.shape)
    if 1 <= rank <= m:
        return rank
    raise ValueError(
        f"{describe(path, sides.shape)}: rank {rank} of matrices {m} x {n} is not in 1, ..., {m};"
        " give `rank` a rule for this path, or train the weight otherwise, by a rule"
        " (pattern, None) in `axes`"
    )


@documented
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
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask = None,
    adam: AdamGroup = AdamGroup(b1=0.908, b2=0.99),
) -> optax.GradientTransformationExtraArgs:
    """LDAdam: low-rank Adam with error feedback on the matrices, AdamW on everything else.

    W <- W - learning_rate * (T(G) + weight_decay * W), with T of `scale_by_ldadam` (Robert et al.,
    arXiv 2410.16103). The defaults are the paper's.

    Args:
      b1: decay of the first moment of the matrices.
      b2: decay of the second moment of the matrices.
      adam: how every other parameter is trained, by default with the same decays.
      ...

    Returns:
      An optimizer, the `auxiliary_adam` of `scale_by_ldadam`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from multinorm_optax import audit, ldadam
      >>> params = {"dense": {"kernel": jnp.ones((64, 32)), "bias": jnp.ones(32)}}
      >>> for error_feedback in (False, True):
      ...     tx = ldadam(rank=4, error_feedback=error_feedback)
      ...     print(audit(tx, params).state_bytes_of("matrix"))    # 4 (2 r n + r m) and + 4 m n
      2560
      10752
    """
    return auxiliary_adam(
        lambda axes: scale_by_ldadam(
            axes, rank, b1=b1, b2=b2, rho=rho, eps=eps, error_feedback=error_feedback
        ),
        learning_rate,
        axes=axes,
        alpha=1.0,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
        adam=adam,
    )
