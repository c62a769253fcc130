"""Functions of whole matrices, applied to a weight as a stack (batch..., m, n) with m <= n.

On a mesh an orthogonalizer needs all rows of a column on one device: then devices only exchange
m x m summands of the product X X^T.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from multinorm_optax._matrices.axes import MatrixAxes

Function: TypeAlias = Callable[[jax.Array], jax.Array]
MeshAxes: TypeAlias = tuple[str, ...]

_ENTRIES, _ENTRIES_ON_CPU = 2**25, 2**19
"""The most entries that a device takes at a time."""


def as_matrices(x: jax.Array, axes: MatrixAxes) -> tuple[jax.Array, Function]:
    """The weight as a stack (batch..., m, n), and the inverse function."""
    order = (*axes.batch(x.ndim), *axes.output, *axes.input)
    moved = jnp.transpose(x, order)
    batch = moved.shape[: x.ndim - len(axes.matrix)]
    inverse = sorted(range(x.ndim), key=order.__getitem__)

    def restore(matrices: jax.Array) -> jax.Array:
        return jnp.transpose(jnp.reshape(matrices, moved.shape), inverse)

    return jnp.reshape(moved, (*batch, *axes.matrix_shape(x.shape))), restore


def as_wide_matrices(x: jax.Array, axes: MatrixAxes) -> tuple[jax.Array, Function]:
    """The weight as a stack with m <= n, without batch axes of size one.

    XLA would copy a matrix with one.
    """
    matrices, restore = as_matrices(x, _wide(x.shape, axes))
    *batch, m, n = matrices.shape
    return jnp.reshape(matrices, (*(size for size in batch if size != 1), m, n)), restore


def _wide(shape: tuple[int, ...], axes: MatrixAxes) -> MatrixAxes:
    """The axes with m <= n; square matrices keep their order in memory, to avoid a transpose."""
    axes = axes.oriented(shape)
    m, n = axes.matrix_shape(shape)
    return MatrixAxes(*sorted((axes.output, axes.input))) if m == n else axes


def map_wide_matrices(function: Function, x: jax.Array, axes: MatrixAxes) -> jax.Array:
    """Apply a function of wide matrices (..., m, n) that keeps their shape.

    A loop over parts of the stack bounds the working memory: `_ENTRIES` on each device, or one
    matrix. Unless mesh axes are Explicit, JAX does not tell how a stack is sharded; it is then
    taken to be on all devices. With Explicit axes, `_stages` chooses how devices share a stack.
    """
    if not x.size:
        return x
    if sharding := explicit_sharding(x):
        return left_to_xla(lambda x: _map_spread(function, x, axes, sharding), sharding)(x)

    def of_part(part: jax.Array) -> jax.Array:
        matrices, restore = as_wide_matrices(part, axes)
        return restore(function(matrices))

    batch = axes.batch(x.ndim)
    return _in_turn(of_part, x, batch, [math.gcd(x.shape[i], jax.device_count()) for i in batch])


def _map_spread(
    function: Function, x: jax.Array, axes: MatrixAxes, sharding: NamedSharding
) -> jax.Array:
    matrices, restore = as_wide_matrices(x, axes)
    stages = _stages(x, _wide(x.shape, axes), sharding)
    *spread, _, columns = stages[-1]

    def lay(matrices: jax.Array, names: Sequence[MeshAxes]) -> jax.Array:
        return jax.lax.with_sharding_constraint(matrices, P(*names))

    def of_part(part: jax.Array) -> jax.Array:
        *batch, m, n = part.shape
        names = [each for each, size in zip(spread, batch, strict=True) if size > 1]
        names = [*names, (), columns]
        several = jnp.reshape(part, (*(size for size in batch if size > 1), m, n))
        return jnp.reshape(lay(function(lay(several, names)), names), part.shape)

    for stage in stages:
        matrices = lay(matrices, stage)
    apart = [_devices(sharding, names) for names in spread]
    matrices = _in_turn(of_part, matrices, range(len(spread)), apart)
    for stage in reversed(stages):
        matrices = lay(matrices, stage)
    return restore(matrices)


def reduce_wide_matrices(function: Function, x: jax.Array, axes: MatrixAxes) -> jax.Array:
    """Apply a function (..., m, n) -> (...); matrix axes keep size one."""

    def apply(x: jax.Array) -> jax.Array:
        shape = [1 if i in axes.matrix else size for i, size in enumerate(x.shape)]
        return jnp.reshape(function(as_wide_matrices(x, axes)[0]), shape)

    sharding = explicit_sharding(x)
    if not sharding:
        return apply(x)
    spec = P(*(None if i in axes.matrix else names for i, names in enumerate(sharding.spec)))
    return left_to_xla(apply, NamedSharding(sharding.mesh, spec))(x)


def explicit_sharding(x: jax.Array) -> NamedSharding | None:
    """How Explicit mesh axes share an array; None if they do not."""
    sharding = jax.typeof(x).sharding
    return sharding if any(sharding.spec) else None


def left_to_xla(function: Callable[..., Any], sharding: Any) -> Callable[..., Any]:
    """The function with Explicit mesh axes made Auto; `sharding` is that of its result, or None."""
    if sharding is None:
        return function
    mesh = jax.tree.leaves(sharding)[0].mesh
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    explicit = tuple(name for name, kind in kinds if kind == AxisType.Explicit)
    return jax.sharding.auto_axes(function, axes=explicit, out_sharding=sharding)


def _devices(sharding: NamedSharding, names: MeshAxes) -> int:
    return math.prod(sharding.mesh.shape[name] for name in names)


def _stages(x: jax.Array, axes: MatrixAxes, sharding: NamedSharding) -> list[tuple[MeshAxes, ...]]:
    """Successive shardings (batch..., m, n) of the stack that bring the rows together.

    The mesh axes of batch axes stay. Every other mesh axis moves to the first batch axis that it
    divides evenly. Otherwise one of the rows moves to the columns, or to no axis; then the devices
    along it do the same work. Axes move one by one: XLA would gather instead of moving two at once.
    """
    names: list[MeshAxes] = [
        (name,) if isinstance(name, str) else tuple(name or ()) for name in sharding.spec
    ]
    rows, columns = (
        tuple(name for axis in side for name in names[axis]) for side in (axes.output, axes.input)
    )
    batch = [axis for axis in axes.batch(x.ndim) if x.shape[axis] != 1]
    sizes = [*(x.shape[axis] for axis in batch), *axes.matrix_shape(x.shape)]
    now = [*(names[axis] for axis in batch), rows, columns]
    stages: list[tuple[MeshAxes, ...]] = []
    row, column = len(batch), len(batch) + 1
    for source, targets in ((row, range(row)), (column, range(row)), (row, [column])):
        for name in now[source]:
            for target in targets:
                if sizes[target] % _devices(sharding, (*now[target], name)) == 0:
                    now[source] = tuple(each for each in now[source] if each != name)
                    now[target] = (*now[target], name)
                    stages.append(tuple(now))
                    break
    now[row] = ()
    return [*stages, tuple(now)]


def _in_turn(
    function: Function, x: jax.Array, batch: Sequence[int], apart: Sequence[int]
) -> jax.Array:
    """Apply the function to parts of x in a loop; `apart` counts devices along each batch axis."""
    part = _part(x, batch, apart)
    axes = [axis for axis, size in enumerate(x.shape) if part[axis] < size]
    if not axes:
        return function(x)
    counts = [x.shape[axis] // part[axis] for axis in axes]
    places = [axis + number for number, axis in enumerate(axes, start=1)]
    split = list(part)
    for place, count in zip(places, counts, strict=True):
        split.insert(place, count)
    slice_shape = [1 if place in places else size for place, size in enumerate(split)]

    def turn(index: Any, x: jax.Array) -> jax.Array:
        # Results overwrite their arguments: a map would need memory for both.
        start = [jnp.zeros_like(index)] * len(split)
        for place, position in zip(places, jnp.unravel_index(index, counts), strict=True):
            start[place] = position
        old = jnp.reshape(jax.lax.dynamic_slice(x, start, slice_shape), part)
        return jax.lax.dynamic_update_slice(x, jnp.reshape(function(old), slice_shape), start)

    result = jax.lax.fori_loop(0, math.prod(counts), turn, jnp.reshape(x, split))
    return jnp.reshape(result, x.shape)


def _part(x: jax.Array, batch: Sequence[int], apart: Sequence[int]) -> tuple[int, ...]:
    """The shape of the largest part within the limit for each device, a multiple of `apart`."""
    limit = _ENTRIES_ON_CPU if jax.default_backend() == "cpu" else _ENTRIES
    shape = list(x.shape)
    entries = x.size // math.prod(shape[axis] for axis in batch)
    for axis, devices in reversed(list(zip(batch, apart, strict=True))):
        turns = shape[axis] // devices
        fitting = (k for k in range(2, turns + 1) if turns % k == 0 and k * entries <= limit)
        several = max(fitting, default=1)
        shape[axis] = devices * several
        entries *= several
    return tuple(shape)
