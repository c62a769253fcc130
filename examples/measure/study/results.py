"""The file of all runs, a JSON line each, which several processes may share."""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from examples.llama.config import InputError
from examples.llama.run.records import read_lines
from examples.measure.study.points import Rates


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
    """Of training and validation, without compilation."""
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


class Claim(NamedTuple):
    """A trial that this process makes, and no other one meanwhile."""

    trial: Trial
    path: Path
    lock: int
    """Descriptor of the locked file."""


class ResultsFile:
    """Runs, and lines with the text, versions and machine of the runs.

    Writing and claiming happen under a lock, and a claim is itself the lock of a file: it ends with
    its process, however that ends.
    """

    def __init__(self, path: Path):
        """Remember the path; nothing is written."""
        self.path = path
        self._claims = path.with_name(path.name + ".claims")

    def runs(self) -> list[Run]:
        """All runs so far; a line that is not of this study is an error."""
        found = []
        for number, record in enumerate(read_lines(self.path), start=1):
            if "environment_number" in record:
                continue
            try:
                found.append(Run.from_json(record))
            except (KeyError, TypeError) as error:
                raise InputError(
                    f"{self.path}, line {number}: not a run of this study; choose other --results"
                ) from error
        return found

    def environments(self) -> list[dict[str, Any]]:
        """Text, versions and machine of each environment, by number."""
        return [record for record in read_lines(self.path) if "environment_number" in record]

    def environment(self, description: Mapping[str, Any]) -> int:
        """The number of an environment, which is added if it is new."""
        with self._locked():
            known = self.environments()
            for record in known:
                if record == {"environment_number": record["environment_number"], **description}:
                    return int(record["environment_number"])
            self._append({"environment_number": len(known), **description})
            return len(known)

    def claim(self, due: Callable[[Sequence[Run]], Sequence[Trial]]) -> Claim | bool:
        """Take the first trial due, given the runs so far, that no process has taken.

        True if all trials due are taken; False if none is due.
        """
        with self._locked():
            trials = due(self.runs())
            for trial in trials:
                path = self._claims / "-".join(map(str, trial.key))
                lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(lock)
                else:
                    return Claim(trial, path, lock)
            return bool(trials)

    def finish(self, claim: Claim, run: Run | None = None) -> None:
        """Write a claimed run, if there is one, and give the claim up."""
        with self._locked():
            if run is not None:
                self._append(run.as_json())
            claim.path.unlink(missing_ok=True)
            os.close(claim.lock)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._claims.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(self.path.name + ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _append(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            content = self.path.read_bytes()
            os.ftruncate(file, content.rfind(b"\n") + 1)  # a line cut short by a crash
            os.write(file, line)
            os.fsync(file)
        finally:
            os.close(file)
