"""A JAX trace of a few steps in the middle of training."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

Profile = Callable[[int], None]
"""Is told each step's number."""

_SKIPPED = 3
"""Steps before the trace, compilation among them."""
_TRACED = 10


@contextlib.contextmanager
def profile_steps(folder: Path | None) -> Iterator[Profile]:
    """Give a function to call with each step's number; it traces some steps into `folder`.

    The trace begins a few steps after the first call, so that compilation is not in it, and ends
    ten steps later or with the training. Nothing happens if `folder` is None.
    """
    first: int | None = None
    tracing = False

    def step(number: int) -> None:
        nonlocal first, tracing
        if folder is None:
            return
        first = number if first is None else first
        if number == first + _SKIPPED:
            jax.profiler.start_trace(str(folder))
            tracing = True
        elif tracing and number == first + _SKIPPED + _TRACED:
            jax.profiler.stop_trace()
            tracing = False

    try:
        yield step
    finally:
        if tracing:
            jax.profiler.stop_trace()
