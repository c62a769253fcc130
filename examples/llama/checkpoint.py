"""Checkpoints of a run by orbax: weights, optimizer state, step, position in the data, settings.

Training draws nothing at random beyond the initial weights and the order of the data. Both follow
from the seeds in the configuration, which each checkpoint carries: there is no other random state.
Orbax writes to a temporary folder and renames it, so that a run killed at any moment leaves whole
checkpoints only. A fingerprint of every array's bits, and a seal over everything beside them (run,
step, configuration, position in the data, metrics), tell those that were damaged or altered later,
or belong elsewhere.
"""

import contextlib
import errno
import gc
import hashlib
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from examples.llama.config import InputError
from examples.llama.run.files import files_below, naming
from examples.llama.run.processes import Agreement, from_main_process, is_main_process
from examples.llama.step import TrainState

for _name in ("absl", "asyncio"):  # orbax also logs the errors that it raises
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class SaveError(Exception):
    """A checkpoint could not be written; those before it are whole."""


class DamagedError(Exception):
    """A checkpoint's content is not what was saved, or not by this run."""


@dataclass(frozen=True)
class Identity:
    """Which run saves and reads checkpoints."""

    run: str
    """The run's own name."""
    config: Mapping[str, Any]
    """Its configuration; the number of steps may have been smaller before."""
    texts: Sequence[str]
    """The names of its text, now and before."""

    def check(self, saved: Mapping[str, Any]) -> None:
        """Check that a checkpoint with this beside it is the run's.

        Raises:
            DamagedError: it is not.
        """
        if saved["run"] != self.run:
            raise DamagedError("it is of another run")
        if _comparable(saved["config"]) != _comparable(self.config):
            raise DamagedError("it is of another configuration than config.json has")
        if saved["config"]["corpus"] not in self.texts:
            raise DamagedError("it was trained on another text")


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    setup = {name: value for name, value in config["setup"].items() if name != "steps"}
    return {**config, "setup": setup, "corpus": None}


def _seal(saved: Mapping[str, Any]) -> str:
    """The digest of everything that is saved beside the arrays."""
    sealed = {name: value for name, value in saved.items() if name != "seal"}
    return hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()


@jax.jit
def fingerprint(state: Any) -> jax.Array:
    """One 32-bit number per array that changes with any single bit of it, on any mesh.

    The sum, modulo 2^32, of a hash of each entry's bits and place that is one to one in the bits
    (the finalizer of MurmurHash3), so that a change of one entry cannot go unseen.
    """

    def of(leaf: jax.Array) -> jax.Array:
        unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
        bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
        place = jnp.uint32(0)
        for axis in range(leaf.ndim):
            index = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
            place = (place + index + 1) * jnp.uint32(0x9E3779B1)
        mixed = bits ^ place
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
        return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)

    return jnp.stack([of(leaf) for leaf in jax.tree.leaves(state)])


def _reason(error: BaseException) -> str:
    """The innermost cause, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0][:300]


def _go_to(place: dict[str, Any], position: grain.DatasetIterator) -> None:
    try:
        position.set_state(place)
    except Exception as error:  # whatever the iterator makes of a place that it cannot be at
        raise DamagedError(f"its position in the data does not fit: {_reason(error)}") from error


def _is_full(error: BaseException) -> bool:
    codes, text = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), str(error)
    full = isinstance(error, OSError) and error.errno in codes
    return full or any(f"os_error_code='{code}'" in text for code in codes)


_STEP = re.compile(r"0|[1-9][0-9]*")
_UNFINISHED = ".orbax-checkpoint-tmp"
"""Ends the names that orbax gives to what it is writing, and that are given here to what goes."""


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)


def saved_steps(folder: Path) -> list[int]:
    """The steps of all complete checkpoints, the newest first.

    Their folders have their final names, which orbax gives when all is written.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist: there is no checkpoint to read")
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return sorted((int(name) for name in names if _STEP.fullmatch(name)), reverse=True)


def load(
    folder: Path, step: int, like: TrainState, identity: Identity | None = None
) -> tuple[TrainState, dict[str, Any]]:
    """The state of `step`, shaped and sharded as `like`, and what was saved beside it.

    Without `identity` it may be of any run.

    Raises:
        DamagedError: it is not, bit for bit, what was saved, or not by this run.
    """
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like
    )
    place = folder.absolute() / str(step)
    fault: str | None = None
    for path in files_below(place):
        path.open("rb").close()  # that it may not be read is no damage
    try:
        saved = ocp.checkpointables_metadata(place).custom_metadata
        if not isinstance(saved, dict) or not {"seal", "record"} <= set(saved):
            raise DamagedError("its metadata are missing")
        if saved["seal"] != _seal(saved):
            raise DamagedError("its metadata are not what was saved")
        if saved["step"] != step:
            raise DamagedError(f"it was saved at step {saved['step']}")
        if identity is not None:
            identity.check(saved)
        state = ocp.load_checkpointables(place, {"state": abstract})["state"]
    except (DamagedError, MemoryError):
        raise
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise
        fault = _reason(error)
    if fault is not None:
        # a read that failed leaves coroutines, which complain when they are collected
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        gc.collect()
        sys.unraisablehook = hook
        raise DamagedError(fault)
    if [int(number) for number in fingerprint(state)] != saved["fingerprint"]:
        raise DamagedError("an array is not what was saved")
    return state, saved


