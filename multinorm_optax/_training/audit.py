"""An audit of a model: how each parameter is treated, and what its optimizer state costs."""

import collections
import dataclasses
import math
from collections.abc import Collection
from typing import Any

import jax
import optax

from multinorm_optax._matrices.axes import MatrixAxes
from multinorm_optax._matrices.fused import Fused, map_spec, specs_of
from multinorm_optax._matrices.paths import named_leaves
from multinorm_optax._matrices.rules import MATRIX, OTHER, AxesLike, resolve_axes


@dataclasses.dataclass(frozen=True)
class AuditRow:
    """One parameter, its matrices and its bytes."""

    path: str
    shape: tuple[int, ...]
    # The number of matrices that it stacks and their shape (m, n), outputs by inputs; one such pair
    # for each part of a fused weight, and none for a parameter that is not a matrix.
    matrices: tuple[tuple[int, tuple[int, int]], ...]
    group: str  # "matrix" or "adam", as in group_labels
    parameter_bytes: int
    state_bytes: int


@dataclasses.dataclass(frozen=True)
class Audit:
    """The parameters of a model with their groups and bytes, see `audit`."""

    rows: tuple[AuditRow, ...]
    shared_state_bytes: int

    @property
    def parameters(self) -> int:
        return sum(math.prod(row.shape) for row in self.rows)

    @property
    def parameter_bytes(self) -> int:
        return sum(row.parameter_bytes for row in self.rows)

    @property
    def state_bytes(self) -> int:
        return self.shared_state_bytes + sum(row.state_bytes for row in self.rows)

    def state_bytes_of(self, group: str) -> int:
        return sum(row.state_bytes for row in self.rows if row.group == group)

    def summary(self) -> str:
        """One line: parameters, and optimizer state by group."""
        matrix, other = (_bytes(self.state_bytes_of(group)) for group in (MATRIX, OTHER))
        return (
            f"{self.parameters:,} parameters: {_bytes(self.parameter_bytes)}; optimizer state:"
            f" {_bytes(self.state_bytes)} ({MATRIX} {matrix}, {OTHER} {other}),"
            f" {self.state_bytes / max(1, self.parameter_bytes):.2f} of the parameters"
        )

    def __str__(self) -> str:
        table = [("path", "shape", "matrix (m, n)", "group", "state")]
        for row in self.rows:
            matrix = " + ".join(f"{count} x {shape}" for count, shape in row.matrices) or "-"
            table.append((row.path, str(row.shape), matrix, row.group, _bytes(row.state_bytes)))
        widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in table]
        return "\n".join([*lines, self.summary()])


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


def audit(
    optimizer: optax.GradientTransformation, params: optax.Params, axes: AxesLike = None
) -> Audit:
    """List every parameter with its matrix shape, its group and its bytes of optimizer state.

    Nothing is allocated: the state's shapes come from `jax.eval_shape`.

    Args:
      optimizer: any optax optimizer.
      params: parameters, arrays or `jax.ShapeDtypeStruct`.
      axes: the optimizer's own `axes`, see `resolve_axes`.

    Returns:
      An `Audit`, which prints as a table. It has `rows` (`path`, `shape`, `matrices`,
      `group`, `parameter_bytes`, `state_bytes`), `parameters`, `parameter_bytes`,
      `state_bytes`, `state_bytes_of(group)`, `shared_state_bytes` and `summary()`. A parameter owns
      the state whose path ends in its path, or in its path and a number; all other state, such as
      step counts, is shared. Errors are those of `resolve_axes`.

    Example:
      >>> import jax.numpy as jnp
      >>> from multinorm_optax import audit, sinkgd
      >>> params = {"dense": {"kernel": jnp.ones((64, 32)), "bias": jnp.ones(32)}}
      >>> print(audit(sinkgd(), params))      # doctest: +NORMALIZE_WHITESPACE
      path          shape     matrix (m, n)  group   state
      dense/bias    (32,)     -              adam    256 B
      dense/kernel  (64, 32)  1 x (32, 64)   matrix  0 B
      2,080 parameters: 8.12 KiB; optimizer state: 260 B (matrix 0 B, adam 256 B),
      0.03 of the parameters
    """
    resolved = resolve_axes(axes, params)
    sizes: collections.Counter[str | None] = collections.Counter()
    for path, leaf in named_leaves(jax.eval_shape(optimizer.init, params)):
        sizes[_owner(path, leaf, {path for path, _ in resolved})] += leaf.size * leaf.dtype.itemsize

    def row(leaf: Any, path: str, found: MatrixAxes | Fused | None) -> AuditRow:
        shape, of_row = tuple(leaf.shape), (leaf.size * leaf.dtype.itemsize, sizes[path])
        if found is None:
            return AuditRow(path, shape, (), OTHER, *of_row)
        matrices = specs_of(map_spec(_matrices, found, shape))
        return AuditRow(path, shape, matrices, MATRIX, *of_row)

    leaves = zip(jax.tree.leaves(params), resolved, strict=True)
    return Audit(tuple(row(leaf, *found) for leaf, found in leaves), sizes[None])


def _matrices(axes: MatrixAxes, shape: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
    return math.prod(shape[axis] for axis in axes.batch(len(shape))), axes.matrix_shape(shape)


def _owner(state_path: str, state: Any, paths: Collection[str]) -> str | None:
    """The longest parameter path that ends the path of a state, or ends it but for a number."""
    segments = state_path.split("/")
    for end in (len(segments), len(segments) - segments[-1].isdecimal()):
        for start in range(end):
            if (candidate := "/".join(segments[start:end])) in paths:
                return candidate
    # The path of a single parameter without a name is empty; a count is not its state.
    return "" if state.shape and "" in paths else None
