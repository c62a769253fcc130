"""The learning rate over a run."""

from collections.abc import Callable
from typing import Any

import jax
import optax


def schedule(peak: jax.typing.ArrayLike, steps: int) -> Callable[[Any], Any]:
    """Linear from 0 over the first tenth of the steps, then a cosine to a tenth of the peak."""
    shape = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=1.0,
        warmup_steps=max(1, round(steps / 10)),
        decay_steps=max(2, steps),
        end_value=0.1,
    )
    return lambda count: peak * shape(count)
