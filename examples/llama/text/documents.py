"""Documents in C4's file format, one per row of a batch.

This is the protocol of GaLore's benchmark (arXiv 2403.03507): a document is tokenized, ended, cut
or padded to the sequence length, and a batch is that many documents. The files are read one after
another, and each document is drawn from a window of documents, in an order that follows from the
data seed. A position is a few numbers: everything random is drawn from the seed and the position.
"""

import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np

from examples.llama.config import DataConfig, InputError
from examples.llama.text.tokenizer import Tokenizer

PADDING = -1
"""Stands where a row has no token; the loss leaves it out."""

_AT_ONCE = 512
"""Validation documents that are tokenized together."""


def _bad_line(path: Path, number: int, fault: str) -> InputError:
    return InputError(
        f"{path}, line {number} {fault}; the files must have C4's format, a line like "
        f'{{"text": "...", "timestamp": "...", "url": "..."}} for each document'
    )


def _text_of(path: Path, number: int, line: bytes) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _bad_line(path, number, f"is not JSON ({error})") from error
    if not isinstance(record, dict) or "text" not in record:
        raise _bad_line(path, number, "has no key 'text'")
    text = record["text"]
    if not isinstance(text, str):
        raise _bad_line(path, number, f"has a 'text' of type {type(text).__name__}, not a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _bad_line(path, number, "has a text with half a surrogate pair") from error
    return text


def read_documents(path: Path, start: int = 0) -> Iterator[str]:
    """The texts of a file of C4 from line `start` + 1 on; earlier lines are skipped."""
    number = 0
    try:
        with gzip.open(path) as lines:
            for number, line in enumerate(lines, start=1):
                if number > start:
                    yield _text_of(path, number, line)
    except EOFError as error:
        raise InputError(
            f"{path} ends in the middle of line {number + 1}: it was cut short; download it again"
        ) from error
    except (OSError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read after line {number} ({error}); download it again"
        ) from error
    if number < max(1, start):
        found = f"has {number} lines, but {start} were read before" if number else "is empty"
        raise InputError(f"{path} {found}; download it again")


class Position(NamedTuple):
    """A position among the training documents: in a window, which begins somewhere in an epoch."""

    epoch: int = 0
    """Epochs that are over."""
    window: int = 0
    """Windows of the epoch that are over."""
    file: int = 0
    """Where the window begins: the file's place in the epoch's order."""
    document: int = 0
    """Where the window begins: the document's number in the file."""
    taken: int = 0
    """Documents already taken from the window."""


@dataclass(frozen=True)
class Documents:
    """Training and validation documents without a tokenizer."""

    name: str
    """Says where they come from: two of one name are equal."""
    train: tuple[str, ...]
    """Names of the files."""
    validation: tuple[str, ...]
    locate: Callable[[str], Path]
    """Finds a file by its name, and downloads it first where necessary."""

    def training_texts(self) -> Iterator[str]:
        """All training documents, in the order of the files."""
        return self._texts(self.train)

    def validation_texts(self) -> Iterator[str]:
        """All validation documents, in the order of the files."""
        return self._texts(self.validation)

    def _texts(self, files: Sequence[str]) -> Iterator[str]:
        return itertools.chain.from_iterable(read_documents(self.locate(file)) for file in files)

    def shuffled(
        self, seed: int, window: int, position: Position
    ) -> Iterator[tuple[str, Position]]:
        """Endless training documents from a position on, each with the position after it.

        In each epoch the files come in a new order, and each run of `window` documents in an order
        drawn for it: every document once per epoch. A window that was begun is read again.
        """

        def random(*purpose: int) -> np.random.Generator:
            return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))

        def documents(epoch: int, file: int, document: int) -> Iterator[tuple[str, int, int]]:
            """The epoch's documents from a place on, each with the place after it."""
            order = random(epoch).permutation(len(self.train))
            for place in range(file, len(order)):
                start = document if place == file else 0
                path = self.locate(self.train[order[place]])
                for number, text in enumerate(read_documents(path, start), start=start + 1):
                    yield text, place, number

        epoch, number, file, document, taken = position
        while True:
            texts = documents(epoch, file, document)
            while held := list(itertools.islice(texts, window)):
                order = random(epoch, number).permutation(len(held))
                for index in range(taken, len(held)):
                    after = Position(epoch, number, file, document, index + 1)
                    yield held[order[index]][0], after
                _, file, document = held[-1]
                number, taken = number + 1, 0
            epoch, number, file, document = epoch + 1, 0, 0, 0


