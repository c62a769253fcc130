"""Where a run's arrays lie: on one device, or spread over a mesh of devices.

A mesh has three axes. The rows of a batch are spread over `data` and `fsdp`; weights, and the
optimizer state that has their shape, over `fsdp` and `tensor`, as `SPECS` says. XLA derives
everything else from that, and sends what has to be sent: each weight is gathered for the layer that
computes with it, each gradient is added up where its weight lies.
"""

import contextlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from examples.llama.config import InputError, Setup

Tree = TypeVar("Tree")

MeshShape = tuple[int, int, int]
"""Devices along each axis."""

AXES = ("data", "fsdp", "tensor")
"""The axes of a mesh."""

ROWS = ("data", "fsdp")
"""The axes over which the rows of a batch are spread."""

SPECS: tuple[tuple[str, P], ...] = (
    (r"layers/attention/(query|key|value)/kernel", P(None, "fsdp", "tensor")),
    (r"layers/mlp/(gate|up)/kernel", P(None, "fsdp", "tensor")),
    (r"layers/(attention/out|mlp/down)/kernel", P(None, "tensor", "fsdp")),
    (r"embed/embedding", P("tensor", "fsdp")),
    (r"head/kernel", P("fsdp", "tensor")),
    (r"(layers/)?\w+_norm/scale", P()),
    (r"ns_coeffs", P()),  # of Muon's state
    (r"count", P()),  # of a layer-wise state, which has one per layer
)
"""Over which axes the dimensions of each parameter are spread; the first match of a path decides.

Kernels are (L, in, out), so that what a block computes in between, heads or features of the MLP,
stays spread over `tensor` from its first kernel to its last.
"""


@dataclass(frozen=True)
class Placement:
    """Puts a run's arrays where they belong. Without a mesh it leaves everything to JAX."""

    mesh: Mesh | None = None
    """The mesh; None for one device."""

    def abstract(self, build: Callable[[], Tree]) -> Tree:
        """Shape, dtype and sharding of each leaf of the state that `build` returns, not computed.

        An optimizer's state keeps a parameter's path below its own, by which it is recognized: what
        has the shape of a parameter lies where the parameter does. Of what is smaller, factors and
        block means, the axes that can be divided are. Scalars are everywhere.
        """

        def lay(keys: jax.tree_util.KeyPath, leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=self._sharding(keys, leaf.shape)
            )

        return jax.tree_util.tree_map_with_path(lay, jax.eval_shape(build))

    def shardings(self, build: Callable[[], Any]) -> Any:
        """The sharding of each leaf of the state that `build` returns; None for one device."""
        if self.mesh is None:
            return None
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract(build))

    def _sharding(self, keys: jax.tree_util.KeyPath, shape: tuple[int, ...]) -> Sharding:
        if self.mesh is None:
            return SingleDeviceSharding(jax.local_devices()[0])
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        axes: list[str | None] = []
        for size, axis in zip(shape, _spec(path, shape), strict=False):
            divides = axis is None or size % self.mesh.shape[axis] == 0
            if not (divides or path.startswith(_STATE)):
                raise InputError(
                    f"{path} of shape {shape} cannot be spread over the mesh: {size} is not "
                    f"divisible by {self.mesh.shape[axis]}, the devices along {axis}; choose "
                    f"another --mesh, or another size of the model"
                )
            axes.append(axis if divides else None)
        return NamedSharding(self.mesh, P(*axes))

    @property
    def devices(self) -> int:
        """The number of devices."""
        return 1 if self.mesh is None else self.mesh.size

    def check(self, setup: Setup) -> None:
        """Refuse a batch or heads that cannot be divided."""
        if self.mesh is None:
            return
        rows, microbatches = setup.data.batch_size, setup.data.microbatches
        shares = math.prod(self.mesh.shape[axis] for axis in ROWS)
        if rows // microbatches % shares:
            raise InputError(
                f"{rows // microbatches} rows, a batch of {rows} in {microbatches} microbatches, "
                f"cannot be divided among {shares} devices, data times fsdp of --mesh; choose "
                f"--batch-size as a multiple of {microbatches * shares}"
            )
        heads, tensor = setup.model.heads, self.mesh.shape["tensor"]
        if heads % tensor:
            raise InputError(
                f"{heads} attention heads cannot be divided among {tensor} devices, tensor of "
                f"--mesh; choose --heads as a multiple of it or another mesh"
            )

    def create(self, build: Callable[[], Tree]) -> Tree:
        """What `build` returns, each device computing the part that lies there."""
        if self.mesh is None:
            return build()
        return jax.jit(build, out_shardings=self.shardings(build))()

    def put_rows(self, rows: np.ndarray | jax.Array, axis: int = 0) -> jax.Array:
        """Put an array on the devices, the rows along `axis` spread over them.

        Every process holds the whole array, and hands its devices their parts of it. The transfer
        is dispatched, not awaited; an array that is on the devices already is returned as it is.
        """
        if isinstance(rows, jax.Array):
            return rows
        if self.mesh is None:
            return jax.device_put(rows)
        sharding = NamedSharding(self.mesh, P(*[None] * axis, ROWS))
        return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])

    def mesh_context(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which functions are compiled for the mesh; see `keep_rows_sharded`."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)


ONE_DEVICE = Placement()
"""The placement without a mesh."""


_STATE = "optimizer_state/"


def _spec(path: str, shape: tuple[int, ...]) -> P:
    if not shape:
        return P()
    for pattern, spec in SPECS:
        if re.fullmatch(rf"(.+/)?{pattern}", path):
            if len(spec) <= len(shape):
                return spec
            if path.startswith(_STATE):  # Adafactor's row and column means, a few numbers
                return P()
    raise InputError(
        f"nothing says how {path} of shape {shape} is spread over a mesh; add it to "
        f"examples.llama.mesh.SPECS, or train on one device"
    )


def place(shape: MeshShape) -> Placement:
    """The placement on all devices of all processes; 1 1 1 is always one device."""
    devices, processes = jax.device_count(), jax.process_count()
    if shape == (1, 1, 1) and processes == 1:
        return ONE_DEVICE
    if min(shape) < 1 or math.prod(shape) != devices:
        fitting = [(devices, 1, 1), (1, devices, 1), (1, 1, devices)]
        examples = ", ".join(dict.fromkeys(_text(each) for each in fitting))
        raise InputError(
            f"--mesh {_text(shape)} is for {math.prod(shape)} devices, but the number of devices "
            f"is {devices} (of processes: {processes}); choose three positive numbers with that "
            f"product, such as {examples}"
        )
    return Placement(jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES)))


def _text(shape: MeshShape) -> str:
    return " ".join(map(str, shape))


def keep_rows_sharded(x: jax.Array) -> jax.Array:
    """Keep what is computed from a batch's rows, along the first axis, on the devices they are on.

    Left alone, XLA brings the rows together and spreads features, as the weights' are: every device
    then computes with the whole batch. Without a mesh nothing is done.
    """
    return _constrain(x, P(ROWS))


def gather_features(table: jax.Array) -> jax.Array:
    """Gather a table's features, and leave its tokens spread; without a mesh nothing is done."""
    return _constrain(table, P("tensor"))


def _constrain(x: jax.Array, spec: P) -> jax.Array:
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec)
