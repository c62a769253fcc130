"""The embedded corpus: the Python standard library's own source.

It is on every machine that can run this example: about 12 MiB of real text, no download. Training
and validation text are split by file, so that no validation text has a beginning in the training
text.
"""

import functools
import hashlib
import platform
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grain
import numpy as np
from rich.console import Console

from examples.llama.config import DataConfig, InputError
from examples.llama.run.records import write_atomically
from examples.llama.text.data import training_batches, validation_rows
from examples.llama.text.tokenizer import (
    ByteTokenizer,
    Tokenizer,
    byte_pair_tokenizer,
    smallest_dtype,
)

VALIDATION_FRACTION = 0.05
"""Share of the files that are validation text."""

_LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
)
_SEPARATOR = b"\0"


def is_validation(relative_path: Path) -> bool:
    """Whether a file belongs to the validation text: a hash of its path decides."""
    digest = hashlib.sha256(relative_path.as_posix().encode()).digest()
    return int.from_bytes(digest[:8]) < VALIDATION_FRACTION * 2**64


def source_files(root: Path) -> list[Path]:
    """The *.py files below `root`, sorted and relative to it, without tests and site-packages."""
    found = (path.relative_to(root) for path in root.rglob("*.py") if path.is_file())
    return sorted(path for path in found if _LEFT_OUT.isdisjoint(path.parts[:-1]))


@dataclass(frozen=True, eq=False)
class ContiguousCorpus:
    """Two long rows of tokens, for training and for validation: a `Corpus`."""

    name: str
    """Python version, digest of the files, and tokenizer unless it is bytes."""
    tokenizer: Tokenizer
    train: np.ndarray
    """Tokens of the training files, joined by the token that ends a text, if there is one."""
    validation: np.ndarray
    """Tokens of the validation files, likewise."""
    bytes_per_token: float
    """Bytes of the validation text, divided by its tokens."""

    def training_batches(self, config: DataConfig) -> grain.IterDataset:
        """Endless shuffled batches (B, T + 1), each of which predicts T tokens."""
        return training_batches(self.train, config)

    def validation_rows(self, config: DataConfig) -> np.ndarray:
        """Rows (R, T + 1), spread evenly over the validation text."""
        return validation_rows(self.validation, config)

    def validation_bytes_per_token(self, config: DataConfig) -> float:
        """The ratio in all of the validation text; a token that ends a file counts as a byte.

        1 where tokens are bytes.
        """
        return self.bytes_per_token


@dataclass(frozen=True)
class PythonSource:
    """Files of Python source without a tokenizer."""

    root: Path
    train: tuple[Path, ...]
    validation: tuple[Path, ...]

    @functools.cached_property
    def name(self) -> str:
        """Python version and digest of the files: their paths and their content."""
        digest = hashlib.sha256(f"{VALIDATION_FRACTION} {_SEPARATOR!r}\n".encode())
        for path in sorted(self.train + self.validation):
            content = hashlib.sha256((self.root / path).read_bytes()).hexdigest()
            digest.update(f"{path.as_posix()} {content}\n".encode(errors="surrogateescape"))
        return f"python-{platform.python_version()}-{digest.hexdigest()[:16]}"

    def byte_pairs(self, vocabulary: int, cache: Path, console: Console) -> Tokenizer:
        """The byte pairs of the training files."""
        return byte_pair_tokenizer(
            lambda: self._texts(self.train), self.name, vocabulary, cache, console
        )

    def tokenized(self, tokenizer: Tokenizer, cache: Path, console: Console) -> ContiguousCorpus:
        """The files as tokens: read, or from the cache where a tokenizer has to make them."""
        if isinstance(tokenizer, ByteTokenizer):
            name = self.name
            train, validation = self._bytes(self.train), self._bytes(self.validation)
        else:
            name = f"{self.name}-{tokenizer.name}"
            train, validation = self._cached(tokenizer, cache / f"{name}.npz", console)
        num_bytes = self._num_bytes(self.validation, separated=tokenizer.end is not None)
        return ContiguousCorpus(name, tokenizer, train, validation, num_bytes / len(validation))

    def _cached(
        self, tokenizer: Tokenizer, path: Path, console: Console
    ) -> tuple[np.ndarray, np.ndarray]:
        """The tokens that `path` holds; it is written first if it does not exist."""
        if path.exists():
            try:
                with path.open("rb") as file, np.load(file) as arrays:  # which checks their CRCs
                    return arrays["train"], arrays["validation"]
            except OSError as error:
                if error.errno is not None:  # it cannot be read at all
                    raise
            except Exception:  # a zip file can be damaged in many ways
                pass
            console.print(f"{path} is damaged: making it again", soft_wrap=True)
        count = len(self.train) + len(self.validation)
        console.print(
            f"Tokenizing {count} files below {self.root} (once; kept in {path})", soft_wrap=True
        )
        tokens = [self._tokens(files, tokenizer) for files in (self.train, self.validation)]
        write_atomically(path, lambda file: np.savez(file, train=tokens[0], validation=tokens[1]))
        return tokens[0], tokens[1]

    def _bytes(self, files: Sequence[Path]) -> np.ndarray:
        """The files exactly as they are, whatever their encoding."""
        joined = _SEPARATOR.join((self.root / path).read_bytes() for path in files)
        return np.frombuffer(joined, np.uint8)

    def _texts(self, files: Sequence[Path]) -> Iterator[str]:
        for path in files:
            yield (self.root / path).read_bytes().decode(errors="replace")

    def _tokens(self, files: Sequence[Path], tokenizer: Tokenizer) -> np.ndarray:
        separator = [] if tokenizer.end is None else [tokenizer.end]
        pieces: list[np.ndarray | list[int]] = []
        for text in self._texts(files):
            pieces += [tokenizer.encode(text), separator]
        return np.concatenate(pieces[:-1]).astype(smallest_dtype(tokenizer.vocabulary))

    def _num_bytes(self, files: Sequence[Path], *, separated: bool) -> int:
        sizes = [(self.root / path).stat().st_size for path in files]
        return sum(sizes) + (len(sizes) - 1 if separated else 0)


def python_source(root: Path | None) -> PythonSource:
    """The *.py files below `root`, by default the standard library of this Python."""
    root = root or Path(sysconfig.get_paths()["stdlib"])
    files = source_files(root)
    train = tuple(path for path in files if not is_validation(path))
    validation = tuple(path for path in files if is_validation(path))
    if not (train and validation):
        raise InputError(
            f"{root} has {len(train)} training and {len(validation)} validation files "
            f"(*.py, outside tests), but needs both; choose another folder with --corpus-root"
        )
    return PythonSource(root, train, validation)
