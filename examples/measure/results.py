"""Files of results: JSON, with the versions and the machine that gave them."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.llama.config import InputError
from examples.llama.run.environment import machine, versions
from examples.llama.run.files import read_json, write_json

RECORDED = Path(__file__).parent / "results"
"""The folder of the results that the repository shows."""


def check_results(path: Path, *beside: str) -> None:
    """Refuse a results file that cannot be written, before hours of measuring.

    `beside` are the suffixes of files that are written beside it, which must be others.

    Raises:
        InputError: it is a folder, or such a file beside it, or one of its files beside is.
        OSError: it cannot be written.
    """
    if not path.name:
        raise InputError(f"--results {path} is not the name of a file; choose one")
    if path.suffix in beside:
        raise InputError(
            f"--results {path} would be replaced by the file beside it; choose another"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    for each in (path, *map(path.with_suffix, beside)):
        if each.is_dir():
            raise InputError(f"--results {path}: {each} is a folder; choose another name")
        target = Path(os.path.realpath(each))
        replaced = target.is_file() or not target.exists()  # and not a device or a pipe
        if not os.access(target.parent if replaced else target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(each))


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
