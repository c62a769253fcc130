"""The file of all runs, a JSON line each, which several processes may share."""

import contextlib
import fcntl
import json
import math
import os
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, get_type_hints

from rich.console import Console

from examples.llama.config import InputError
from examples.llama.run.files import read_lines
from examples.llama.run.options import fits
from examples.measure.study.points import Rates

WAIT = 5.0
"""Seconds between two looks at what other processes have finished."""


class Trial(NamedTuple):
    """A run that can be made."""

    cell: str
    optimizer: str
    box: int
    """The box of its rates: 0 the first, then those it moved to."""
    point: int
    """Which of the box's points."""
    rates: Rates
    seed: int
    steps: int

    @property
    def key(self) -> tuple[str, str, int, int, int, int]:
        """Identifies the trial; the rates follow from it."""
        return (self.cell, self.optimizer, self.box, self.point, self.seed, self.steps)


class Run(NamedTuple):
    """A trial that was made."""

    trial: Trial
    loss: float | None
    """Validation loss after the last step; None if the run diverged."""
    diverged_at: int | None
    """The step whose loss, weights or validation loss was not finite."""
    seconds: float
    """Of training and validation, without the compilation of the step."""
    environment: int
    """Number of the line with the text, versions and machine."""

    @property
    def score(self) -> float:
        """The loss; infinite if the run diverged."""
        return float("inf") if self.loss is None else self.loss

    def as_json(self) -> dict[str, Any]:
        """One flat record."""
        record = self.trial._asdict() | {"rates": self.trial.rates.each} | self._asdict()
        del record["trial"]
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Run":
        """The inverse of `as_json`."""
        of_trial = {name: record[name] for name in Trial._fields}
        trial = Trial(**of_trial | {"rates": Rates(*record["rates"])})
        return cls(trial, *(record[name] for name in cls._fields[1:]))


class RunsFile:
    """Runs, and lines with the text, versions and machine of the runs."""

    def __init__(self, path: Path):
        self.path = path

    def until_stopped(self, carry_out: Callable[[], None], console: Console) -> int:
        """Make runs; return 0, or after Ctrl-C an exit code."""
        before = signal.getsignal(signal.SIGINT)
        if before is signal.SIG_DFL:  # as `end_quietly` leaves it
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            carry_out()
        except KeyboardInterrupt:
            console.print(f"Stopped; the same command goes on after the runs in {self.path}")
            return 128 + signal.SIGINT
        finally:
            if before is signal.SIG_DFL:
                signal.signal(signal.SIGINT, before)
        return 0

    def check_text(self, cell: str, name: str) -> None:
        """Raise an error if runs of a cell are of another text."""
        texts = dict(enumerate(each["corpus"] for each in self.environments()))
        own = [run for run in self.runs() if run.trial.cell == cell]
        used = {texts.get(run.environment, "that no line names") for run in own}
        if other := used - {name}:
            raise InputError(
                f"{self.path}: the runs of {cell} are of the text {', '.join(other)}, this would "
                f"be {name}; losses do not compare; choose other --results"
            )

    def runs(self) -> list[Run]:
        """All runs so far; a line that is not of this study is an error."""
        self.environments()
        found, keys = [], set()
        for number, record in enumerate(read_lines(self.path), start=1):
            if "environment_number" in record:
                continue
            run = Run.from_json(record) if _is_run(record) else None
            if run is None or run.trial.key in keys:
                fault = "not a run of this study" if run is None else "a run that was there before"
                raise InputError(f"{self.path}, line {number}: {fault}; choose other --results")
            found.append(run)
            keys.add(run.trial.key)
        return found

    def environments(self) -> list[dict[str, Any]]:
        """Text, versions and machine of each environment, by number."""
        found = [record for record in read_lines(self.path) if "environment_number" in record]
        for number, record in enumerate(found):
            if record["environment_number"] != number or not isinstance(record.get("corpus"), str):
                raise InputError(
                    f"{self.path}: its environments are not numbered from 0, with a text each, as "
                    f"in a file that one study wrote; choose other --results"
                )
        return found

    def environment(self, description: Mapping[str, Any]) -> int:
        """The number of an environment, which is added if it is new."""
        with self._appending() as file:
            known = self.environments()
            for record in known:
                if record == {"environment_number": record["environment_number"], **description}:
                    return int(record["environment_number"])
            _write(file, {"environment_number": len(known), **description})
            return len(known)

    def append(self, run: Run) -> None:
        """Write a run."""
        with self._appending() as file:
            _write(file, run.as_json())

    def carry_out(
        self,
        due: Callable[[Sequence[Run]], Sequence[Trial]],
        make: Callable[[Trial], Run | None],
        deadline: float = math.inf,
    ) -> None:
        """Make the first trial that is due, given the runs so far, until none is.

        A trial that another process makes is left to it: its claim is a lock of one byte in a file
        beside, and ends with its process, however that ends. The work ends early where `make` gives
        no run, and after the deadline of `time.monotonic()` there is no waiting for others.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(self.path.name + ".claims").open("ab") as claims:

            def claim(trial: Trial) -> bool:
                byte = zlib.crc32(repr(trial.key).encode())
                try:
                    fcntl.lockf(claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
                except BlockingIOError:
                    return False
                # not made between the question what is due and the claim
                return all(run.trial.key != trial.key for run in self.runs())

            while trials := due(self.runs()):
                trial = next(filter(claim, trials), None)
                if trial is None:  # what is due next depends on runs of other processes
                    if time.monotonic() > deadline:
                        return
                    time.sleep(WAIT)
                elif run := make(trial):
                    self.append(run)
                else:
                    return

    @contextlib.contextmanager
    def _appending(self) -> Iterator[BinaryIO]:
        """The file, which no other process appends to; a line cut short by a crash is removed."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(self.path.read_bytes().rfind(b"\n") + 1)
            yield file
            file.flush()
            os.fsync(file.fileno())


_TYPES = {**get_type_hints(Trial), **get_type_hints(Run), "rates": list}
del _TYPES["trial"]


def _is_run(record: Mapping[str, Any]) -> bool:
    """Whether a line is what `Run.as_json` writes."""
    return (
        record.keys() == _TYPES.keys()
        and all(fits(hint, record[name]) for name, hint in _TYPES.items())
        and all(record[name] >= 0 for name in ("box", "seed", "seconds", "environment"))
        and record["steps"] > 0
        and (record["loss"] is None) == (record["diverged_at"] is not None)
        and len(record["rates"]) in (1, 2)
        and all(fits(float, rate) and rate > 0 for rate in record["rates"])
    )


def _write(file: BinaryIO, record: Mapping[str, Any]) -> None:
    file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
