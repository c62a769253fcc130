"""The learning rate over a run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def schedule(peak: jax.typing.ArrayLike, steps: jax.typing.ArrayLike) -> Callable[[Any], Any]:
    """Linear from 0 over the first tenth of the steps, then a cosine to a tenth of the peak.

    Both may be traced numbers, so that one compiled step serves all rates and lengths; optax's
    `warmup_cosine_decay_schedule`, of which this is a case, needs the length as a Python number.
    """

    def rate(count: Any) -> Any:
        warm_up = jnp.maximum(1, jnp.round(steps / 10))
        progress = (count - warm_up) / (jnp.maximum(2, steps) - warm_up)
        falling = 0.1 + 0.45 * (1 + jnp.cos(jnp.pi * jnp.minimum(progress, 1)))
        return peak * jnp.where(count < warm_up, count / warm_up, falling)

    return rate
