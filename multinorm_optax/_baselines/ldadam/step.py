"""One step of LDAdam on one weight: Adam in a subspace that follows the gradients.

Its orthonormal basis is P, m x r. Matrices A are (batch..., m, n) with m <= n. For complex weights
^T is the conjugate transpose.
"""

import functools
import math
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from multinorm_optax._matrices.axes import MatrixAxes
from multinorm_optax._matrices.stacks import as_matrices, explicit_sharding, left_to_xla
from multinorm_optax._norms.precision import abs_sq, compute_dtype, unit_scale

Numbers: TypeAlias = tuple[jax.typing.ArrayLike, ...]  # b1, b2, rho and eps

# By default accelerators round the operands to fewer bits.
_matmul = functools.partial(jnp.matmul, precision="highest")


class LowRankPart(NamedTuple):
    """The state of one weight, or its shardings; `error` is None without error feedback."""

    basis: Any
    mu: Any
    nu: Any
    error: Any


def initial_part(weight: jax.Array, axes: MatrixAxes, rank: int, feedback: bool) -> LowRankPart:
    """The state before the first step: zeros."""
    dtype = compute_dtype(jax.dtypes.canonicalize_dtype(weight.dtype))
    batch = tuple(weight.shape[axis] for axis in axes.batch(weight.ndim))
    m, n = axes.matrix_shape(weight.shape)

    def zeros(weight: jax.Array) -> LowRankPart:
        # JAX finds the devices of Explicit mesh axes by the use of a value on them.
        zero = jnp.where(False, jnp.sum(weight), 0).astype(dtype)
        basis, mu = jnp.full((*batch, m, rank), zero), jnp.full((*batch, rank, n), zero)
        error = jnp.zeros_like(weight, dtype) if feedback else None
        return LowRankPart(basis, mu, jnp.real(mu), error)

    return left_to_xla(zeros, _shardings(weight, axes, feedback))(weight)


def next_part(
    gradient: jax.Array, axes: MatrixAxes, part: LowRankPart, count: jax.Array, numbers: Numbers
) -> tuple[jax.Array, LowRankPart]:
    """The direction, with the gradient's dtype and sharding, and the next state."""
    if not gradient.size:
        return gradient, part
    shardings = _shardings(gradient, axes, part.error is not None)
    results = shardings and (explicit_sharding(gradient), shardings)
    step = left_to_xla(functools.partial(_step, axes), results)
    return step(gradient, part, count, numbers)


def _shardings(weight: jax.Array, axes: MatrixAxes, feedback: bool) -> LowRankPart | None:
    """The shardings of the state, which follow those of Explicit mesh axes where they can."""
    sharding = explicit_sharding(weight)
    if not sharding:
        return None

    def side(axes: tuple[int, ...]) -> Any:
        first, *others = [sharding.spec[axis] for axis in axes] or [None]
        return None if any(others) else first  # of merged axes only the first can be sharded

    batch = [sharding.spec[axis] for axis in axes.batch(weight.ndim)]
    basis = NamedSharding(sharding.mesh, P(*batch, side(axes.output), None))
    moments = NamedSharding(sharding.mesh, P(*batch, None, side(axes.input)))
    return LowRankPart(basis, moments, moments, sharding if feedback else None)


def _step(
    axes: MatrixAxes, gradient: jax.Array, old: LowRankPart, count: jax.Array, numbers: Numbers
) -> tuple[jax.Array, LowRankPart]:
    """The formula of every step; before the first, basis and moments are zero, and c1 = c2 = 1."""
    dtype = old.basis.dtype
    real = jnp.finfo(dtype).dtype
    b1, b2, rho, eps = (jnp.asarray(each, real) for each in numbers)
    steps = count.astype(real)
    c1, c2 = (jnp.where(count == 0, 1, 1 - b**steps) for b in (b1, b2))

    whole = gradient.astype(dtype) + (0 if old.error is None else old.error)
    a, restore = as_matrices(whole, axes)
    basis = jax.lax.cond(
        count == 0,
        lambda: _leading_directions(a, old.basis.shape[-1]),
        lambda: _followed_directions(a, old.basis, old.mu / c1, rho),
    )
    low = _matmul(basis.mT.conj(), a)
    carried, nu = _carried_over(_matmul(basis.mT.conj(), old.basis), old, c1, c2)
    mu = b1 * carried + (1 - b1) * low
    nu = b2 * nu + (1 - b2) * abs_sq(low)
    direction = (mu / (1 - b1 ** (steps + 1))) / (jnp.sqrt(nu / (1 - b2 ** (steps + 1))) + eps)
    error = None
    if old.error is not None:
        weight = b1 / (1 - b1)
        both = jnp.concatenate([basis, old.basis], axis=-1)
        lost = jnp.concatenate([-low - weight * carried, weight * old.mu], axis=-2)
        error = whole + restore(_matmul(both, lost))
    update = restore(_matmul(basis, direction)).astype(gradient.dtype)
    return update, LowRankPart(basis, mu, nu, error)


def _carried_over(
    change: jax.Array, old: LowRankPart, c1: jax.Array, c2: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The old moments in the new basis, for the change of basis P'^T P = `change`.

    N = C M, and | (C*C) (V - c2 (M/c1)^2) + c2 (N/c1)^2 |: the variance V/c2 - (M/c1)^2, for
    independent entries, plus the square of the new mean.
    """
    carried = _matmul(change, old.mu)
    variance = old.nu - c2 * abs_sq(old.mu / c1)
    nu = jnp.abs(_matmul(abs_sq(change), variance) + c2 * abs_sq(carried / c1))
    # NaN comes from squares beyond the dtype's range, where Adam would divide by infinity.
    return carried, jnp.where(jnp.isnan(nu) & jnp.isfinite(carried), jnp.inf, nu)


def _orthonormal(a: jax.Array) -> jax.Array:
    return jnp.linalg.qr(a * unit_scale(a, (-2, -1)))[0]


def _leading_directions(a: jax.Array, rank: int) -> jax.Array:
    """The first left singular vectors of A, (batch..., m, r), which are those of R^T, A^T = Q R.

    Each device processes the matrices of a stack one by one, which bounds the working memory.
    """

    def of_one(a: jax.Array) -> jax.Array:
        triangle = jnp.linalg.qr(a.T * unit_scale(a, (0, 1)), "r")
        return jnp.linalg.svd(triangle.T, full_matrices=False)[0][:, :rank]

    *batch, m, n = a.shape
    devices = math.gcd(math.prod(batch), jax.device_count())
    stack = jnp.reshape(a, (devices, -1, m, n))

    def turn(index: jax.Array) -> jax.Array:
        return jax.vmap(of_one)(jax.lax.dynamic_index_in_dim(stack, index, 1, keepdims=False))

    bases = jax.lax.map(turn, jnp.arange(stack.shape[1]))
    return jnp.reshape(jnp.swapaxes(bases, 0, 1), (*batch, m, rank))


def _followed_directions(
    a: jax.Array, basis: jax.Array, mean: jax.Array, share: jax.Array
) -> jax.Array:
    """The Q-factor of B B^T P, one block power iteration, (batch..., m, r).

    B = share * P mean + (1 - share) * A is never formed. A Q-factor between the two products avoids
    squaring the condition number of B: with sigma_1 / sigma_r = 1e4 in float32 the error of the
    basis is 3e-5 instead of 6e-2.
    """
    projected = share * mean + (1 - share) * _matmul(basis.mT.conj(), a)
    right = _orthonormal(projected.mT.conj())
    image = share * _matmul(basis, _matmul(mean, right)) + (1 - share) * _matmul(a, right)
    return _orthonormal(image)
