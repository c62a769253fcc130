"""How processes find each other before they connect, so that it can be said who is missing.

Process 0 listens at the coordinator's address. Every other process says its number there, and is
told to go on as soon as all are there. JAX then connects at the same address; alone it would wait
in silence, and end without a word of who did not come.
"""

import socket
import time

from examples.llama.options import InputError

_GO = b"go"
_PAUSE = 0.2
_SECONDS_TO_SPEAK = 5


def meet(host: str, port: int, processes: int, number: int, seconds: float) -> None:
    """Wait until all processes are there, for a time.

    Raises:
        InputError: one is missing; process 0 knows which, the others whether process 0 is.
    """
    if processes == 1:
        return
    deadline = time.monotonic() + seconds
    if number == 0:
        _gather(host, port, processes, deadline, seconds)
    else:
        _join(host, port, number, deadline, seconds)


def _gather(host: str, port: int, processes: int, deadline: float, seconds: float) -> None:
    present: dict[int, socket.socket] = {}
    try:
        with socket.create_server(("", port)) as server:
            while missing := sorted(set(range(1, processes)) - present.keys()):
                server.settimeout(max(0.01, deadline - time.monotonic()))
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    raise InputError(
                        f"{len(missing)} of {processes} processes did not come to {host}:{port} "
                        f"within {seconds:g} seconds: --process-id "
                        f"{', '.join(map(str, missing))}; start the same command there too, or "
                        f"wait longer with --join-timeout"
                    ) from None
                number = _number(connection)
                if number is None or not 0 < number < processes:
                    connection.close()
                    continue
                if number in present:  # it was started again
                    present[number].close()
                present[number] = connection
        for connection in present.values():
            connection.sendall(_GO)
    finally:
        for connection in present.values():
            connection.close()


def _number(connection: socket.socket) -> int | None:
    """The number that a process says; None for anybody else."""
    connection.settimeout(_SECONDS_TO_SPEAK)
    try:
        said = connection.recv(100).decode(errors="replace").strip()
    except OSError:
        return None
    return int(said) if said.isascii() and said.isdecimal() else None


def _join(host: str, port: int, number: int, deadline: float, seconds: float) -> None:
    while True:
        try:
            left = max(0.01, deadline - time.monotonic())
            with socket.create_connection((host, port), timeout=left) as connection:
                connection.sendall(f"{number}\n".encode())
                connection.settimeout(left)
                if connection.recv(len(_GO)) == _GO:
                    return
        except OSError:
            pass  # it is not there yet, or not any more
        if time.monotonic() > deadline:
            raise InputError(
                f"process {number} was not joined by all others at {host}:{port} within "
                f"{seconds:g} seconds; process 0, --process-id 0, says who is missing, if it is "
                f"there; wait longer with --join-timeout"
            )
        time.sleep(_PAUSE)
