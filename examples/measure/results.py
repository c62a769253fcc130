"""Files of results: JSON, with the versions and the machine that gave them."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.llama.config import InputError
from examples.llama.run.environment import machine, versions
from examples.llama.run.records import read_json, write_json

RECORDED = Path(__file__).parent / "results"
"""The folder of the results that the repository shows."""


def check_results(path: Path, *beside: str) -> None:
    """Refuse a results file that cannot be written, before hours of measuring.

    `beside` are the suffixes of files that are written beside it, which must be others.

    Raises:
        InputError: its name is not that of a file, or of such a file beside.
        OSError: its folder cannot be written to.
    """
    if path.is_dir() or path.suffix in beside:
        why = "is a folder" if path.is_dir() else "would be replaced by the file beside it"
        raise InputError(f"--results {path} {why}; choose the name of another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() and not os.access(path.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def write_results(
    path: Path, figures: Mapping[str, Any], console: Console, picture: bool = False
) -> None:
    """Write figures with versions and machine, as a whole file or not at all, and say where."""
    write_json(path, {**figures, "versions": versions(), "machine": machine()})
    beside = f", {path.with_suffix('.png')}" if picture else ""
    console.print(f"Written: {path}{beside}", soft_wrap=True)


def recorded(name: str) -> dict[str, Any]:
    """A file of `RECORDED`."""
    return read_json(RECORDED / name)
