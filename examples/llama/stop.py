"""Ctrl-C and SIGTERM as a wish to stop after the step under way."""

import signal
from types import FrameType, TracebackType

from rich.console import Console


class StopSignals:
    """While it is entered, SIGINT and SIGTERM only set `received`; a second one acts at once."""

    def __init__(self, console: Console):
        """Remember where to say so."""
        self._console = console
        self._before: dict[int, signal.Handlers | object] = {}
        self.received: signal.Signals | None = None

    def __enter__(self) -> "StopSignals":
        """Take over the two signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give them back."""
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._give_back()
        self._console.show_cursor(True)  # which a bar hides; a second signal leaves no time for it
        self._console.print(f"{self.received.name}: stopping after this step")

    @property
    def exit_code(self) -> int:
        """The shell's code for a process that a signal ended."""
        return 128 + self.received if self.received is not None else 0