class Checkpoints:
    """Saves the newest few checkpoints of a run, and restores them; use it as a context manager."""

    def __init__(self, folder: Path, identity: Identity, keep: int = 1):
        self.folder, self._identity, self._keep = folder.absolute(), identity, keep
        self._steps: list[int] = []  # of this run's checkpoints, the oldest first
        self._response: Any = None
        from_main_process(self._clear)

    def _clear(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(f"*{_UNFINISHED}*"):
            _remove(left)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None:
            self._finish_save()
        elif self._response is not None:
            with contextlib.suppress(Exception):  # the error under way is the one to hear of
                self._response.result()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (SaveError, KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:
            why = "the disk is full; make room" if _is_full(error) else _reason(error)
            raise SaveError(
                f"cannot save step {self._steps[-1]} in {self.folder}: {why}. The checkpoints "
                f"before it are whole, and the same command goes on after the newest"
            ) from error

    def _finish_save(self) -> None:
        """Wait for the save under way; then remove the run's checkpoints before the newest few."""
        response, self._response = self._response, None
        if response is None:
            return
        with self._writing():
            response.result()
        while is_main_process() and len(self._steps) > self._keep:
            old = self.folder / str(self._steps.pop(0))
            going = old.with_name(f"{old.name}{_UNFINISHED}")  # if killed now, it is cleared later
            with naming(old), contextlib.suppress(FileNotFoundError):
                old.rename(going)
                _remove(going)

    def save(
        self,
        step: int,
        state: TrainState,
        position: grain.DatasetIterator,
        record: Mapping[str, Any],
    ) -> None:
        """Save in the background; the state may be donated as soon as this returns.

        `record` is that of the run up to this step: its metrics, and the time that it took.

        Raises:
            SaveError: this save, or the one before it, failed or would not fit on the disk.
        """
        self._finish_save()
        self._steps.append(step)
        with self._writing():
            needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
            free = shutil.disk_usage(self.folder).free
            if free < needed:
                raise OSError(errno.ENOSPC, f"{needed} bytes are needed, {free} are free")
            beside = {
                "run": self._identity.run,
                "step": step,
                "config": dict(self._identity.config),
                "position": position.get_state(),
                "record": dict(record),
                "fingerprint": [int(number) for number in fingerprint(state)],
            }
            self._response = ocp.save_checkpointables_async(
                self.folder / str(step),
                {"state": state},
                custom_metadata=beside | {"seal": _seal(beside)},
            )

    def restore_newest(
        self, like: TrainState, position: grain.DatasetIterator, report: Callable[[str], None]
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Load the newest checkpoint that can be used, and go to its place in the data.

        Those that are damaged, altered or of another run are reported, and moved out of the way, to
        a folder `damaged` beside the checkpoints.

        Returns:
            The state, and what was saved beside it; None if there is no checkpoint at all.
        """
        self._finish_save()
        damaged: list[int] = []
        steps = from_main_process(lambda: saved_steps(self.folder))
        for step in steps:
            loaded, fault = None, "another process could not read it"
            try:
                loaded = load(self.folder, step, like, self._identity)
                _go_to(loaded[1]["position"], position)
            except DamagedError as error:
                loaded, fault = None, str(error)
            if Agreement(lambda found=loaded: found is None).now():  # type: ignore[misc]
                report(f"The checkpoint of step {step} in {self.folder} is not used: {fault}")
                damaged.append(step)
                continue
            from_main_process(lambda: self._move_aside(damaged))
            self._steps = [older for older in reversed(steps) if older < step and self._owns(older)]
            self._steps.append(step)
            return loaded
        if damaged:
            raise InputError(
                f"no checkpoint in {self.folder} can be used, of steps {damaged}; to start over, "
                f"add --fresh, which moves the run's folder aside"
            )
        return None

    def _owns(self, step: int) -> bool:
        """Whether a checkpoint says that it is this run's; what cannot be read stays for ever."""
        try:
            saved = ocp.checkpointables_metadata(self.folder / str(step)).custom_metadata
            return isinstance(saved, dict) and saved["run"] == self._identity.run
        except Exception:  # orbax raises many
            return False

    def _move_aside(self, steps: list[int]) -> None:
        for step in steps:
            aside = self.folder.parent / "damaged" / str(step)
            while aside.exists():
                aside = aside.with_name(aside.name + "'")
            aside.parent.mkdir(exist_ok=True)
            shutil.move(self.folder / str(step), aside)
