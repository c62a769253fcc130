"""A run's folder: its configuration, its metrics, its result.

config.json     what determines the run; a run of another configuration is refused
source.json     where its text came from
metrics.jsonl   a line per step and per validation
checkpoints/    the newest ones
summary.json    the result; there once the run is finished
loss.png        the curves
profile/        a JAX trace, tensorboard/ and wandb/ the trackers' files, where asked for
damaged/        checkpoints that could not be read
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from examples.llama.config import InputError
from examples.llama.records import (
    is_unfinished,
    read_json,
    read_lines,
    write_atomically,
    write_json,
)


class ConfigMismatchError(InputError):
    """The folder holds a run of another configuration."""


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path):
        """Name the folder; nothing is read or written."""
        self.path = path
        self.config = path / "config.json"
        self.source = path / "source.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.summary = path / "summary.json"
        self.picture = path / "loss.png"
        self.profile = path / "profile"

    def move_aside(self) -> Path | None:
        """Rename the folder to the first free name with a number, if it exists; nothing is lost."""
        if not self.path.exists():
            return None
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        return self.path.rename(aside)

    def claim(self, config: dict[str, Any]) -> None:
        """Write the configuration into a new folder, or check that it is the folder's.

        Raises:
            ConfigMismatchError: the folder was made with another configuration, or not by a run.
        """
        if self.config.exists():
            difference = _difference(read_json(self.config), config)
            if difference:
                raise ConfigMismatchError(
                    f"{self.path} holds a run with another configuration:\n"
                    + "\n".join(f"  {line}" for line in difference)
                    + "\nTo keep it, choose another folder with --run-dir; to start over there, "
                    "add --fresh, which moves the folder aside."
                )
        elif self.path.exists() and any(not is_unfinished(p) for p in self.path.iterdir()):
            raise ConfigMismatchError(
                f"{self.path} is not empty, and has no config.json of a run. Choose another folder "
                f"with --run-dir, or add --fresh, which moves this one aside."
            )
        else:
            write_json(self.config, config)

    def cut_back(self, step: int) -> list[dict[str, Any]]:
        """Drop the metrics after `step`, which will be measured anew; return the others."""
        kept = [line for line in read_lines(self.metrics) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(self.metrics, lambda file: file.write(text.encode()))
        return kept

    def result(self) -> dict[str, Any] | None:
        """The summary of a finished run, else None."""
        return read_json(self.summary) if self.summary.exists() else None

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, which marks the run as finished."""
        write_json(self.summary, summary)


class MetricsLog:
    """Appends a JSON line per event; use it as a context manager."""

    def __init__(self, path: Path):
        """Name the file."""
        self._path = path
        self._file: TextIO | None = None

    def __enter__(self) -> "MetricsLog":
        """Open for appending, line by line."""
        self._file = self._path.open("a", buffering=1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        assert self._file is not None
        self._file.close()

    def write(self, line: dict[str, Any]) -> None:
        """Append one line."""
        assert self._file is not None
        self._file.write(json.dumps(line, allow_nan=False) + "\n")


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict):
        return {prefix: config}
    return {
        path: value
        for name, inner in config.items()
        for path, value in _flat(inner, f"{prefix}.{name}" if prefix else name).items()
    }


def _difference(stored: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    old, new = _flat(stored), _flat(wanted)
    return [
        f"{name}: {old.get(name, 'absent')} in the folder, {new.get(name, 'absent')} asked for"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)  # an option that is new may be left out
    ]
