"""Files of results: JSON, with the versions and the machine that gave them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.llama.run.environment import machine, versions
from examples.llama.run.records import read_json, write_json

RECORDED = Path(__file__).parent / "results"
"""The folder of the results that the repository shows."""


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
