"""Multi-normalization: several projections in one alternation."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from multinorm_optax._alternation.base import Alternation, NumIters, Tolerance
from multinorm_optax._alternation.matrix import (
    MatrixAlternation,
    Member,
    WeightAlternation,
    members_of,
)
from multinorm_optax._alternation.scales import ScaleAlternation, in_blocks, only_rescale
from multinorm_optax._alternation.tree import TreeAlternation, empty_state
from multinorm_optax._alternation.windows import Parts
from multinorm_optax._matrices.axes import is_number
from multinorm_optax._matrices.fused import split_fused
from multinorm_optax._matrices.paths import named_leaves
from multinorm_optax._matrices.rules import resolve_matrices
from multinorm_optax._norms.base import Projection
from multinorm_optax._norms.normalize import Normalization
from multinorm_optax._norms.spectral import SpectralNorm


def multi_normalize(
    *projections: optax.GradientTransformation, num_iters: NumIters = 5, tol: Tolerance = None
) -> optax.GradientTransformation:
    """Alternate stateless transformations until all of their norms are one, or nearly.

    x <- G; then `num_iters` times: for each projection in order, x <- P_i(x) (Scetbon et al., arXiv
    2502.06742, algorithm MultiNorm).

    For two norms whose projections have equal Frobenius norm c, the dual value <x_k, x_k+1> never
    decreases and is at most c^2; both norms become one if and only if it reaches c^2. For (rows,
    columns) it does if the matrix has full support, for (rows, spectral) if it has full rank, and
    it may not otherwise.

    The gradient is upcast once, to at least float32, and the result downcast once. Members made by
    `normalize` run weight by weight. If all of them are Euclidean (rows, columns, Frobenius), only
    their scales are iterated, without another array of the weight's size. Other stateless
    transformations run on the whole tree.

    Args:
      *projections: transformations without state, in order: `normalize_rows()` and the like, or any
        `optax.GradientTransformation` whose state has no leaves.
      num_iters: L, the number of sweeps, at least 1.
      tol: if given, the sweeps of each matrix stop once its residual is at most `tol`. The residual
        of a norm is the largest error of a group's root mean square (of a row, a column), which
        should be 1; the residual of any other transformation is the relative change that it would
        make. Reverse-mode differentiation needs `tol=None`, and a Python integer as `num_iters`.

    Raises:
      TypeError: if a member is not a transformation, or `num_iters` is not an integer.
      ValueError: if there are no projections, `num_iters` is below 1, `tol` is negative, or (in
        `init` and `update`) a member has state; also as for `normalize`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from multinorm_optax import multi_normalize, normalize_columns, normalize_rows
      >>> tx = multi_normalize(normalize_rows(), normalize_columns())     # SinkGD's direction
      >>> gradient = {"kernel": jax.random.normal(jax.random.key(0), (160, 64))}
      >>> updates, _ = tx.update(gradient, tx.init(gradient))
      >>> rms = jnp.sqrt(jnp.mean(updates["kernel"] ** 2, axis=0))
      >>> bool(jnp.max(jnp.abs(rms - 1)) < 1e-6)
      True
    """
    num_iters = check_arguments(projections, num_iters, tol)

    def init(params: optax.Params) -> optax.EmptyState:
        for index, projection in enumerate(projections):
            empty_state(index, projection, params)
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        updates = jax.tree.map(jnp.asarray, updates)
        found, join = alternations(projections, updates, params, blocks=tol is None, **extra_args)
        results = join(jax.tree.map(lambda each: _last_iterate(each, num_iters, tol), found))

        def finish(new: jax.Array, old: jax.Array) -> jax.Array:
            return new.astype(old.dtype).reshape(old.shape)

        return jax.tree.map(finish, results, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _last_iterate(alternation: Alternation, num_iters: NumIters, tol: Tolerance) -> Any:
    known = isinstance(num_iters, int) and tol is None
    if isinstance(alternation, WeightAlternation) and known and _are_own(alternation.members):
        parts = alternation.parts if isinstance(alternation, ScaleAlternation) else None
        return _traced_once(alternation.weight, alternation.members, parts, num_iters)
    return alternation.last_iterate(num_iters, tol)


def _are_own(members: tuple[Member, ...]) -> bool:
    """Whether all projections are of this package, whose equality and hashes can be relied on."""
    own = __name__.partition(".")[0] + "."
    projections = [each.projection for each in members]
    orthogonalizers = [each.orthogonalizer for each in projections if type(each) is SpectralNorm]
    names = (getattr(each, "__module__", None) for each in (*projections, *orthogonalizers))
    return all(name is not None and name.startswith(own) for name in names)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _traced_once(
    weight: jax.Array, members: tuple[Member, ...], parts: Parts | None, num_iters: int
) -> jax.Array:
    """The last iterate, traced once for leaves of equal shape, such as those of many layers."""
    return _alternation(weight, members, parts).last_iterate(num_iters)


def check_arguments(
    projections: tuple[optax.GradientTransformation, ...],
    num_iters: NumIters,
    tol: Tolerance = None,
) -> NumIters:
    """Check the arguments and return the number of sweeps; values of arrays are not checked."""
    if not projections:
        raise ValueError("multi_normalize needs at least one projection")
    for each in projections:
        if not isinstance(each, optax.GradientTransformation):
            hint = f"normalize({each!r})" if isinstance(each, Projection) else "one of optax's"
            raise TypeError(f"{each!r} is not a transformation; write {hint}")
    if isinstance(num_iters, jax.Array):
        if num_iters.shape or not jnp.issubdtype(num_iters.dtype, jnp.integer):
            raise TypeError(f"num_iters must be an integer, got {jax.typeof(num_iters)}")
        num_iters = num_iters.astype(jnp.int32)
    else:
        try:
            if isinstance(num_iters, bool):
                raise TypeError
            num_iters = operator.index(num_iters)
        except TypeError as error:
            raise TypeError(f"num_iters must be an integer, got {num_iters!r}") from error
        if num_iters < 1:
            raise ValueError(f"num_iters must be at least 1, got {num_iters}")
    if tol is not None:
        if not is_number(tol):
            raise TypeError(f"tol must be a number, got {tol!r}")
        if not isinstance(tol, jax.Array) and not tol >= 0:
            raise ValueError(f"tol must be at least 0, got {tol}")
    return num_iters


def alternations(
    projections: tuple[optax.GradientTransformation, ...],
    updates: optax.Updates,
    params: optax.Params | None,
    blocks: bool = False,
    **extra_args: Any,
) -> tuple[Any, Callable[..., Any]]:
    """One alternation per weight if `normalize` made every member, else one of the whole tree.

    Each part of a fused weight has its own; the returned function joins their results. With
    `blocks`, parts that are only rescaled share one alternation of the weight in blocks.
    """
    own = [each for each in projections if isinstance(each, Normalization) and each.projection]
    if len(own) < len(projections):
        tree = TreeAlternation(projections, updates, params, extra_args)
        return tree, lambda results, leading=0: results
    found = {id(each.axes): resolve_matrices(each.axes, updates) for each in own}
    chosen = [each.projection for each in own]
    several = zip(*(found[id(each.axes)] for each in own), strict=True)
    paths = [path for path, _ in named_leaves(updates)]
    members: list[Any] = list(map(functools.partial(members_of, chosen), several, paths))
    if blocks:
        leaves = jax.tree.leaves(updates)
        members = [in_blocks(*each) or each[0] for each in zip(members, leaves, strict=True)]
    whole_or_parts, specs, join = split_fused(updates, members)
    leaves, structure = jax.tree.flatten(whole_or_parts)
    return jax.tree.unflatten(structure, map(_alternation, leaves, specs)), join


def _alternation(
    weight: jax.Array,
    members: tuple[Member, ...] | ScaleAlternation,
    parts: Parts | None = None,
) -> WeightAlternation:
    if isinstance(members, ScaleAlternation):
        return members
    if only_rescale(members):
        return ScaleAlternation(members, weight, parts)
    return MatrixAlternation(members, weight)
