"""The alternation of any projections on one weight."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from multinorm_optax._alternation.base import Alternation, Residual
from multinorm_optax._matrices.axes import MatrixAxes
from multinorm_optax._matrices.fused import Fused
from multinorm_optax._norms.base import MatrixSize, Projection
from multinorm_optax._norms.precision import compute_dtype, largest


@dataclasses.dataclass(frozen=True)
class Member:
    """A projection and the axes that it takes as rows and columns."""

    projection: Projection
    axes: MatrixAxes


def members_of(
    projections: Sequence[Projection], axes: Sequence[MatrixAxes | Fused], path: str
) -> tuple[Member, ...] | Fused:
    """The members of one weight, or `Fused` with the members of each part.

    A projection that acts entry by entry fits every part, whatever its own axes are.
    """
    plain = [each for each in axes if not isinstance(each, Fused)]
    if len(plain) == len(axes):
        return tuple(map(Member, projections, plain))
    layouts = {(each.axis, each.sizes) for each in axes if isinstance(each, Fused)}
    pairs = zip(projections, axes, strict=True)
    fused = all(isinstance(each, Fused) or projection.entrywise for projection, each in pairs)
    if len(layouts) > 1 or not fused:
        raise ValueError(
            f"{path or '<root>'}: the projections disagree on the parts of this fused weight,"
            f" {list(axes)}; give all of them the same `axes`"
        )
    ((axis, sizes),) = layouts
    specs = (each.specs if isinstance(each, Fused) else (each,) * len(sizes) for each in axes)
    members = [tuple(map(Member, projections, of_part)) for of_part in zip(*specs, strict=True)]
    return Fused(axis, list(zip(sizes, members, strict=True)))


class WeightAlternation(Alternation):
    """An alternation of members on one weight."""

    def __init__(self, members: tuple[Member, ...], weight: jax.Array):
        self.members = members
        self.weight = weight
        self.length = len(members)
        self.same_batch = len({frozenset(member.axes.matrix) for member in members}) == 1

    def broadcastable(self, residual: jax.Array) -> jax.Array:
        """One residual per matrix, or the largest of all if members have different batch axes."""
        return residual if self.same_batch else jnp.squeeze(largest(residual, range(residual.ndim)))

    def inner_product(self, x: jax.Array, y: jax.Array) -> jax.Array:
        axes = self.members[0].axes.matrix if self.same_batch else None
        return jnp.sum(jnp.real(jnp.conj(x) * y), axis=axes)

    def per_matrix(self, residual: jax.Array) -> jax.Array:
        return jnp.squeeze(residual, self.members[0].axes.matrix) if residual.ndim else residual


class MatrixAlternation(WeightAlternation):
    """An alternation that carries the iterate; sizes are fixed if all members keep the support."""

    def __init__(self, members: tuple[Member, ...], weight: jax.Array):
        super().__init__(members, weight)
        self.start = weight.astype(compute_dtype(weight.dtype))

    @functools.cached_property
    def _sizes(self) -> list[MatrixSize] | None:
        if not all(member.projection.keeps_support for member in self.members):
            return None
        return [each.projection.size(self.start, each.axes) for each in self.members]

    def half_step(self, k: int, state: jax.Array) -> tuple[jax.Array, Residual]:
        projection, axes = self.members[k].projection, self.members[k].axes
        size = self._sizes[k] if self._sizes else projection.size(state, axes)
        projected = projection.project(state, axes, size)
        return projected, lambda: self.broadcastable(
            projection.residual(state, projected, axes, size)
        )
