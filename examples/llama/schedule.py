"""The learning rates' schedule, and the optimizer that follows it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.llama.config import OptimizerConfig, Setup
from examples.llama.model import LLAMA_RULES, TOKEN_RULES, llama_blocks
from examples.llama.optimizers import MATRIX, OPTIMIZERS, REST, Builder, Context


def schedule(
    peak: jax.typing.ArrayLike,
    steps: jax.typing.ArrayLike,
    warm_up: jax.typing.ArrayLike,
    numpy: Any = jnp,
) -> Callable[[Any], Any]:
    """Linear from 0 over the warm-up, then a cosine to a tenth of the peak, which stays.

    All three may be traced numbers, so that one compiled step serves all rates and lengths;
    optax's `warmup_cosine_decay_schedule`, of which this is a case, needs lengths in Python.
    `numpy` computes: JAX, or NumPy itself where there is nothing to trace.
    """

    def rate(count: Any) -> Any:
        progress = (count - warm_up) / (numpy.maximum(2, steps) - warm_up)
        falling = 0.1 + 0.45 * (1 + numpy.cos(numpy.pi * numpy.minimum(progress, 1)))
        return peak * numpy.where(count < warm_up, count / warm_up, falling)

    return rate


def make_optimizer(
    config: OptimizerConfig, setup: Setup, build: Builder | None = None
) -> optax.GradientTransformation:
    """Build a resolved optimizer for a model, its rates scheduled over the setup's schedule.

    The rates may be traced numbers, so that one compiled step serves all of them. `build` takes the
    place of the optimizer's own builder.
    """
    model, entry = setup.model, OPTIMIZERS[config.name]
    options = {name: getattr(config, name) for name in entry.defaults}
    matrices = options["learning_rate"]
    peaks = {MATRIX: matrices, REST: options.get("rest_learning_rate", matrices)}
    optimizer = (build or entry.build)(
        Context(
            options=options,
            rates={
                group: schedule(peak, setup.length_of_schedule, setup.warm_up)
                for group, peak in peaks.items()
            },
            axes=LLAMA_RULES,
            token_axes=TOKEN_RULES,
            blocks=lambda value: llama_blocks(model.hidden // model.heads, value=value),
            max_rank=min(model.hidden, model.mlp),
            state_dtype=jnp.bfloat16 if model.precision == "bfloat16" else None,
        )
    )
    return _in_float32(optimizer) if model.precision == "bfloat16-weights" else optimizer


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Give gradients and weights to the optimizer in float32, which makes its state float32."""

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        wide = optax.tree.cast((updates, params), jnp.float32)
        found, state = inner.update(wide[0], state, wide[1])
        return optax.tree.cast_like(found, updates), state

    return optax.GradientTransformation(
        lambda params: inner.init(optax.tree.cast(params, jnp.float32)), update
    )


def peak_rates(config: OptimizerConfig) -> dict[str, float]:
    """The peak rates of a resolved optimizer, by option."""
    peaks = {"learning_rate": config.learning_rate, "rest_learning_rate": config.rest_learning_rate}
    return {name: peak for name, peak in peaks.items() if peak is not None}


def scheduled_rates(config: OptimizerConfig, setup: Setup) -> Callable[[int], dict[str, float]]:
    """From the number of a step, which starts at 1, to a resolved optimizer's rates in it."""

    each = {
        name: schedule(peak, setup.length_of_schedule, setup.warm_up, np)
        for name, peak in peak_rates(config).items()
    }
    return lambda number: {name: float(rate(number - 1)) for name, rate in each.items()}
