"""An audit of a model: the group of each parameter and the bytes of its optimizer state."""

import collections
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from multinorm_optax._matrices.axes import MatrixAxes
from multinorm_optax._matrices.fused import map_spec, specs_of
from multinorm_optax._matrices.paths import (
    UNCOVERED,
    FoundSpec,
    array_leaves,
    dtype_of,
    named_leaves,
)
from multinorm_optax._matrices.rules import MATRIX, OTHER, AxesLike, look_up_axes, suggest_axes
from multinorm_optax._optimizers.auxiliary_adam import MatrixOptimizer


@dataclasses.dataclass(frozen=True)
class AuditRow:
    """One parameter, its matrices and its bytes."""

    path: str
    shape: tuple[int, ...]
    # (number of stacked matrices, their shape (m, n)) of each part; none if not a matrix.
    matrices: tuple[tuple[int, tuple[int, int]], ...]
    group: str  # "matrix" or "adam", as in group_labels, or "uncovered"
    parameter_bytes: int
    state_bytes: int | None  # None without an optimizer


@dataclasses.dataclass(frozen=True)
class Audit:
    """The parameters of a model with their groups and bytes, see `audit`."""

    rows: tuple[AuditRow, ...]
    shared_state_bytes: int | None
    suggestion: str | None

    @property
    def parameters(self) -> int:
        return sum(math.prod(row.shape) for row in self.rows)

    @property
    def parameter_bytes(self) -> int:
        return sum(row.parameter_bytes for row in self.rows)

    @property
    def state_bytes(self) -> int:
        shared = self.shared_state_bytes
        return _known(shared) + sum(_known(row.state_bytes) for row in self.rows)

    def state_bytes_of(self, group: str) -> int:
        _known(self.shared_state_bytes)
        return sum(_known(row.state_bytes) for row in self.rows if row.group == group)

    def summary(self) -> str:
        """One line: parameters, and optimizer state by group."""
        parameters = f"{self.parameters:,} parameters: {_bytes(self.parameter_bytes)}"
        if self.shared_state_bytes is None:
            numbers = collections.Counter(row.group for row in self.rows)
            groups = ", ".join(f"{group} {numbers[group]}" for group in sorted(numbers))
            return f"{parameters}; leaves: {groups or 0}"
        matrix, other = (_bytes(self.state_bytes_of(group)) for group in (MATRIX, OTHER))
        return (
            f"{parameters}; optimizer state:"
            f" {_bytes(self.state_bytes)} ({MATRIX} {matrix}, {OTHER} {other}),"
            f" {self.state_bytes / max(1, self.parameter_bytes):.2f} of the parameters"
        )

    def __str__(self) -> str:
        with_state = self.shared_state_bytes is not None
        table = [("path", "shape", "matrix (m, n)", "group", *(("state",) if with_state else ()))]
        for row in self.rows:
            matrix = " + ".join(f"{count} x {shape}" for count, shape in row.matrices) or "-"
            state = (_bytes(row.state_bytes),) if row.state_bytes is not None else ()
            table.append((row.path, str(row.shape), matrix, row.group, *state))
        widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in table]
        return "\n".join([*lines, self.summary(), *([self.suggestion] if self.suggestion else [])])


def _known(state_bytes: int | None) -> int:
    if state_bytes is None:
        raise ValueError("this audit has no optimizer; write audit(params, optimizer)")
    return state_bytes


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


