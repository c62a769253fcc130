"""A JAX trace of some steps."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

_SKIPPED, _TRACED = 3, 10
"""Steps before the trace, compilation among them, and in it."""


@contextlib.contextmanager
def profile_steps(folder: Path | None) -> Iterator[Callable[[int], None]]:
    """Give a function to call with each step's number; it traces some steps into `folder`.

    The trace starts a few steps after the first call, so it leaves out compilation, and stops ten
    steps later or with the training. Nothing happens if `folder` is None.
    """
    first: int | None = None
    tracing = False

    def step(number: int) -> None:
        nonlocal first, tracing
        first = number if first is None else first
        if folder is not None and number == first + _SKIPPED:
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
