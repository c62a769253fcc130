"""The learning rate's schedule, the same for every optimizer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def schedule(
    peak: jax.typing.ArrayLike, steps: jax.typing.ArrayLike, warm_up: jax.typing.ArrayLike
) -> Callable[[Any], Any]:
    """Linear from 0 over the warm-up, then a cosine to a tenth of the peak, which stays.

    All three may be traced numbers, so that one compiled step serves all rates and lengths;
    optax's `warmup_cosine_decay_schedule`, of which this is a case, needs lengths in Python.
    """

    def rate(count: Any) -> Any:
        progress = (count - warm_up) / (jnp.maximum(2, steps) - warm_up)
        falling = 0.1 + 0.45 * (1 + jnp.cos(jnp.pi * jnp.minimum(progress, 1)))
        return peak * jnp.where(count < warm_up, count / warm_up, falling)

    return rate
