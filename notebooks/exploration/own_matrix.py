"""A matrix of the reader's own: pasted numbers, a file, or a leaf of a checkpoint."""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import jax
import numpy as np

from exploration.controls import choice, line, lines, upload

PASTED, UPLOADED, ON_DISK = "pasted numbers", "uploaded file", "file or checkpoint on disk"
ROWS_FIRST, KERNEL = "(out, in): rows first", "(in, out): a flax kernel"
MOST = 256
"""Rows and columns that are shown of a larger matrix, so that a control answers at once."""
_EXAMPLE = """\
9.1  0.4 -7.8  0.3
0.2 -0.1  0.1  0.0
-3.3  0.2  4.1  0.1
"""
_ENDINGS = ".npy,.npz,.csv,.txt"


def own_controls() -> dict[str, ipywidgets.DOMWidget]:
    """Where the matrix comes from, and how it is stored."""
    return {
        "source": choice("matrix from", PASTED, (PASTED, UPLOADED, ON_DISK)),
        "stored": choice("stored", ROWS_FIRST, (ROWS_FIRST, KERNEL)),
        "file": upload(f"Upload {_ENDINGS}", _ENDINGS),
        "place": line("path on disk", "a file, or an orbax checkpoint"),
        "leaf": line("leaf", "layers/mlp/down/kernel"),
        "text": lines("numbers", _EXAMPLE),
    }


def own_matrix(
    source: str, stored: str, file: Sequence[Mapping[str, Any]], place: str, leaf: str, text: str
) -> tuple[np.ndarray, str]:
    """The matrix (m, n), rows as output features, and its name.

    Raises:
      ValueError: what was given is no matrix; the message says what to change.
    """
    if source == PASTED:
        return to_matrix(from_text(text), stored), "pasted"
    if source == UPLOADED:
        if not file:
            raise ValueError(f"no file yet: upload one that ends in {_ENDINGS}")
        found = from_bytes(file[0]["name"], bytes(file[0]["content"]))
    else:
        found = from_disk(place)
    name = _chosen(found, leaf)
    return to_matrix(found[name], stored), name


def from_text(text: str) -> np.ndarray:
    """Numbers with spaces, commas or semicolons between them, one row a line."""
    rows = [line.replace(",", " ").replace(";", " ").split() for line in text.splitlines()]
    rows = [row for row in rows if row]
    if len({len(row) for row in rows}) != 1:
        raise ValueError(f"every line must have as many numbers, got {[len(row) for row in rows]}")
    return np.array(rows, np.float64)


def from_bytes(name: str, content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file by their names; a file of one array has its own name."""
    if name.endswith(".npy"):
        return {name: np.load(io.BytesIO(content), allow_pickle=False)}
    if name.endswith(".npz"):
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return dict(file)
    if name.endswith((".csv", ".txt")):
        return {name: from_text(content.decode())}
    raise ValueError(f"{name} must end in {_ENDINGS}")


def from_disk(place: str) -> dict[str, np.ndarray]:
    """The arrays of a file, or the leaves of an orbax checkpoint by their paths."""
    path = Path(place).expanduser().absolute()
    if not place or not path.exists():
        raise ValueError(f"there is no file or folder {place!r}")
    if path.is_file():
        return from_bytes(path.name, path.read_bytes())
    import orbax.checkpoint

    with warnings.catch_warnings():  # orbax has advice about shardings
        warnings.simplefilter("ignore")
        try:
            tree = orbax.checkpoint.PyTreeCheckpointer().restore(path)
        except Exception as error:
            raise ValueError(
                f"{place} is not a folder that orbax saved a tree in, such as"
                f" runs/sinkgd/checkpoints/300/state ({type(error).__name__})"
            ) from error
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(array)
        for path, array in leaves
        if np.ndim(array) >= 2
    }


def _chosen(found: Mapping[str, np.ndarray], leaf: str) -> str:
    if leaf in found:
        return leaf
    if len(found) == 1 and not leaf:
        return next(iter(found))
    names = "\n".join(f"  {name} {array.shape}" for name, array in found.items())
    raise ValueError(f"write one of these as leaf, got {leaf!r}:\n{names}")


def to_matrix(array: np.ndarray, stored: str) -> np.ndarray:
    """The first matrix of a stack, with rows as output features, and at most `MOST` of each."""
    if array.ndim < 2:
        raise ValueError(f"a matrix has two axes or more, got the shape {array.shape}")
    matrix = np.asarray(array.reshape(-1, *array.shape[-2:])[0], np.float64)
    matrix = (matrix if stored == ROWS_FIRST else matrix.T)[:MOST, :MOST]
    if not np.all(np.isfinite(matrix)):
        raise ValueError("the matrix has entries that are not finite")
    if not np.any(matrix):
        raise ValueError("all entries are zero")
    return matrix
