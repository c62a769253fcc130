"""Several processes that train together: how they join, which one writes, and how they agree.

Every process runs the same program on its own devices, and takes the same decisions in the same
order, or one would wait for the others for ever. What only one of them can know, such as a signal
or what is in a folder, is therefore shared before it decides anything. With one process all of this
costs nothing.
"""

import asyncio
import contextlib
import functools
import json
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from examples.llama.run.files import fault
from examples.llama.run.options import Checked, Count, InputError, Natural, Positive

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
        try:
            host.encode("idna")
        except UnicodeError:
            host = ""
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise InputError(
                f"--coordinator {config.coordinator} is not host:port, a port from 1 to 65535, nor "
                f"auto"
            )
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
    except (jax.errors.JaxRuntimeError, OSError) as error:
        if jax.process_count() == 1:
            raise
        line = (
            f"Error: {fault(error)}"
            if isinstance(error, OSError)
            else f"Stopped: another process is gone ({str(error).splitlines()[0][:200]}). The "
            f"checkpoints are whole; start all processes again to go on"
        )
        print(line, flush=True)
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
    failure: Exception | None = None
    answer: dict[str, Any] = {}
    if is_main_process():
        try:
            answer["result"] = action()
        except Exception as error:
            failure, answer["failure"] = error, str(error)
    text = json.dumps(answer).encode()
    # all processes have to bring an array of the same size, so the size comes first
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.frombuffer(text[:size].ljust(size), np.uint8)
    answer = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())
    if failure is not None:
        raise failure
    if "failure" in answer:
        raise InputError(f"process 0 ended: {answer['failure']}")
    return answer["result"]


def check_alike(options: Mapping[str, Any]) -> None:
    """Check that all processes have the same options and text, which JSON can hold.

    Raises:
        InputError: they have not; on every process, with what is different there.
    """
    if jax.process_count() == 1:
        return
    flat = {name: json.dumps(value) for name, value in flatten_dict(options, sep=".").items()}
    main = from_main_process(lambda: flat)
    differences = sorted(name for name in {*flat, *main} if flat.get(name) != main.get(name))
    if Agreement(lambda: bool(differences)).now():
        here = ", ".join(
            f"{name} is {flat.get(name)}, not {main.get(name)}" for name in differences
        )
        raise InputError(
            f"all processes need the same options and the same text as process 0; "
            f"{here or 'another process has others'}"
        )


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
    apart, reduce = _reduction()
    flags = jax.make_array_from_callback((jax.device_count(),), apart, lambda _: np.array([flag]))
    return reduce(flags)


@functools.cache
def _reduction() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    mesh = jax.make_mesh((jax.device_count(),), ("device",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, P())
    return NamedSharding(mesh, P("device")), jax.jit(jnp.any, out_shardings=everywhere)


_GO = b"go"
_PAUSE = 0.2


def meet(host: str, port: int, processes: int, number: int, seconds: float) -> None:
    """Wait until all processes are there, for a time; JAX itself would abort without their names.

    The others tell process 0 their numbers, and wait for its word. A connection that sends anything
    else is ignored.
    """
    present: dict[int, asyncio.StreamWriter] = {}

    async def gather() -> None:
        complete = asyncio.Event()
        arrived: list[asyncio.StreamWriter] = []

        async def arrive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            arrived.append(writer)
            try:
                said = (await reader.readline()).strip()
            except (OSError, ValueError):  # reset, or too long a line
                return
            if said.isdigit() and 0 < int(said) < processes:
                present[int(said)] = writer  # in place of the one before, if it was started again
            if len(present) == processes - 1:
                complete.set()

        server = await asyncio.start_server(arrive, port=port)
        try:
            await complete.wait()
            for writer in present.values():
                writer.write(_GO)
        finally:
            server.close()
            for writer in arrived:
                writer.close()
            closed = (writer.wait_closed() for writer in arrived)
            await asyncio.gather(*closed, return_exceptions=True)

    async def join() -> None:
        while True:
            with contextlib.suppress(OSError):  # it is not there yet, or not any more
                reader, writer = await asyncio.open_connection(host, port)
                with contextlib.closing(writer):
                    writer.write(f"{number}\n".encode())
                    if await reader.read(len(_GO)) == _GO:
                        return
            await asyncio.sleep(_PAUSE)

    async def wait() -> None:
        await asyncio.wait_for(join() if number else gather(), seconds)

    if processes == 1:
        return
    try:
        asyncio.run(wait())
    except TimeoutError:
        missing = sorted(set(range(1, processes)) - present.keys())
        raise InputError(
            f"process {number} was not joined by all others at {host}:{port} within {seconds:g} "
            f"seconds; process 0, --process-id 0, says who is missing, if it is there; wait longer "
            f"with --join-timeout"
            if number
            else f"{len(missing)} of {processes} processes did not come to {host}:{port} within "
            f"{seconds:g} seconds: --process-id {', '.join(map(str, missing))}; start the same "
            f"command there too, or wait longer with --join-timeout"
        ) from None
