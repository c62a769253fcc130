"""Ctrl-C before there is anything to be saved: the process ends without a word."""

import signal


def end_quietly() -> None:
    """Let Ctrl-C end this process at once, with the exit code of the signal and no traceback.

    Called before the imports, which take seconds. Whole files and checkpoints are written
    atomically, so there is nothing to clean up; training takes Ctrl-C over, see `StopSignals`.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
