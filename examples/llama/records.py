"""How results reach the disk: whole files or not at all."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from examples.llama.config import InputError

_UNFINISHED = ".unfinished"


def is_unfinished(path: Path) -> bool:
    """Whether this is what a process left that was killed while it wrote a file."""
    return path.name.endswith(_UNFINISHED)


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in the place of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=_UNFINISHED, dir=path.parent
    )
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # or a power cut after the renaming could leave an empty file
        # mkstemp makes files private; results are as readable as any other new file
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON; an infinite or undefined number is an error, not invalid JSON."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it holds something else.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise _not_json(str(path), error) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; a last line cut short by a crash is left out.

    Raises:
        InputError: another line is not JSON.
    """
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise _not_json(f"{path}, line {number}", error) from error
    return records


def _not_json(what: str, error: ValueError) -> InputError:
    return InputError(
        f"{what} is not JSON ({error}); put back a whole copy of it, or move it aside and try again"
    )
