"""Descents: SGD, Adam, SinkGD and SWAN on one small loss, with rates and sweeps that may be traced.

SGD's rate is given in units of 1 / curvature, where 2 is the end of stability on a quadratic. The
rates of the others are the size of a step of one entry. All fall as a cosine to zero if asked to:
a step that does not shrink with the gradient ends nowhere else.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import multinorm_optax as mo
from exploration.convergence import ROWS_FIRST

Directions = Mapping[str, optax.GradientTransformation]
Problem = Any
"""One of `landscapes`."""


def _directions(sweeps: Any) -> Directions:
    return {
        "SGD": optax.identity(),
        "Adam": optax.scale_by_adam(),
        "SinkGD": mo.scale_by_sinkhorn(ROWS_FIRST, sweeps),
        "SWAN": mo.scale_by_swan(ROWS_FIRST),
    }


OPTIMIZERS = tuple(_directions(5))
"""In the order of every result."""


def _descend(
    problem: Problem,
    direction: optax.GradientTransformation,
    rate: Any,
    cosine: Any,
    noise: Any,
    steps: int,
    look: Callable[[Any, Any], Any],
) -> Any:
    def step(carry: Any, count: jax.Array) -> tuple[Any, Any]:
        weights, state = carry
        seen = look(problem, weights)
        gradient = jax.grad(problem.loss)(weights)
        key = jax.random.fold_in(jax.random.key(0), count)
        gradient = jax.tree.map(
            lambda g, size: g + size * jax.random.normal(key, g.shape), gradient, sizes
        )
        updates, state = direction.update(gradient, state, weights)
        share = jnp.where(cosine, 0.5 * (1 + jnp.cos(jnp.pi * count / steps)), 1.0)
        updates = jax.tree.map(lambda update: -rate * share * update, updates)
        return (optax.apply_updates(weights, updates), state), seen

    start = problem.start()
    sizes = jax.tree.map(lambda g: noise * jnp.sqrt(jnp.mean(g**2)), jax.grad(problem.loss)(start))
    (weights, _), seen = jax.lax.scan(step, (start, direction.init(start)), jnp.arange(steps))
    return jax.tree.map(
        lambda all_, last: jnp.append(all_, last[None], 0), seen, look(problem, weights)
    )


@partial(jax.jit, static_argnames=("steps", "look"))
def _descend_all(
    problem: Problem,
    rates: Any,
    sweeps: Any,
    cosine: Any,
    noise: Any,
    steps: int,
    look: Callable[..., Any],
) -> dict[str, Any]:
    rates = {**rates, "SGD": rates["SGD"] / problem.curvature()}
    return {
        name: jax.vmap(
            lambda rate, direction=direction: _descend(
                problem, direction, rate, cosine, noise, steps, look
            )
        )(rates[name])
        for name, direction in _directions(sweeps).items()
    }


def descend(
    problem: Problem,
    rates: Mapping[str, Any],
    steps: int,
    look: Callable[[Any, Any], Any],
    sweeps: int = 5,
    cosine: bool = True,
    noise: float = 0.0,
) -> dict[str, Any]:
    """What `look(problem, weights)` sees before each step and after the last, for each optimizer.

    Args:
      problem: one of `landscapes`.
      rates: one rate or a list of them for each optimizer.
      steps: how many.
      look: returns arrays; compiled once.
      sweeps: SinkGD's L.
      cosine: whether rates fall to zero.
      noise: standard deviation of what is added to each entry of the gradient, over the root mean
        square of the gradient at the start.

    Returns:
      By optimizer, what was seen: (steps + 1, ...) arrays, (rates, steps + 1, ...) for a list.
    """
    lists = {name: np.atleast_1d(np.float32(rates[name])) for name in OPTIMIZERS}
    seen = _descend_all(problem, lists, sweeps, cosine, noise, steps, look)
    found = {}
    for name in OPTIMIZERS:
        first = 0 if np.ndim(rates[name]) == 0 else slice(None)
        found[name] = jax.tree.map(lambda x, first=first: np.asarray(x[first]), seen[name])
    return found


def loss(problem: Problem, weights: Any) -> jax.Array:
    """To look at the loss."""
    return problem.loss(weights)


def loss_and_point(problem: Problem, weights: Any) -> tuple[jax.Array, jax.Array]:
    """To look at the loss and the two parameters."""
    return problem.loss(weights), weights["w"][0]


def loss_and_rows(problem: Problem, weights: Any) -> tuple[jax.Array, jax.Array]:
    """To look at the loss and at what each output loses."""
    return problem.loss(weights), problem.loss_of_rows(weights)


def loss_and_spectrum(problem: Problem, weights: Any) -> tuple[jax.Array, jax.Array]:
    """To look at the loss and the singular values of the product."""
    values = jnp.linalg.svd(problem.product(weights), compute_uv=False)
    return problem.loss(weights), values
