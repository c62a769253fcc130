"""An audit of a model: how each parameter is treated, and what its optimizer state costs."""

import dataclasses
import math
from typing import Any

import jax
import optax

from multinorm_optax._matrices.paths import named_leaves
from multinorm_optax._matrices.rules import MATRIX, OTHER, AxesLike, resolve_axes


@dataclasses.dataclass(frozen=True)
class AuditRow:
    """One parameter.

    Attributes:
      path: its path, `layers/mlp/up/kernel`.
      shape: its shape.
      matrix_shape: (m, n), output by input features, of each of its matrices; None if it is none.
      matrices: how many matrices it stacks; 0 if it is none.
      group: "matrix" or "adam", the label of `group_labels`.
      parameter_bytes: size of the parameter.
      state_bytes: size of the optimizer state that belongs to it.
    """

    path: str
    shape: tuple[int, ...]
    matrix_shape: tuple[int, int] | None
    matrices: int
    group: str
    parameter_bytes: int
    state_bytes: int


@dataclasses.dataclass(frozen=True)
class Audit:
    """The parameters of a model with their groups and bytes; `str()` makes a table of it.

    Attributes:
      rows: one per parameter.
      shared_state_bytes: optimizer state that belongs to no parameter, such as step counts.
    """

    rows: tuple[AuditRow, ...]
    shared_state_bytes: int

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(math.prod(row.shape) for row in self.rows)

    @property
    def parameter_bytes(self) -> int:
        """The size of all parameters."""
        return sum(row.parameter_bytes for row in self.rows)

    @property
    def state_bytes(self) -> int:
        """The size of the whole optimizer state."""
        return self.shared_state_bytes + sum(row.state_bytes for row in self.rows)

    def state_bytes_of(self, group: str) -> int:
        """The size of the optimizer state of the parameters of one group."""
        return sum(row.state_bytes for row in self.rows if row.group == group)

    def summary(self) -> str:
        """One line: parameters, and optimizer state by group."""
        groups = ", ".join(
            f"{group} {_bytes(self.state_bytes_of(group))}" for group in (MATRIX, OTHER)
        )
        return (
            f"{self.parameters:,} parameters: {_bytes(self.parameter_bytes)};"
            f" optimizer state: {_bytes(self.state_bytes)} ({groups}),"
            f" {self.state_bytes / max(1, self.parameter_bytes):.2f} of the parameters"
        )

    def __str__(self) -> str:
        table = [("path", "shape", "matrix (m, n)", "group", "state")]
        for row in self.rows:
            matrix = f"{row.matrices} x {row.matrix_shape}" if row.matrix_shape else "-"
            table.append((row.path, str(row.shape), matrix, row.group, _bytes(row.state_bytes)))
        widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in table]
        return "\n".join([*lines, self.summary()])


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


def _size(leaf: Any) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def audit(
    optimizer: optax.GradientTransformation, params: optax.Params, axes: AxesLike = None
) -> Audit:
    """Lists every parameter with its matrix shape, its group and its bytes of optimizer state.

    Nothing is allocated: the state's shapes come from `jax.eval_shape`.

    Args:
      optimizer: any optax optimizer.
      params: parameters, arrays or `jax.ShapeDtypeStruct`.
      axes: which axes are rows and columns, see `resolve_axes`; what the optimizer was given.

    Returns:
      An `Audit`. State is assigned to the parameter whose path ends the state's own path, perhaps
      with a number after it.

    Raises:
      ValueError: for leaves that no rule covers, naming all of them.

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
    leaves = jax.tree.leaves(params)
    resolved = resolve_axes(axes, params)
    state_bytes = dict.fromkeys((path for path, _ in resolved), 0)
    shared = 0
    for state_path, leaf in named_leaves(jax.eval_shape(optimizer.init, params)):
        owner = _owner(state_path, state_bytes)
        if owner is None and leaf.shape and "" in state_bytes:
            owner = ""  # The only parameter has no path; a count is still nobody's.
        if owner is None:
            shared += _size(leaf)
        else:
            state_bytes[owner] += _size(leaf)
    rows = []
    for leaf, (path, axes_of_leaf) in zip(leaves, resolved, strict=True):
        shape = tuple(leaf.shape)
        matrix_shape = None if axes_of_leaf is None else axes_of_leaf.matrix_shape(shape)
        batch = () if axes_of_leaf is None else axes_of_leaf.batch(len(shape))
        rows.append(
            AuditRow(
                path=path,
                shape=shape,
                matrix_shape=matrix_shape,
                matrices=0 if axes_of_leaf is None else math.prod(shape[i] for i in batch),
                group=OTHER if axes_of_leaf is None else MATRIX,
                parameter_bytes=_size(leaf),
                state_bytes=state_bytes[path],
            )
        )
    return Audit(tuple(rows), shared)


def _owner(state_path: str, parameter_paths: dict[str, int]) -> str | None:
    """The longest parameter path that ends the path of a state.

    Or ends it but for a number: a state may be several arrays for one parameter.
    """
    segments = state_path.split("/")
    for end in (len(segments), len(segments) - segments[-1].isdecimal()):
        for start in range(end):
            candidate = "/".join(segments[start:end])
            if candidate in parameter_paths:
                return candidate
    return None
