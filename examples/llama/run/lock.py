"""One folder, one writer: a lock that the kernel frees when its holder ends, however it ends."""

import contextlib
import fcntl
import os
import socket
from pathlib import Path

from examples.llama.run.options import InputError
from examples.llama.run.records import naming

LOCK = "lock"
"""The file in the folder; it names the holder, and exists while the lock is held or after a crash,
which frees the lock too."""


class _Lock:
    """The right to write to a folder."""

    def __init__(self, folder: Path):
        """Take it; the folder is created if it does not exist.

        Raises:
            InputError: another process has it.
            OSError: the folder cannot be written to.
        """
        self._path = folder / LOCK
        folder.mkdir(parents=True, exist_ok=True)
        with naming(self._path):
            while True:
                self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
                try:
                    self._take(folder)
                    if self._is_there():
                        return
                except BaseException:
                    os.close(self._handle)
                    raise
                os.close(self._handle)  # its holder let go of it, and removed it, in between

    def _take(self, folder: Path) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._handle, 1000).decode(errors="replace").strip()
            raise InputError(
                f"{folder} is in use by {holder or 'another process'}; let it finish or stop it, "
                f"or choose another folder with --run-dir"
            ) from None
        os.truncate(self._handle, 0)
        os.write(self._handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(self._path))
        except OSError:  # it is not, or its folder is not
            return False

    def release(self) -> None:
        """Let go of it; where the file cannot be removed it stays, as after a crash."""
        if self._is_there():
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(self._handle)


class LockedFolder:
    """A folder that one process at a time writes to."""

    def __init__(self, path: Path):
        self.path = path
        self._lock: _Lock | None = None

    def lock(self, *, fresh: bool = False) -> Path | None:
        """Take the right to write here, until `unlock` or the end of the process.

        With `fresh`, what is in the folder is first moved to the first free name with a number,
        which is returned; nothing is lost.

        Raises:
            InputError: another process writes here, or the command runs inside what is to be moved.
            OSError: the folder cannot be written to.
        """
        existed = self.path.exists()
        if fresh and existed and Path.cwd().is_relative_to(self.path.resolve()):
            raise InputError(
                f"--fresh would move {self.path}, in which this command was started; start it in "
                f"another folder, or choose another --run-dir"
            )
        self._lock = _Lock(self.path)
        if not (fresh and existed):
            return None
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        self.path.rename(aside)
        self.unlock()
        (aside / LOCK).unlink()
        self._lock = _Lock(self.path)
        return aside

    def unlock(self) -> None:
        """Let go of the folder, if this process has it."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
