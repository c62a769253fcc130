"""The scale of a matrix's step: a factor that depends on its shape (m, n).

Jordan's Muon; Liu et al., arXiv 2502.16982; Bernstein and Newhouse, arXiv 2410.21265.
"""

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import jax
import optax

from multinorm_optax._matrices.axes import MatrixAxes
from multinorm_optax._matrices.rules import AxesLike, on_matrices

StepScale: TypeAlias = (
    Literal["rms", "muon", "moonlight", "operator"] | Callable[[int, int], jax.typing.ArrayLike]
)

_FACTORS: dict[str, Callable[[int, int], float]] = {
    "rms": lambda m, n: 1.0,
    "muon": lambda m, n: 1 / math.sqrt(n),
    "moonlight": lambda m, n: 0.2,
    "operator": lambda m, n: math.sqrt(m / n) / math.sqrt(max(m, n)),
}


def scale_by_matrix_shape(scale: StepScale, axes: AxesLike) -> optax.GradientTransformation:
    """Multiply directions of root mean square 1 by a factor of their shape (m, n)."""
    if not callable(scale) and (not isinstance(scale, str) or scale not in _FACTORS):
        raise ValueError(
            f"step_scale is one of {', '.join(map(repr, _FACTORS))} or a function of m and n that"
            f" returns a factor, got {scale!r}"
        )
    factor = scale if callable(scale) else _FACTORS[scale]

    def scaled(x: jax.Array, found: MatrixAxes) -> jax.Array:
        m, n = found.matrix_shape(x.shape)
        return x * factor(m, n) if m and n else x

    return optax.identity() if scale == "rms" else on_matrices(scaled, axes)
