"""One folder, one writer: a lock that the kernel frees when its holder ends, however it ends."""

import contextlib
import errno
import fcntl
import os
import socket
from pathlib import Path

from examples.llama.run.files import naming
from examples.llama.run.options import InputError

LOCK = "lock"
"""The file in the folder; it names the holder, and exists while the lock is held or after a crash,
which frees the lock too."""


class LockedFolder:
    """A folder that one process at a time writes to."""

    def __init__(self, path: Path):
        self.path = path
        self._handle: int | None = None

    def lock(self, *, fresh: bool = False) -> Path | None:
        """Take the right to write here, until `unlock` or the end of the process.

        With `fresh`, what is in the folder is first moved to the first free name with a number,
        which is returned; nothing is lost.

        Raises:
            InputError: another process writes here, or the command runs inside what is to be moved.
            OSError: the folder cannot be written to.
        """
        moves = fresh and self.path.exists()
        if moves and Path.cwd().is_relative_to(self.path.resolve()):
            raise InputError(
                f"--fresh would move {self.path}, in which this command was started; start it in "
                f"another folder, or choose another --run-dir"
            )
        self._take()
        if not moves:
            return None
        number = 1
        while os.path.lexists(aside := self.path.with_name(f"{self.path.name}.{number}")):
            number += 1
        self.path.rename(aside)
        self.unlock()
        (aside / LOCK).unlink()
        self._take()
        return aside

    def unlock(self) -> None:
        """Let go of the folder, if this process has it; a file that cannot be removed stays."""
        if self._handle is None:
            return
        if self._is_there(self._handle):
            with contextlib.suppress(OSError):
                (self.path / LOCK).unlink()
        os.close(self._handle)
        self._handle = None

    def check_held(self) -> None:
        """Check that the folder at this path is still the one that this process has locked.

        Raises:
            OSError: it was moved or removed; what is there now may be another run's.
        """
        if self._handle is not None and not self._is_there(self._handle):
            raise OSError(
                errno.ESTALE,
                "it was moved or removed while this run was writing to it, so the run stops; move "
                "it back, and the same command goes on after its newest checkpoint",
                str(self.path),
            )

    def _take(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with naming(self.path / LOCK):
            while self._handle is None:
                handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    holder = os.read(handle, 1000).decode(errors="replace").strip()
                    os.close(handle)
                    raise InputError(
                        f"{self.path} is in use by {holder or 'another process'}; let it finish or "
                        f"stop it, or choose another folder with --run-dir"
                    ) from None
                if self._is_there(handle):
                    self._handle = handle
                else:
                    os.close(handle)  # its holder let go of it, and removed it, in between
            os.truncate(self._handle, 0)
            os.write(self._handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def _is_there(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self.path / LOCK))
        except OSError:  # it is not, or its folder is not
            return False
