"""Damaging checkpoints, and folders that may not be read."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def reads_damaged(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a test in which orbax fails to read.

    It leaves coroutines behind that complain when they are collected: within this test, so that no
    later one is blamed.
    """
    ignored = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    return pytest.mark.usefixtures("orbax_collected")(ignored(test))


def largest_file(folder: Path) -> Path:
    """The file that holds most of the arrays."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def flip_a_bit(folder: Path) -> None:
    """Change one bit of the arrays."""
    path = largest_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def refuse_to_list(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let folders of this name be those of another user, also where the tests run as root."""
    scanned = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return scanned(path)

    monkeypatch.setattr(os, "scandir", scandir)
