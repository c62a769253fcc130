"""Several weights stored as one, such as fused query, key and value kernels."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from multinorm_optax._matrices.axes import Shape, check_axes, describe, is_integer
from multinorm_optax._matrices.stacks import explicit_sharding, left_to_xla

Spec = TypeVar("Spec")


@dataclasses.dataclass(frozen=True, init=False)
class Fused:
    """Several weights that are stored as one, each with its own spec.

    Use it for `axes`, with `MatrixAxes` for each part, or for `blocks`, with `Blocks`. Optimizers
    then normalize each part by itself, as if the kernel had been split. SinkGD, and any alternation
    of row, column and Frobenius norms without `tol`, copies no part if all parts have the same
    spec, and sizes with a common divisor of at least 1/64 of their sum, and lie on the same
    devices. Otherwise parts are split and concatenated.
    Shard a kernel along another axis than that of its parts, or parts move between devices.

    Attributes:
      axis: the axis along which the parts follow one another. Like the axes of a part it may count
        from the end, so that one spec fits stacks of layers too.
      parts: the size along this axis and the spec of each part: `MatrixAxes` or
        `optax.contrib.MuonDimensionNumbers`, or for `blocks` also `Blocks`.

    Raises:
      TypeError: if the axis or a size is not an integer, or if a part is None or `Fused`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from multinorm_optax import Fused, MatrixAxes, scale_by_sinkhorn
      >>> heads, kv_heads, width = 8, 2, 4
      >>> kernel = MatrixAxes(output=-1, input=-2)
      >>> sizes = heads * width, kv_heads * width, kv_heads * width
      >>> qkv = Fused(axis=-1, parts=[(size, kernel) for size in sizes])
      >>> gradient = {"qkv": jax.random.normal(jax.random.key(0), (24, sum(sizes)))}
      >>> tx = scale_by_sinkhorn([("qkv", qkv)])
      >>> updates, _ = tx.update(gradient, tx.init(gradient))
      >>> [round(float(jnp.mean(part**2)), 5) for part in jnp.split(updates["qkv"], (32, 40), -1)]
      [1.0, 1.0, 1.0]
    """

    axis: int
    parts: tuple[tuple[int, Any], ...]

    def __init__(self, axis: int, parts: Sequence[tuple[int, Any]]):
        pairs = isinstance(parts, Sequence) and all(
            isinstance(part, Sequence) and len(part) == 2 for part in parts
        )
        if not pairs or not all(map(is_integer, (axis, *(size for size, _ in parts)))):
            raise TypeError(
                "Fused has an integer axis and parts [(size, spec), ...] with integer sizes, got"
                f" {axis!r}, {parts!r}"
            )
        if any(spec is None or isinstance(spec, Fused) for _, spec in parts):
            raise TypeError(
                "each part of Fused is a weight of its own, with MatrixAxes or Blocks, got"
                f" {parts!r}"
            )
        object.__setattr__(self, "axis", axis)
        object.__setattr__(self, "parts", tuple((size, spec) for size, spec in parts))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the parts along the axis."""
        return tuple(size for size, _ in self.parts)

    @property
    def specs(self) -> tuple[Any, ...]:
        """The specs of the parts."""
        return tuple(spec for _, spec in self.parts)

    def resolve(
        self, shape: Shape, path: str, of_part: Callable[[Any, Shape, str], Any]
    ) -> "Fused":
        """Return the spec with a non-negative axis and resolved parts; raise if it does not fit."""
        check_axes((self.axis,), shape, f"{describe(path, shape)}: {self}")
        if min(self.sizes, default=0) < 1 or sum(self.sizes) != shape[self.axis]:
            raise ValueError(
                f"{describe(path, shape)}: the parts of Fused have sizes {[*self.sizes]} along axis"
                f" {self.axis}; correct them to positive numbers whose sum is {shape[self.axis]}"
            )
        resolved = Fused(self.axis % len(shape), self.parts)
        return resolved.map(lambda spec, part: of_part(spec, part, path), shape)

    def map(self, function: Callable[[Any, Shape], Any], shape: Shape) -> "Fused":
        """Replace the spec of each part by `function(spec, shape)`."""
        shapes = self.shapes(shape)
        specs = map(function, self.specs, shapes)
        return Fused(self.axis, list(zip(self.sizes, specs, strict=True)))

    def shapes(self, shape: Shape) -> list[Shape]:
        """The shapes of the parts of a weight of this shape."""
        axis = self.axis % len(shape)
        return [(*shape[:axis], size, *shape[axis + 1 :]) for size in self.sizes]


