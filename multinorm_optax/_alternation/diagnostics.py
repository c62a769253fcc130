"""Diagnostics of `multi_normalize`, by its own half-steps: iterates, residuals, dual values."""

import itertools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from multinorm_optax._alternation.base import Alternation, is_few
from multinorm_optax._alternation.combinator import alternations, check_arguments
from multinorm_optax._alternation.matrix import MatrixAlternation, Member, members_of
from multinorm_optax._matrices.fused import split_fused
from multinorm_optax._matrices.paths import named_leaves
from multinorm_optax._matrices.rules import resolve_axes
from multinorm_optax._norms.euclidean import FrobeniusNorm
from multinorm_optax._norms.normalize import Normalization


class MultiNormalizeTrace(NamedTuple):
    """The result of `trace_multi_normalize`."""

    iterates: Any
    residuals: Any
    dual_values: Any


def trace_multi_normalize(
    updates: optax.Updates,
    *projections: optax.GradientTransformation,
    num_iters: int = 5,
    params: optax.Params | None = None,
) -> MultiNormalizeTrace:
    """All iterates of `multi_normalize`, with residuals and dual values, for plots.

    The dual values of two norms whose projections have equal Frobenius norm converge, but a common
    fixed point may not exist (in the plane, the max norm and the max norm rotated by 30 degrees
    have a two-cycle).

    Args:
      updates: the gradients.
      *projections: as for `multi_normalize`.
      num_iters: L, the number of sweeps.
      params: the parameters, for members that need them.

    Returns:
      A named tuple of trees like the updates, in at least float32, with the fields

      - `iterates`: x_0 = G, x_1, ..., x_LK (the update), stacked along a new first axis;
      - `residuals`: of each norm after each sweep, of shape (L, K, *batch);
      - `dual_values`: <x_k, x_k+1> for k = 0, ..., LK - 1, of shape (L K, *batch). The first is the
        dual norm of the gradient; the others never decrease if K = 2.

      If members have different batch axes, and for transformations of the whole tree, residuals and
      dual values have no batch. For a `Fused` leaf they are tuples with an array for each part.

    Example:
      >>> import jax
      >>> from multinorm_optax import normalize_columns, normalize_rows, trace_multi_normalize
      >>> gradient = {"kernel": jax.random.normal(jax.random.key(0), (160, 64))}
      >>> trace = trace_multi_normalize(gradient, normalize_rows(), normalize_columns())
      >>> trace.iterates["kernel"].shape, trace.residuals["kernel"].shape
      ((11, 160, 64), (5, 2))
      >>> bool(trace.residuals["kernel"][-1, 0] < 1e-6)      # rows, after the fifth sweep
      True
    """
    num_iters = operator.index(check_arguments(projections, num_iters))
    updates = jax.tree.map(jnp.asarray, updates)
    found, join = alternations(projections, updates, params)
    structure: Any = jax.tree.structure(found)
    traces = [_trace(each, num_iters) for each in jax.tree.leaves(found)]
    fields = ([trace[i] for trace in traces] for i in range(len(MultiNormalizeTrace._fields)))
    iterates, residuals, dual_values = map(structure.unflatten, fields)
    return MultiNormalizeTrace(join(iterates, leading=1), residuals, dual_values)


def _trace(alternation: Alternation, num_iters: int) -> MultiNormalizeTrace:
    state = first = alternation.start
    iterates, residuals = [alternation.value(state)], []
    for count in range(num_iters):
        before = new = state
        for k in range(alternation.length):
            if count == 0:
                state = new = alternation.first_half_step(k, new)
            else:
                new, _ = alternation.half_step(k, new)
                state = new if is_few(num_iters) else alternation.accepted(new, before, first)
            iterates.append(alternation.value(state))
        first = state if count == 0 else first
        residuals.append(_residuals(alternation, state))
    dual_values = [alternation.inner_product(old, new) for old, new in itertools.pairwise(iterates)]
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *iterates)
    return MultiNormalizeTrace(stacked, jnp.stack(residuals), jnp.stack(dual_values))


def _residuals(alternation: Alternation, state: Any) -> jax.Array:
    """The residuals of all norms, of shape (K, *batch)."""
    each = [alternation.half_step(k, state)[1]() for k in range(alternation.length)]
    return jnp.stack([alternation.per_matrix(residual) for residual in each])


def _residuals_at_unit_size(x: jax.Array, members: tuple[Member, ...]) -> jax.Array:
    together = MatrixAlternation(members, x)

    def residual(member: Member) -> jax.Array:
        unit = MatrixAlternation((Member(FrobeniusNorm(), member.axes),), x)
        alone = MatrixAlternation((member,), unit.last_iterate(num_iters=1))
        found = alone.half_step(0, alone.start)[1]()
        return together.per_matrix(together.broadcastable(found))

    return jnp.stack([residual(member) for member in members])


def measure_residuals(
    *projections: optax.GradientTransformation,
) -> Callable[[optax.Updates], dict[str, jax.Array]]:
    """Measure how far updates are from unit norm during training, for `optax.snapshot`.

    Every matrix is first scaled to root mean square 1, so that the measure can follow a whole
    optimizer with any learning rate. Leaves that are not matrices are left out.

    Args:
      *projections: made by `normalize` or a function such as `normalize_rows`; others are a
        TypeError.

    Returns:
      A function of updates that returns the residuals by path, of shape (K, *batch), or (K,) if the
      projections have different batch axes. The parts of a `Fused` leaf have the paths
      `qkv/kernel/0`, `qkv/kernel/1`, and so on.

    Example:
      >>> import jax, optax
      >>> from multinorm_optax import measure_residuals, normalize_rows, sinkgd
      >>> measure = measure_residuals(normalize_rows())
      >>> tx = optax.chain(sinkgd(1e-2), optax.snapshot("rows", measure))
      >>> params = {"kernel": jax.random.normal(jax.random.key(0), (160, 64))}
      >>> _, state = tx.update(params, tx.init(params), params)
      >>> bool(optax.tree.get(state, "rows")["kernel"][0] < 1e-6)
      True
    """
    members = [each for each in projections if isinstance(each, Normalization) and each.projection]
    if len(members) < max(1, len(projections)):
        raise TypeError(
            "measure_residuals takes projections made by multinorm_optax.normalize, at least one,"
            f" got {projections}"
        )

    def measure(updates: optax.Updates) -> dict[str, jax.Array]:
        found = [resolve_axes(each.axes, updates) for each in members]
        measured = {}
        for leaf, *resolved in zip(jax.tree.leaves(updates), *found, strict=True):
            path, axes = resolved[0][0], [each for _, each in resolved if each is not None]
            if len(axes) == len(members):
                chosen = members_of([each.projection for each in members], axes, path)
                parts, of_parts, _ = split_fused({path: jnp.asarray(leaf)}, [chosen])
                for (name, part), each in zip(named_leaves(parts), of_parts, strict=True):
                    measured[name] = _residuals_at_unit_size(part, each)
        return measured

    return measure
