"""How results reach the disk: whole files or not at all."""

import contextlib
import json
import math
import os
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from examples.llama.run.options import InputError, fits

_UNFINISHED = ".unfinished"


def is_unfinished(path: Path) -> bool:
    """Whether this is what a process left that was killed while it wrote a file."""
    return path.name.startswith(".") and path.name.endswith(_UNFINISHED)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let every error of the operating system name `path`: a full disk does not by itself."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def files_below(root: Path, without: Collection[str] = ()) -> Iterator[Path]:
    """The files below a folder, but not in folders of certain names; none if it does not exist.

    Raises:
        OSError: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(root, onerror=fail if root.is_dir() else None):
        folders[:] = [name for name in folders if name not in without]
        yield from (path for name in names if (path := Path(folder, name)).is_file())


def fault(error: OSError) -> str:
    """What is wrong with which file, in a line."""
    if error.filename is None:
        return str(error)
    return f"{os.fsdecode(error.filename)}: {error.strerror}"


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in the place of `path`.

    A link stays one, and devices and pipes are written to.

    Raises:
        InputError: `path` has no name.
        OSError: it cannot be written; the error names `path`, which is as it was.
    """
    if not path.name:
        raise InputError(f"{path} is not the name of a file")
    if path.exists() and not (path.is_file() or path.is_dir()):
        with naming(path), path.open("wb") as file:
            write(file)
        return
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_UNFINISHED}")
    with naming(path):
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())  # or a power cut after the renaming could leave it empty
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON; an infinite or undefined number is an error, not invalid JSON."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object."""
    return _object(str(path), path.read_bytes())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file with a JSON object per line; a last line cut short by a crash is left out."""
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    return [_object(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1)]


def damaged(fault: str) -> InputError:
    """The error about a file that is not as it was written; `fault` begins with its name."""
    return InputError(f"{fault}; put back a whole copy of it, or move it aside and try again")


def _object(what: str, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(
            content, parse_float=_finite, parse_int=_whole, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise damaged(f"{what} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise damaged(f"{what} holds {json.dumps(value)[:80]}, not an object")
    return value


def check_types(what: str, values: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    """Check that all of these are there, each of the type that an annotation would say."""
    for name, hint in types.items():
        if name not in values or not fits(hint, values[name]):
            found = f"the value {values[name]!r}" if name in values else "no value"
            raise damaged(f"{what} has {found} for {name}")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"it has a number of {len(text)} characters, which no float can hold")
    return number


def _whole(text: str) -> int:
    _finite(text)
    return int(text)


def _no_constant(name: str) -> None:
    raise ValueError(f"it has no {name}")
