"""The embedded text: the Python standard library's own source.

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

import numpy as np
from rich.console import Console

from examples.llama.config import InputError
from examples.llama.run.files import files_below, write_atomically
from examples.llama.text.tokenizer import BYTES, Tokenizer
from examples.llama.text.tokens import TokenCorpus

VALIDATION_FRACTION = 0.05
"""Share of the files that are validation text."""

_LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
)
_SEPARATOR = b"\0"


def is_validation(relative_path: Path) -> bool:
    """Whether a file belongs to the validation text: a hash of its path decides."""
    digest = hashlib.sha256(relative_path.as_posix().encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8]) < VALIDATION_FRACTION * 2**64


def source_files(root: Path) -> list[Path]:
    """The *.py files below `root`, sorted and relative to it, without tests and site-packages."""
    files = files_below(root, _LEFT_OUT)
    return sorted(path.relative_to(root) for path in files if path.suffix == ".py")


@dataclass(frozen=True)
class PythonSource:
    """Files of Python source without a tokenizer."""

    root: Path
    title: str
    """python and its version for the standard library, files for any other folder."""
    train: tuple[Path, ...]
    validation: tuple[Path, ...]

    @functools.cached_property
    def name(self) -> str:
        """What they are, and a digest of the files: their paths and their content."""
        digest = hashlib.sha256(f"{VALIDATION_FRACTION} {_SEPARATOR!r}\n".encode())
        for path in sorted(self.train + self.validation):
            content = hashlib.sha256((self.root / path).read_bytes()).hexdigest()
            digest.update(f"{path.as_posix()} {content}\n".encode(errors="surrogateescape"))
        return f"{self.title}-{digest.hexdigest()[:16]}"

    def training_texts(self) -> Iterator[str]:
        """The training files."""
        return self._texts(self.train)

    def tokenized(self, tokenizer: Tokenizer, cache: Path, console: Console) -> TokenCorpus:
        """The files as tokens, joined by the token that ends a text, if there is one.

        Bytes are those of the files, whatever their encoding; other tokens are kept in the cache.
        """
        name = self.name
        if tokenizer is BYTES:
            train, validation = (
                np.frombuffer(_SEPARATOR.join(self._contents(files)), np.uint8)
                for files in (self.train, self.validation)
            )
        else:
            name = f"{name}-{tokenizer.name}"
            train, validation = self._cached(tokenizer, cache / f"{name}.npz", console)
        if not len(validation):
            raise InputError(
                f"the {len(self.validation)} validation files below {self.root} are empty, or the "
                f"tokenizer makes no token of them; choose another folder with --corpus-root"
            )
        # a token that ends a file counts as a byte
        ends = 0 if tokenizer.end is None else len(self.validation) - 1
        num_bytes = sum(map(len, self._contents(self.validation))) + ends
        return TokenCorpus(
            name,
            {"the training text": train},
            {"the validation text": validation},
            tokenizer.vocabulary,
            tokenizer,
            num_bytes / len(validation),
        )

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
        train, validation = (
            self._tokens(files, tokenizer) for files in (self.train, self.validation)
        )
        write_atomically(path, lambda file: np.savez(file, train=train, validation=validation))
        return train, validation

    def _contents(self, files: Sequence[Path]) -> Iterator[bytes]:
        return ((self.root / path).read_bytes() for path in files)

    def _texts(self, files: Sequence[Path]) -> Iterator[str]:
        return (content.decode(errors="replace") for content in self._contents(files))

    def _tokens(self, files: Sequence[Path], tokenizer: Tokenizer) -> np.ndarray:
        separator = np.array([] if tokenizer.end is None else [tokenizer.end], np.int32)
        pieces: list[np.ndarray] = []
        for tokens in tokenizer.encode_all(list(self._texts(files))):
            pieces += [tokens, separator]
        return np.concatenate(pieces[:-1]).astype(np.min_scalar_type(tokenizer.vocabulary - 1))


def python_source(root: Path | None) -> PythonSource:
    """The *.py files below `root`, by default the standard library of this Python."""
    title = "files" if root else f"python-{platform.python_version()}"
    root = root or Path(sysconfig.get_paths()["stdlib"])
    files = source_files(root)
    train = tuple(path for path in files if not is_validation(path))
    validation = tuple(path for path in files if is_validation(path))
    if not (train and validation):
        raise InputError(
            f"{root} has {len(train)} training and {len(validation)} validation files "
            f"(*.py, outside tests), but needs both; choose another folder with --corpus-root"
        )
    return PythonSource(root, title, train, validation)
