"""Adam in a moving subspace, on one weight: one step of LDAdam.

Robert, Safaryan, Modoranu, Alistarh, arXiv 2410.16103, Algorithm 1: the moments are carried over
from the old basis to the new one, and what the new basis does not hold goes to the next gradient.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from multinorm_optax._baselines.ldadam.subspace import (
    Sides,
    followed_directions,
    leading_directions,
    matmul,
    transpose,
)
from multinorm_optax._matrices.stacks import left_to_xla
from multinorm_optax._norms.precision import abs_sq, compute_dtype

Numbers = tuple[jax.typing.ArrayLike, ...]
"""b1, b2, rho and eps of `scale_by_ldadam`."""


class LowRankPart(NamedTuple):
    """What is kept of one weight; the fields of the state after its count."""

    basis: Any
    mu: Any
    nu: Any
    error: Any


def initial_part(weight: jax.Array, sides: Sides, rank: int, error_feedback: bool) -> LowRankPart:
    """Zeros: basis and moments before the first step."""
    dtype = compute_dtype(jax.dtypes.canonicalize_dtype(weight.dtype))
    of_basis, of_moments = sides.factor_shapes(rank)

    def zeros() -> tuple[jax.Array, ...]:
        real = jnp.finfo(dtype).dtype
        return jnp.zeros(of_basis, dtype), jnp.zeros(of_moments, dtype), jnp.zeros(of_moments, real)

    error = jnp.zeros_like(weight, dtype) if error_feedback else None
    lying = _shardings(weight, sides, None)
    basis, mu, nu = zeros() if lying is None else left_to_xla(zeros, lying[:3])()
    return LowRankPart(basis, mu, nu, error)


def next_part(
    gradient: jax.Array, sides: Sides, part: LowRankPart, count: jax.Array, decays: Numbers
) -> tuple[jax.Array, LowRankPart]:
    """The direction of the gradient's dtype and layout, and what is kept for the next step.

    With Explicit mesh axes the weight's axes stay spread as they are, and those of the factors
    with them as far as they can.
    """
    if not gradient.size:
        return gradient, part

    step: Callable[..., tuple[jax.Array, LowRankPart]] = functools.partial(_step, sides)
    lying = _shardings(gradient, sides, part.error)
    if lying is not None:
        step = left_to_xla(step, (jax.typeof(gradient).sharding, lying))
    return step(gradient, part, count, decays)


def _shardings(weight: jax.Array, sides: Sides, error: jax.Array | None) -> LowRankPart | None:
    """How the factors of an Explicitly sharded weight lie."""
    sharding = jax.typeof(weight).sharding
    if not any(sharding.spec):
        return None
    of_basis, of_moments = sides.factor_shardings(sharding)
    return LowRankPart(of_basis, of_moments, of_moments, None if error is None else sharding)


def _step(
    sides: Sides, gradient: jax.Array, old: LowRankPart, count: jax.Array, decays: Numbers
) -> tuple[jax.Array, LowRankPart]:
    """One formula for all steps: before the first, basis and moments are zero, and c1 = c2 = 1."""
    dtype = old.basis.dtype
    real = jnp.finfo(dtype).dtype
    b1, b2, rho, eps = (jnp.asarray(each, real) for each in decays)
    steps = count.astype(real)
    c1, c2 = (jnp.where(count == 0, 1, 1 - b**steps) for b in (b1, b2))

    a = gradient.astype(dtype)
    if old.error is not None:
        a = a + old.error
    basis = jax.lax.cond(
        count == 0,
        lambda: leading_directions(sides, a, old.basis.shape[-1]),
        lambda: followed_directions(sides, a, old.basis, old.mu / c1, rho),
    )
    low = sides.project(basis, a)
    carried, nu = _carried_over(matmul(transpose(basis), old.basis), old, c1, c2)
    mu = b1 * carried + (1 - b1) * low
    nu = b2 * nu + (1 - b2) * abs_sq(low)
    now = steps + 1
    direction = (mu / (1 - b1**now)) / (jnp.sqrt(nu / (1 - b2**now)) + eps)
    error = None
    if old.error is not None:
        weight = b1 / (1 - b1)
        both = jnp.concatenate([basis, old.basis], axis=-1)
        error = a + sides.lift(
            both, jnp.concatenate([-low - weight * carried, weight * old.mu], axis=-2)
        )
    return sides.lift(basis, direction).astype(gradient.dtype), LowRankPart(basis, mu, nu, error)


def _carried_over(
    change: jax.Array, old: LowRankPart, c1: jax.Array, c2: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Both moments in the new basis, P'^T P = `change` times the old one.

    N = C M, and | (C*C) (V - c2 (M/c1)^2) + c2 (N/c1)^2 |: the variance V/c2 - (M/c1)^2 of entries
    taken to be independent, and the square of the new mean.
    """
    carried = matmul(change, old.mu)
    variance = old.nu - c2 * abs_sq(old.mu / c1)
    nu = jnp.abs(matmul(abs_sq(change), variance) + c2 * abs_sq(carried / c1))
    # Differences and products of squares beyond the dtype's range; Adam would divide by infinity.
    return carried, jnp.where(jnp.isnan(nu) & jnp.isfinite(carried), jnp.inf, nu)