def document_tokens(tokens: np.ndarray, end: int | None, sequence_length: int) -> np.ndarray:
    """Put `end`, if there is one, after a document's tokens; cut to `sequence_length` in all.

    A document that is too long loses tokens before its end, not the end: this is what T5's
    tokenizer makes of it in the transformers library (`truncation=True`, `max_length`), with which
    the published C4 benchmarks prepare their rows.
    """
    if end is None:
        return tokens[:sequence_length]
    return np.append(tokens[: sequence_length - 1], end).astype(tokens.dtype)


def pad_rows(rows: Sequence[np.ndarray], sequence_length: int) -> np.ndarray:
    """Stack rows of up to `sequence_length` tokens as int32, with `PADDING` after each."""
    padded = np.full((len(rows), sequence_length), PADDING, np.int32)
    for row, tokens in zip(padded, rows, strict=True):
        row[: len(tokens)] = tokens
    return padded


@dataclass(frozen=True, eq=False)
class DocumentCorpus:
    """Documents with a tokenizer: a `Corpus`. They are tokenized when they are read."""

    documents: Documents
    tokenizer: Tokenizer

    @property
    def name(self) -> str:
        """Names of documents and tokenizer."""
        return f"{self.documents.name}-{self.tokenizer.name}"

    def training_batches(self, config: DataConfig) -> grain.IterDataset:
        """Endless batches (B, S) of S tokens each, S - 1 of which are predicted, read ahead."""
        _check_length(config)
        return grain.experimental.ThreadPrefetchIterDataset(
            _Batches(self.documents, self.tokenizer, config), prefetch_buffer_size=2
        )

    def validation_data(self, config: DataConfig) -> tuple[np.ndarray, float]:
        """The first rows (R, S) of the validation text, and bytes of UTF-8 per token.

        Documents count in full even if their rows are cut. The end of a document counts as a byte
        where it is a token.
        """
        _check_length(config)
        wanted, ending = config.validation_rows, 0 if self.tokenizer.end is None else 1
        rows: list[np.ndarray] = []
        num_bytes = num_tokens = 0
        texts = self.documents.validation_texts()
        missing = wanted or _AT_ONCE
        while missing > 0 and (some := list(itertools.islice(texts, min(missing, _AT_ONCE)))):
            for text, tokens in zip(some, self.tokenizer.encode_all(some), strict=True):
                row = document_tokens(tokens, self.tokenizer.end, config.sequence_length)
                if len(row) >= 2:
                    rows.append(row)
                    num_bytes += len(text.encode()) + ending
                    num_tokens += len(tokens) + ending
            missing = wanted - len(rows) if wanted else _AT_ONCE
        if len(rows) < max(1, wanted):
            raise InputError(
                f"the validation text has {len(rows)} documents of two tokens or more, fewer "
                f"than --validation-rows {wanted}; 0 takes all"
            )
        return pad_rows(rows, config.sequence_length), num_bytes / num_tokens


def _check_length(config: DataConfig) -> None:
    if config.sequence_length < 2:
        raise InputError(
            f"--sequence-length {config.sequence_length} leaves nothing to predict in a document "
            f"of its own row; choose 2 or more"
        )


class _Batches(grain.IterDataset):
    """What grain asks for: makes iterators."""

    def __init__(self, documents: Documents, tokenizer: Tokenizer, config: DataConfig):
        super().__init__()
        self.documents, self.tokenizer, self.config = documents, tokenizer, config

    def __iter__(self) -> "_BatchIterator":
        return _BatchIterator(self)


class _BatchIterator(grain.DatasetIterator):
    """Batches from a position on, which is its state."""

    def __init__(self, batches: _Batches):
        super().__init__()
        self._batches = batches
        self._position: Position
        self._documents: Iterator[tuple[str, Position]]
        self.set_state({"position": Position()})

    def __next__(self) -> np.ndarray:
        config, tokenizer = self._batches.config, self._batches.tokenizer
        rows: list[np.ndarray] = []
        epoch = self._position.epoch
        while len(rows) < config.batch_size:
            found = list(itertools.islice(self._documents, config.batch_size - len(rows)))
            for tokens in tokenizer.encode_all([text for text, _ in found]):
                row = document_tokens(tokens, tokenizer.end, config.sequence_length)
                if len(row) >= 2:  # or nothing could be predicted
                    rows.append(row)
            self._position = found[-1][1]
            if not rows and self._position.epoch > epoch + 1:
                raise InputError(
                    f"no document has two tokens or more in "
                    f"{', '.join(self._batches.documents.train)}; choose another --text"
                )
        return pad_rows(rows, config.sequence_length)

    def get_state(self) -> dict[str, Any]:
        """The position after the last batch."""
        return {"position": list(self._position)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there with the next batch."""
        self._position = Position(*state["position"])
        config = self._batches.config
        self._documents = self._batches.documents.shuffled(
            config.data_seed, config.shuffle_window, self._position
        )
