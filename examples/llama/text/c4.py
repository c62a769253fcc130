"""C4 English, one document per row, from a folder with C4's own files or from the hub.

This is the protocol of GaLore's benchmark (arXiv 2403.03507): a document is tokenized, ended, cut
or padded to the sequence length, and a batch is that many documents.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grain
import numpy as np
from rich.console import Console

from examples.llama.config import DataConfig, InputError
from examples.llama.text.data import pad_rows
from examples.llama.text.documents import HubDataset, Part, c4_files
from examples.llama.text.loader import DocumentBatches, RowMaker
from examples.llama.text.streams import deal
from examples.llama.text.tokenizer import Tokenizer, byte_pair_tokenizer

DOCUMENTS_FOR_BYTE_PAIRS = 50_000
"""Byte pairs are learned from that many documents, the first of the training files."""


def _texts(parts: Sequence[Part]) -> Iterator[str]:
    return itertools.chain.from_iterable(part.documents(0) for part in parts)


@dataclass(frozen=True, eq=False)
class DocumentCorpus:
    """Documents with a tokenizer: a `Corpus`."""

    documents: "Documents"
    tokenizer: Tokenizer
    _validation: dict[tuple[int, int], tuple[np.ndarray, float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Names of documents and tokenizer."""
        return f"{self.documents.name}-{self.tokenizer.name}"

    def training_batches(self, config: DataConfig) -> grain.IterDataset:
        """Endless batches (B, S) of S tokens each, S - 1 of which are predicted.

        The files are dealt to `config.streams` streams. Row k comes from stream k modulo their
        number. A stream reads its files in an order drawn for each epoch, and its documents in an
        order drawn within a window. The order is a function of seed, streams and window.
        """
        streams = deal(
            self.documents.train, config.streams, config.shuffle_window, config.data_seed
        )
        return DocumentBatches(self._maker(config), streams, config.batch_size, config.workers)

    def validation_rows(self, config: DataConfig) -> np.ndarray:
        """The first `config.validation_rows` rows (R, S) of the validation text; 0 takes all."""
        return self._read_validation(config)[0]

    def validation_bytes_per_token(self, config: DataConfig) -> float:
        """Bytes of UTF-8 in the validation documents read, divided by their tokens.

        The end of a document counts as a byte where it is a token. Documents count in full even if
        their rows are cut.
        """
        return self._read_validation(config)[1]

    def _maker(self, config: DataConfig) -> RowMaker:
        if config.sequence_length < 2:
            raise InputError(
                f"--sequence-length {config.sequence_length} leaves nothing to predict in a "
                f"document of its own row; choose 2 or more"
            )
        return RowMaker(self.tokenizer, config.sequence_length)

    def _read_validation(self, config: DataConfig) -> tuple[np.ndarray, float]:
        wanted, length = config.validation_rows, config.sequence_length
        if (wanted, length) not in self._validation:
            maker, rows = self._maker(config), []
            num_bytes = num_tokens = 0
            ending = 0 if self.tokenizer.end is None else 1
            for text in _texts(self.documents.validation):
                tokens = self.tokenizer.encode(text)
                row = maker.row(tokens)
                if len(row) < 2:
                    continue
                rows.append(row)
                num_bytes += len(text.encode()) + ending
                num_tokens += len(tokens) + ending
                if len(rows) == wanted:
                    break
            if len(rows) < max(1, wanted):
                raise InputError(
                    f"the validation text has {len(rows)} documents of two tokens or more, fewer "
                    f"than --validation-rows {wanted}; 0 takes all"
                )
            self._validation[wanted, length] = pad_rows(rows, length), num_bytes / num_tokens
        return self._validation[wanted, length]


@dataclass(frozen=True)
class Documents:
    """Training and validation documents without a tokenizer."""

    name: str
    """Says where they come from: two of one name are equal."""
    train: tuple[Part, ...]
    validation: tuple[Part, ...]

    def byte_pairs(self, vocabulary: int, cache: Path, console: Console) -> Tokenizer:
        """The byte pairs of the first `DOCUMENTS_FOR_BYTE_PAIRS` training documents."""
        return byte_pair_tokenizer(
            lambda: itertools.islice(_texts(self.train), DOCUMENTS_FOR_BYTE_PAIRS),
            f"{self.name} {DOCUMENTS_FOR_BYTE_PAIRS}",
            vocabulary,
            cache,
            console,
        )

    def tokenized(self, tokenizer: Tokenizer, cache: Path, console: Console) -> DocumentCorpus:
        """The documents with a tokenizer; they are tokenized when they are read."""
        return DocumentCorpus(self, tokenizer)


def folder_documents(folder: Path) -> Documents:
    """The documents of a folder with files c4-train.*.json.gz and c4-validation.*.json.gz.

    The text is known by the content of its files, see `C4File.identity`.
    """
    train, validation = c4_files(folder, "train"), c4_files(folder, "validation")
    files = "".join(f"{file.path.name} {file.identity()}\n" for file in train + validation)
    digest = hashlib.sha256(files.encode(errors="surrogateescape")).hexdigest()[:16]
    return Documents(f"c4-{digest}", train, validation)


def hub_documents(dataset: HubDataset) -> Documents:
    """The documents of a data set on the hub, of which only what is used is downloaded."""
    train, validation = dataset.parts("train"), dataset.parts("validation")
    return Documents(f"{dataset}-{len(train)}-{len(validation)}", train, validation)
