"""Ctrl-C and SIGTERM: a quiet end before training, a stop after the step under way during it."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


def end_quietly() -> None:
    """Let Ctrl-C end this process at once, with the exit code of the signal and no traceback.

    Call it before the imports, which take seconds. Files and checkpoints are written atomically,
    so there is nothing to clean up; training handles Ctrl-C itself, see `StopSignals`.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)


class StopSignals:
    """As a context, SIGINT and SIGTERM only set `received`; a second one acts at once."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._before: dict[int, Any] = {}
        self.received: signal.Signals | None = None

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as in a script's background
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self.__exit__()
        # by another thread: this one may be in the middle of a line
        line = f"{self.received.name}: stopping after this step"
        threading.Thread(target=self._say, args=(line,), daemon=True).start()
