"""Orthogonalization: the polar factor U V^T of a matrix U S V^T, by several methods.

Each function returns an *orthogonalizer*: a function of matrices (..., m, n) with m <= n and
Frobenius norm at most one that returns (an approximation of) their polar factors and keeps zero
singular values. `SpectralNorm` handles scale and layout.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from multinorm_optax._matrices.axes import is_integer
from multinorm_optax._norms.precision import compute_dtype

Orthogonalizer: TypeAlias = Callable[[jax.Array], jax.Array]
Quintic: TypeAlias = tuple[float, float, float]
Precision: TypeAlias = jax.lax.PrecisionLike
DType: TypeAlias = jax.typing.DTypeLike | None

_CUSHION = 0.024  # the smallest relative lower bound that a step is optimised for
_MARGIN = 1.01  # room for rounding above the largest singular value


@dataclasses.dataclass(frozen=True)
class _Orthogonalizer:
    """A function of matrices and options; a value that can be compared, hashed and pickled."""

    function: Callable[..., jax.Array]
    options: tuple[Any, ...]
    dtype: DType

    def __post_init__(self) -> None:
        if self.dtype is not None:  # for equality, whichever way it is written
            object.__setattr__(self, "dtype", jnp.dtype(self.dtype))
            if not jnp.issubdtype(self.dtype, jnp.floating):
                raise TypeError(f"dtype must be None or a floating-point dtype, got {self.dtype}")

    def __call__(self, x: jax.Array) -> jax.Array:
        least = (jnp.complex64,) if jnp.iscomplexobj(x) else ()
        width = compute_dtype(x.dtype) if self.dtype is None else self.dtype
        wide = x.astype(jnp.result_type(width, *least))
        return self.function(wide, *self.options).astype(x.dtype)


def _check_steps(steps: int) -> None:
    if not is_integer(steps) or steps < 1:
        raise ValueError(f"steps must be an integer of at least 1, got {steps!r}")


def odd_polynomial(
    coefficients: Sequence[Quintic], precision: Precision = "highest", dtype: DType = None
) -> Orthogonalizer:
    """The iteration X <- a X + b (X X^T) X + c (X X^T)^2 X, one (a, b, c) per step.

    It maps every singular value s to a s + b s^3 + c s^5 and keeps the singular vectors.

    Args:
      coefficients: one triple per step. If every c is zero, (X X^T)^2 is not computed.
      precision: of the matrix products, as for `jnp.matmul`; also a `jax.lax.DotAlgorithmPreset`
        such as TF32_TF32_F32_X3. A CPU rejects some presets, and otherwise uses full float32.
      dtype: of the iteration; by default float32, or the dtype of the matrix if it is wider. The
        result has the dtype of the matrix.

    Example:
      >>> import jax.numpy as jnp
      >>> from multinorm_optax import odd_polynomial
      >>> step = odd_polynomial([(1.5, -0.5, 0.0)])
      >>> [[round(float(x), 4) for x in row] for row in step(jnp.diag(jnp.array([1.0, 0.5])))]
      [[1.0, 0.0], [0.0, 0.6875]]
    """
    table = np.asarray(coefficients, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != 3 or not len(table) or not np.isfinite(table).all():
        raise ValueError(f"coefficients must be one (a, b, c) per step, got {coefficients!r}")
    return _Orthogonalizer(_odd_polynomial, (tuple(map(tuple, table.tolist())), precision), dtype)


def _odd_polynomial(x: jax.Array, table: Sequence[Quintic], precision: Precision) -> jax.Array:
    product, quintic = functools.partial(jnp.matmul, precision=precision), any(c for *_, c in table)

    def step(x: jax.Array, abc: jax.Array) -> tuple[jax.Array, None]:
        gram = product(x, jnp.conj(jnp.swapaxes(x, -1, -2)))
        inner = abc[1] * gram
        if quintic:
            inner += abc[2] * product(gram, gram)
        return abc[0] * x + product(inner, x), None

    return jax.lax.scan(step, x, jnp.asarray(table, jnp.finfo(x.dtype).dtype))[0]


def _optimal_quintic(lower: float, upper: float) -> Quintic:
    """The odd quintic closest to 1 in the maximum norm on [lower, upper], by Remez exchange."""
    if upper - lower < 1e-6 * upper:  # the Taylor polynomial of the sign function
        return 15 / 8 / upper, -10 / 8 / upper**3, 3 / 8 / upper**5
    inner = np.array([0.75 * lower + 0.25 * upper, 0.25 * lower + 0.75 * upper])
    a = b = c = 0.0
    for _ in range(100):
        points = np.array([lower, *inner, upper])
        powers = np.stack([points, points**3, points**5, (-1.0) ** np.arange(4)], axis=1)
        a, b, c, _ = np.linalg.solve(powers, np.ones(4))
        extrema = np.sqrt(np.sort(np.roots([5 * c, 3 * b, a]).real))
        if not np.all(np.isfinite(extrema)) or np.allclose(extrema, inner, rtol=1e-14, atol=0):
            break
        inner = extrema
    return float(a), float(b), float(c)


def polar_express_coefficients(steps: int, lower_bound: float) -> list[Quintic]:
    """The quintics for [lower_bound, 1], each optimal for the range that the last one leaves.

    This greedy choice is optimal for the composition (arXiv 2505.16932). `_CUSHION` narrows a wide
    range, so that rounding in a step does not crush large singular values.
    """
    _check_steps(steps)
    if not 0 < lower_bound <= 1:
        raise ValueError(f"need 0 < lower_bound <= 1, got {lower_bound}")
    lower, upper = lower_bound, 1.0
    schedule = []
    for _ in range(steps):
        a, b, c = _optimal_quintic(max(lower, _CUSHION * upper), upper)
        low, high = (a * s + b * s**3 + c * s**5 for s in (lower, upper))
        # A range that reaches below the cushion is not centered at 1: rescale it.
        scale = 2 / (low + high)
        lower, upper = scale * low, scale * high
        schedule.append((scale * a, scale * b, scale * c))
    return schedule


@functools.lru_cache(typed=True)
def polar_express(
    steps: int = 12,
    lower_bound: float = 1e-5,
    precision: Precision = "highest",
    dtype: DType = None,
) -> Orthogonalizer:
    """Polar Express: the composition of quintics that is optimal on [lower_bound, 1].

    `lower_bound` is the smallest singular value, relative to the Frobenius norm, that reaches 1
    with enough steps. The defaults orthogonalize to rounding; `polar_express(5, 1e-3)` costs as
    much as Muon's iteration, but does not orthogonalize small directions. As in the paper's
    implementation, steep steps divide their input by 1.01, because a steep quintic amplifies
    outside its range (Amsel, Persson, Musco, Gower, arXiv 2505.16932). The default may diverge with
    `dtype=jnp.bfloat16`. For `precision` and `dtype` see `odd_polynomial`.
    """
    schedule = [
        (a / _MARGIN, b / _MARGIN**3, c / _MARGIN**5) if a > 2 else (a, b, c)
        for a, b, c in polar_express_coefficients(steps, lower_bound)
    ]
    return odd_polynomial(schedule, precision, dtype)


def newton_schulz(
    steps: int = 30, precision: Precision = "highest", dtype: DType = None
) -> Orthogonalizer:
    """The textbook Newton-Schulz iteration X <- 3/2 X - 1/2 X X^T X.

    Small singular values grow by 3/2 a step: 30 steps lift 3e-5 to 1. For `precision` and `dtype`
    see `odd_polynomial`.
    """
    _check_steps(steps)
    return odd_polynomial([(1.5, -0.5, 0.0)] * steps, precision, dtype)


def muon_quintic(
    steps: int = 5, precision: Precision = "highest", dtype: DType = None
) -> Orthogonalizer:
    """Muon's quintic (3.4445, -4.7750, 2.0315), by Jordan et al., 2024.

    Five steps take singular values above 1e-2 of the Frobenius norm to about [0.7, 1.2], and leave
    smaller ones below. For `precision` and `dtype` see `odd_polynomial`.
    """
    _check_steps(steps)
    return odd_polynomial([(3.4445, -4.7750, 2.0315)] * steps, precision, dtype)


def swan_whitening(
    steps: int = 10, beta: float = 0.8, precision: Precision = "highest", dtype: DType = None
) -> Orthogonalizer:
    """SWAN's GradWhitening (G G^T)^(-1/2) G, by the coupled Newton-Schulz iteration.

    Y = G G^T, Z = I; then `steps` times, both from the old pair,
    Y <- beta Y (3 I - Z Y), Z <- beta (3 I - Z Y) Z; the result is Z G.

    With the textbook beta = 0.5 it converges to the polar factor. With the beta = 0.8 of Ma et al.,
    arXiv 2412.13148, Section 4, it does not converge: after ten steps singular values above 1e-2 of
    the Frobenius norm lie in [0.56, 1.60]. It may diverge in TF32 and bfloat16. For `precision` and
    `dtype` see `odd_polynomial`.
    """
    _check_steps(steps)
    return _Orthogonalizer(_swan_whitening, (steps, float(beta), precision), dtype)


def _swan_whitening(x: jax.Array, steps: int, beta: float, precision: Precision) -> jax.Array:
    def step(_: int, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        y, z = pair
        factor = three - product(z, y)
        return beta * product(y, factor), beta * product(factor, z)

    product = functools.partial(jnp.matmul, precision=precision)
    three = jnp.expand_dims(3 * jnp.eye(x.shape[-2], dtype=x.dtype), range(x.ndim - 2))
    # The first step needs no product with Z = I, the last one no Y.
    y = product(x, jnp.conj(jnp.swapaxes(x, -1, -2)))
    pair = beta * product(y, three - y), beta * (three - y)
    y, z = jax.lax.fori_loop(2, steps, step, pair)
    if steps > 1:
        z = beta * product(three - product(z, y), z)
    return product(z, x)


def exact_svd(precision: Precision = "highest", dtype: DType = None) -> Orthogonalizer:
    """U V^T by singular value decomposition; singular values at rounding level count as zero.

    The level is max(m, n) times the machine epsilon times the largest singular value. A matrix with
    an infinity or a NaN becomes NaN. `precision` applies to the product of U and V^T, and `dtype`
    to the decomposition: by default at least float32, never a half precision.
    """
    return _Orthogonalizer(_exact_svd, (precision,), dtype)


def _exact_svd(x: jax.Array, precision: Precision) -> jax.Array:
    if not x.size:
        return x
    x, finite = finite_or_zero(x)
    u, s, vh = jnp.linalg.svd(x, full_matrices=False)
    level = max(x.shape[-2:]) * jnp.finfo(x.dtype).eps * s[..., :1]
    u = jnp.where((s <= level)[..., None, :], 0, u)
    polar = jnp.matmul(u, vh, precision=precision)
    dead = [jnp.all(x == 0, axis=axis, keepdims=True) for axis in (-1, -2)]
    return jnp.where(finite, jnp.where(dead[0] | dead[1], 0, polar), jnp.nan)


def finite_or_zero(matrices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The matrices with zeros in place of those that are not finite, and which ones are finite."""
    # The singular value decomposition of NaN depends on the backend.
    finite = jnp.all(jnp.isfinite(matrices), axis=(-1, -2), keepdims=True)
    return jnp.where(finite, matrices, 0), finite


def check_orthogonalizer(orthogonalizer: Orthogonalizer) -> None:
    """Raise for what is not a function of matrices, such as a function that makes one."""
    makers: list[Any] = [odd_polynomial, polar_express, newton_schulz, muon_quintic]
    if any(orthogonalizer is each for each in [*makers, swan_whitening, exact_svd]):
        raise TypeError(f"write {orthogonalizer.__name__}(...) to make an orthogonalizer")
    if not callable(orthogonalizer):
        raise TypeError(f"an orthogonalizer is a function of matrices, got {orthogonalizer!r}")
