"""Several processes that train together: how they join, which one writes, and how they agree.

Every process runs the same program on its own devices, and takes the same decisions in the same
order, or one would wait for the others for ever. What only one of them can know, such as a signal
or what is in a folder, is therefore shared before it decides anything. With one process all of this
costs nothing.
"""

import contextlib
import functools
import json
import math
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from examples.llama.run.options import Checked, Count, InputError, Natural, Positive
from examples.llama.run.records import fault

AUTO = "auto"
"""The coordinator that the cluster names."""


@dataclass(frozen=True)
class DistributedConfig(Checked):
    """Which processes train together; the same command runs in each, all with the same files."""

    coordinator: str | None = None
    """Address of process 0, host:port, which the others can reach; auto asks the cluster (Slurm,
    Open MPI, Kubernetes, Cloud TPU) for all three. Left out, the process trains alone."""
    processes: Count | None = None
    """Number of processes."""
    process_id: Natural | None = None
    """Number of this process, from 0, which prints and writes the records."""
    join_timeout: Positive = 300.0
    """Seconds to wait for all processes before the missing ones are named."""


def join_processes(config: DistributedConfig) -> None:
    """Connect to the other processes, if there are any; before anything else is done with JAX."""
    processes, number = config.processes, config.process_id
    if config.coordinator is None:
        if processes is not None or number is not None:
            raise InputError(
                "--processes and --process-id have no meaning without --coordinator; add the "
                "address of process 0 as host:port, or leave them out to train alone"
            )
    elif config.coordinator == AUTO:
        try:
            jax.distributed.initialize(
                num_processes=processes,
                process_id=number,
                initialization_timeout=math.ceil(config.join_timeout),
            )
        except ValueError as error:
            raise InputError(
                f"--coordinator auto finds no cluster ({error}); give --coordinator host:port, "
                f"--processes and --process-id"
            ) from error
    else:
        host, _, port = config.coordinator.rpartition(":")
        if not host or not port.isdecimal() or int(port) >= 2**16:
            raise InputError(f"--coordinator {config.coordinator} is not host:port, nor auto")
        if processes is None or number is None or not 0 <= number < processes:
            raise InputError(
                f"--coordinator {config.coordinator} needs --processes, their number, and "
                f"--process-id, from 0 to one less; they are {processes} and {number}"
            )
        meet(host.strip("[]"), int(port), processes, number, config.join_timeout)
        jax.distributed.initialize(config.coordinator, processes, number)


LOST = 4
"""Exit code of a process whose others are gone."""


def leave(code: int) -> int:
    """End with this exit code; of several processes this one ends at once.

    A process that ends in the usual way waits for the others, which wait for it.
    """
    if jax.process_count() > 1:
        sys.stdout.flush()
        os._exit(code)
    return code


@contextlib.contextmanager
def leaving_together() -> Iterator[None]:
    """End this process with a line if one of the others ends while they compute together."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        print(
            f"Stopped: another process is gone ({str(error).splitlines()[0][:200]}). The "
            f"checkpoints are whole; start all processes again to go on",
            flush=True,
        )
        leave(LOST)
    except OSError as error:
        if jax.process_count() == 1:
            raise
        print(f"Error: {fault(error)}", flush=True)
        leave(LOST)


def is_main_process() -> bool:
    """Whether this is process 0, the one that prints and writes the records."""
    return jax.process_index() == 0


def from_main_process(action: Callable[[], Any]) -> Any:
    """What `action` returns on process 0, on all processes; the others do not carry it out.

    All processes have to come here. The result has to be something that JSON can hold.
    """
    if jax.process_count() == 1:
        return action()
    failure, answer = None, {}
    if is_main_process():
        try:
            answer = {"result": action()}
        except Exception as error:
            failure, answer = error, {"failure": str(error)}
    answer = _from_main_process(answer)
    if failure is not None:
        raise failure
    if "failure" in answer:
        raise InputError(f"process 0 ended: {answer['failure']}")
    return answer["result"]


def _from_main_process(value: Any) -> Any:
    text = json.dumps(value).encode()
    # all processes have to bring an array of the same size, so the size comes first
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.frombuffer(text[:size].ljust(size), np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())


class Agreement:
    """A condition that counts as soon as it holds on any process, and then on all of them at once.

    All processes have to ask the same questions in the same order.
    """

    def __init__(self, condition: Callable[[], bool], behind: int = 1):
        """Set this process's condition, and how many questions later `soon` answers one."""
        self._condition, self._behind = condition, behind
        self._asked: deque[jax.Array] = deque()

    def soon(self) -> bool:
        """Ask, and return the answer to an earlier question, so that nothing waits for the devices.

        Only what was dispatched before that question has to be done for it. With one process it is
        the answer of this moment.
        """
        if jax.process_count() == 1:
            return self._condition()
        self._asked.append(_any_process(self._condition()))
        return len(self._asked) > self._behind and bool(self._asked.popleft())

    def now(self) -> bool:
        """Ask, and wait for the answer."""
        if jax.process_count() == 1:
            return self._condition()
        return bool(_any_process(self._condition()))


def _any_process(flag: bool) -> jax.Array:
    """Whether a flag is set on any process; dispatched, not awaited."""
    sharding, reduce = _reduction()
    flags = jax.make_array_from_callback(
        (jax.device_count(),), sharding, lambda _: np.array([flag])
    )
    return reduce(flags)


@functools.cache
def _reduction() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    mesh = jax.make_mesh((jax.device_count(),), ("device",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, P())
    return NamedSharding(mesh, P("device")), jax.jit(jnp.any, out_shardings=everywhere)


_GO = b"go"
_PAUSE = 0.2
_SECONDS_TO_SPEAK = 5


def meet(host: str, port: int, processes: int, number: int, seconds: float) -> None:
    """Wait until all processes are there, for a time."""
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
