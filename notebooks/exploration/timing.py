"""How long a compiled function takes, here and now."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def milliseconds(function: Callable[..., Any], *arguments: Any, seconds: float = 0.15) -> float:
    """The median time of a function that is compiled, run once, and then repeated for a while."""
    compiled = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))
