"""Which axes of a weight are the rows (m output features) and columns (n input features)."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, init=False)
class MatrixAxes:
    """The axes of a weight that index its output features (rows) and input features (columns).

    Axes in neither tuple are *batch* axes (stacked layers, experts): every slice along them is a
    matrix of its own. Negative axes count from the end, so `MatrixAxes(output=-1, input=-2)` fits a
    flax kernel with any number of leading batch axes. A side without axes has size one.

    Attributes:
      output: axes of the output features, the rows (m); an integer stands for one axis.
      input: axes of the input features, the columns (n); an integer stands for one axis.

    Raises:
      TypeError: if an axis is not an integer.

    Example:
      >>> from multinorm_optax import MatrixAxes
      >>> query = MatrixAxes(output=(1, 2), input=0)   # DenseGeneral kernel (d, heads, head_dim)
      >>> query.matrix_shape((512, 8, 64))
      (512, 512)
      >>> MatrixAxes(output=-1, input=-2).matrix_shape((24, 512, 1376))   # 24 scanned layers
      (1376, 512)
    """

    output: tuple[int, ...]
    input: tuple[int, ...]

    def __init__(self, output: int | Sequence[int], input: int | Sequence[int]):
        for side, value in (("output", output), ("input", input)):
            single = not isinstance(value, Iterable) or getattr(value, "ndim", None) == 0
            axes: tuple[Any, ...] = (value,) if single else tuple(value)  # type: ignore[arg-type]
            if not all(map(is_integer, axes)):
                raise TypeError(f"MatrixAxes.{side} must be integers, got {value!r}")
            object.__setattr__(self, side, tuple(map(int, axes)))

    def resolve(self, shape: Shape, path: str = "") -> "MatrixAxes":
        """Return these axes as non-negative numbers; raise if they do not fit the shape."""
        once = "an axis is a row axis, a column axis or a batch axis"
        check_axes(self.matrix, shape, f"{describe(path, shape)}: {self}", once)
        sides = ([axis % len(shape) for axis in side] for side in (self.output, self.input))
        return MatrixAxes(*sides)

    @property
    def matrix(self) -> tuple[int, ...]:
        """The axes of rows and then those of columns, without the batch axes."""
        return self.output + self.input

    def matrix_shape(self, shape: Shape) -> tuple[int, int]:
        """The shape (m, n) of the matrices in a weight of this shape."""
        axes = self.resolve(shape)
        return math.prod(shape[i] for i in axes.output), math.prod(shape[i] for i in axes.input)

    def batch(self, ndim: int) -> tuple[int, ...]:
        """The batch axes of a weight with `ndim` axes."""
        matrix = {axis % ndim for axis in self.matrix}
        return tuple(axis for axis in range(ndim) if axis not in matrix)

    def oriented(self, shape: Shape) -> "MatrixAxes":
        """These axes, with rows and columns exchanged if there are more rows than columns."""
        rows, columns = self.matrix_shape(shape)
        return MatrixAxes(self.input, self.output) if rows > columns else self


def check_axes(axes: Sequence[int], shape: Shape, where: str, once: str = "") -> None:
    """Raise unless every axis exists and is named once."""
    ndim = len(shape)
    if not all(-ndim <= axis < ndim for axis in axes):
        raise ValueError(f"{where} names an axis that the weight does not have; correct it")
    if len({axis % ndim for axis in axes}) != len(axes):
        raise ValueError(f"{where} names an axis twice; {once}")


def as_matrix_axes(spec: Any) -> MatrixAxes:
    """Convert `optax.contrib.MuonDimensionNumbers` to `MatrixAxes`."""
    if isinstance(spec, MatrixAxes):
        return spec
    if isinstance(spec, optax.contrib.MuonDimensionNumbers):
        return MatrixAxes(output=spec.output_axis, input=spec.reduction_axis)
    raise TypeError(
        f"expected MatrixAxes or optax.contrib.MuonDimensionNumbers, got {spec!r}; the spec of a"
        " whole weight may also be Fused, and in rules None"
    )


def is_integer(number: Any) -> bool:
    """Whether this is an integer of Python or NumPy, and not a boolean."""
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def is_number(number: Any) -> bool:
    """Whether this is one real number, or an array of one, and not a boolean."""
    if isinstance(number, jax.Array | np.ndarray | np.generic):
        return number.ndim == 0 and any(
            jnp.issubdtype(number.dtype, kind) for kind in (jnp.floating, jnp.integer)
        )
    return isinstance(number, int | float) and not isinstance(number, bool)


def describe(path: str, shape: Shape) -> str:
    """The name of a weight in an error message: `layers/mlp/up/kernel (8, 512, 1376)`."""
    return f"{path or '<root>'} {tuple(shape)}"
