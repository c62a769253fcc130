"""Files of results: JSON, with the versions and the machine that gave them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.llama.run.environment import machine, versions
from examples.llama.run.records import read_json, write_json

RECORDED = Path(__file__).parent / "results"
"""The folder of the results that the repository shows."""


def write_results(path: Path, figures: Mapping[str, Any]) -> None:
    """Write figures with versions and machine, as a whole file or not at all."""
    write_json(path, {**figures, "versions": versions(), "machine": machine()})


def recorded(name: str) -> dict[str, Any]:
    """A file of `RECORDED`."""
    return read_json(RECORDED / name)