def audit(
    params: optax.Params,
    optimizer: optax.GradientTransformation | None = None,
    axes: AxesLike = None,
) -> Audit:
    """List every parameter with its matrix shape, its group and its bytes of optimizer state.

    Nothing is allocated: the state's shapes come from `jax.eval_shape`. Without an optimizer, the
    audit shows which leaves are matrices by `axes`, even if rules are missing.

    Args:
      params: parameters, arrays, `jax.ShapeDtypeStruct` or numbers.
      optimizer: any optax optimizer, or None.
      axes: which leaves are matrices, see `resolve_axes`; by default those of the optimizer, if
        `auxiliary_adam` made it (`sinkgd`, `swan`, `mngd`, `ldadam`) and nothing wraps it.

    Returns:
      An `Audit`, which prints as a table. It has `rows` (`path`, `shape`, `matrices`, `group`,
      `parameter_bytes`, `state_bytes`), `parameters`, `parameter_bytes`, `state_bytes`,
      `state_bytes_of(group)`, `shared_state_bytes`, `summary()` and `suggestion`. A parameter owns
      the state whose path ends in its path, or in its path and a number; all other state, such as
      step counts, is shared. Leaves that no rule covers have the group `"uncovered"`, and the table
      ends with `suggestion`, rules that cover all of them.

    Raises:
      ValueError: from the optimizer's `init`, for leaves that its rules do not cover; for the bytes
        of the state without an optimizer; and for axes that do not fit a shape.
      TypeError: if a leaf is not an array, or `params` is an optimizer, or `optimizer` is not.

    Example:
      >>> import jax.numpy as jnp
      >>> from multinorm_optax import audit, sinkgd
      >>> params = {"dense": {"kernel": jnp.ones((64, 32)), "bias": jnp.ones(32)}}
      >>> print(audit(params, sinkgd()))      # doctest: +NORMALIZE_WHITESPACE
      path          shape     matrix (m, n)  group   state
      dense/bias    (32,)     -              adam    256 B
      dense/kernel  (64, 32)  1 x (32, 64)   matrix  0 B
      2,080 parameters: 8.12 KiB; optimizer state: 260 B (matrix 0 B, adam 256 B),
      0.03 of the parameters
    """
    if isinstance(params, optax.GradientTransformation):
        raise TypeError("the first argument is an optimizer; write audit(params, optimizer)")
    if optimizer is not None and not isinstance(optimizer, optax.GradientTransformation):
        hint = "audit(params, axes=...)"
        if hasattr(optimizer, "gradient_transformation"):  # optax.MultiSteps
            hint = "audit(params, optimizer.gradient_transformation())"
        raise TypeError(f"{optimizer!r} is not an optimizer; write {hint}")
    if axes is None and isinstance(optimizer, MatrixOptimizer):
        axes = optimizer.axes
    found = look_up_axes(axes, params)
    leaves = [leaf for _, leaf in array_leaves(params)]
    sizes: collections.Counter[str | None] = collections.Counter()
    if optimizer is not None:
        for path, leaf in named_leaves(jax.eval_shape(optimizer.init, params)):
            sizes[_owner(path, leaf, {each.path: each.shape for each in found})] += _size(leaf)

    def row(leaf: Any, found: FoundSpec) -> AuditRow:
        state = None if optimizer is None else sizes[found.path]
        if found.spec is None or found.spec is UNCOVERED:
            group, matrices = OTHER if found.spec is None else "uncovered", ()
        else:
            group, matrices = MATRIX, specs_of(map_spec(_matrices, found.spec, found.shape))
        return AuditRow(found.path, found.shape, matrices, group, _size(leaf), state)

    uncovered = any(each.spec is UNCOVERED for each in found)
    return Audit(
        rows=tuple(map(row, leaves, found)),
        shared_state_bytes=None if optimizer is None else sizes[None],
        suggestion=suggest_axes(axes, found) if uncovered else None,
    )


def _size(leaf: Any) -> int:
    return math.prod(np.shape(leaf)) * dtype_of(leaf).itemsize


def _matrices(axes: MatrixAxes, shape: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
    return math.prod(shape[axis] for axis in axes.batch(len(shape))), axes.matrix_shape(shape)


def _owner(state_path: str, state: Any, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The parameter with the longest path at the end of a state's path, or before a last number.

    The number is that of a part of a fused parameter. If both are paths of parameters, as in a list
    of them, the state belongs to the one before the number, unless it has the shape of the one at
    the end, or nothing precedes it. A count of steps belongs to none.
    """
    segments = state_path.split("/")

    def found(end: int) -> list[str]:
        ends = ("/".join(segments[start:end]) for start in range(end))
        return [path for path in ends if path in shapes][:1]

    whole, part = found(len(segments)), found(len(segments) - 1) * segments[-1].isdecimal()
    if part and "/".join([*part, segments[-1]]) == state_path:  # the place in a chain
        whole, part = [*whole, *part], []
    if not state.shape and jnp.issubdtype(state.dtype, jnp.integer):
        whole = [path for path in whole if not shapes[path]]
    fitting = [path for path in whole if shapes[path] == state.shape]
    # A single parameter without a name has an empty path; a count is not its state.
    root = [""] if state.shape and "" in shapes else []
    return next(iter([*fitting, *part, *whole, *root]), None)
