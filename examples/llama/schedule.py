"""The learning rate over a run."""

from collections.abc import Callable
from typing import Any

import jax
import optax


def warm_up(steps: int) -> int:
    """Steps of the warm-up in a schedule of so many: a tenth, at least 30, at most half of them.

    A peak that a run of 300 steps bears after 30 steps is too much after 4 for one of 40.
    """
    return min(max(round(steps / 10), 30), max(1, steps // 2))


def schedule(peak: jax.typing.ArrayLike, steps: int) -> Callable[[Any], Any]:
    """Linear from 0 over the warm-up, then a cosine to a tenth of the peak, which stays."""
    shape = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=1.0,
        warmup_steps=warm_up(steps),
        decay_steps=max(2, steps),
        end_value=0.1,
    )
    return lambda count: peak * shape(count)