def map_spec(function: Callable[[Any, Shape], Spec], spec: Any, shape: Shape) -> Spec | Fused:
    """Apply `function(spec, shape)` to a weight, or to every part of a fused weight."""
    return spec.map(function, shape) if isinstance(spec, Fused) else function(spec, shape)


def specs_of(spec: Any) -> tuple[Any, ...]:
    """The specs of the parts of a weight; a weight that is not fused is its only part."""
    return spec.specs if isinstance(spec, Fused) else (spec,)


def split_fused(tree: Any, specs: Sequence[Any]) -> tuple[Any, list[Any], Callable[..., Any]]:
    """Split each fused weight into a tuple of parts, by the resolved specs of all leaves.

    Returns the tree of parts, the specs of its leaves, and `join(parts, leading=0)`, which joins
    such a tree again; its arrays may have `leading` more axes in front than the weights.
    """
    leaves = jax.tree.leaves(tree)
    structure: Any = jax.tree.structure(tree)
    parts = [split(leaf, spec) for leaf, spec in zip(leaves, specs, strict=True)]

    def join(tree: Any, leading: int = 0) -> Any:
        found = zip(leaves, specs, structure.flatten_up_to(tree), strict=True)
        return structure.unflatten([_joined(*each, leading) for each in found])

    return structure.unflatten(parts), [each for spec in specs for each in specs_of(spec)], join


def split(x: jax.Array, spec: Any) -> Any:
    """The parts of a fused weight as a tuple; any other weight unchanged.

    With Explicit mesh axes the parts have the weight's sharding, except along axes whose size the
    number of devices does not divide.
    """
    if not isinstance(spec, Fused):
        return x
    *ends, _ = itertools.accumulate(spec.sizes)

    def apart(x: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(jnp.split(x, ends, spec.axis))

    sharding = explicit_sharding(x)
    if not sharding or sharding.spec[spec.axis] is None:
        return apart(x)
    shardings = tuple(as_far_as_divisible(sharding, shape) for shape in spec.shapes(x.shape))
    return left_to_xla(apart, shardings)(x)


def _joined(x: jax.Array, spec: Any, parts: Any, leading: int) -> Any:
    """The parts as one array with the sharding of the weight x."""
    if not isinstance(spec, Fused):
        return parts
    axis, sharding = spec.axis + leading, explicit_sharding(x)
    if not sharding or sharding.spec[spec.axis] is None:
        return _end_to_end(parts, axis)
    # Of all ways to join, a concatenation sends the least between devices.
    whole = NamedSharding(sharding.mesh, P(*[None] * leading, *sharding.spec))
    return left_to_xla(lambda parts: jnp.concatenate(parts, axis), whole)(parts)


def _end_to_end(parts: Sequence[jax.Array], axis: int) -> jax.Array:
    """Concatenate in a form that XLA fuses; otherwise it may allocate memory for all parts."""
    *starts, total = itertools.accumulate((part.shape[axis] for part in parts), initial=0)

    def padded(part: jax.Array, start: int) -> jax.Array:
        widths = [(0, 0)] * part.ndim
        widths[axis] = (start, total - start - part.shape[axis])
        return jnp.pad(part, widths)

    return functools.reduce(jnp.add, map(padded, parts, starts))


def as_far_as_divisible(sharding: NamedSharding | None, shape: Shape) -> NamedSharding | None:
    """The sharding without the axes whose size the number of devices does not divide."""
    if sharding is None:
        return None

    def kept(size: int, names: Any) -> Any:
        several = (names,) if isinstance(names, str) else names or ()
        return names if size % math.prod(sharding.mesh.shape[n] for n in several) == 0 else None

    return NamedSharding(sharding.mesh, P(*map(kept, shape, sharding.spec)))
