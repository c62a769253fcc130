"""The embedded corpus: the Python standard library's own source, as bytes.

It is on every machine that can run this example: about 12 MB of real text, no download. Training
and validation text are split by file, so that no validation text has a beginning in the training
text.
"""

import hashlib
import os
import platform
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from examples.llama.config import CorpusConfig, InputError
from examples.llama.records import write_atomically

VALIDATION_FRACTION = 0.05
"""Share of the files that are validation text."""

_LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
)
_SEPARATOR = b"\0"


@dataclass(frozen=True)
class Corpus:
    """Text as uint8 tokens, files joined by a zero byte."""

    name: str
    """Python version and digest of the list of files: two corpora of one name are equal."""
    train: np.ndarray
    """Tokens of the training files."""
    validation: np.ndarray
    """Tokens of the validation files."""


def is_validation(relative_path: Path) -> bool:
    """Whether a file belongs to the validation text: a hash of its path decides."""
    digest = hashlib.sha256(relative_path.as_posix().encode()).digest()
    return int.from_bytes(digest[:8]) < VALIDATION_FRACTION * 2**64


def source_files(root: Path) -> list[Path]:
    """The *.py files below `root`, sorted and relative to it, without tests and site-packages."""
    found = (path.relative_to(root) for path in root.rglob("*.py") if path.is_file())
    return sorted(path for path in found if _LEFT_OUT.isdisjoint(path.parts[:-1]))


def _join(root: Path, files: list[Path]) -> np.ndarray:
    return np.frombuffer(_SEPARATOR.join((root / path).read_bytes() for path in files), np.uint8)


def _cache_folder(config: CorpusConfig) -> Path:
    if config.cache is not None:
        return config.cache
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multinorm_optax"


def load_corpus(config: CorpusConfig, console: Console) -> Corpus:
    """Load the corpus from the cache; put it there first if need be."""
    root = config.corpus_root or Path(sysconfig.get_paths()["stdlib"])
    files = source_files(root)
    split = {
        held_out: [f for f in files if is_validation(f) is held_out] for held_out in (False, True)
    }
    if not (split[False] and split[True]):
        raise InputError(
            f"{root} has {len(split[False])} training and {len(split[True])} validation files "
            f"(*.py, outside tests), but needs both; choose another folder with --corpus-root"
        )
    listing = "".join(f"{path.as_posix()} {(root / path).stat().st_size}\n" for path in files)
    determined_by = f"{VALIDATION_FRACTION} {_SEPARATOR!r}\n{listing}"
    digest = hashlib.sha256(determined_by.encode()).hexdigest()[:16]
    name = f"python-{platform.python_version()}-{digest}"
    path = _cache_folder(config) / f"{name}.npz"
    if not path.exists():
        console.print(f"Reading {len(files)} files below {root} (once; kept in {path})")
        train, validation = _join(root, split[False]), _join(root, split[True])
        write_atomically(path, lambda file: np.savez(file, train=train, validation=validation))
    with np.load(path) as arrays:
        return Corpus(name, arrays["train"], arrays["validation"])
