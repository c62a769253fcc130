"""Token shards in the format of llm.c and modded-nanogpt: ids on disk, without their text.

A file has a header of 256 little-endian int32 (20240520, version 1, number of tokens, zeros), then
the tokens as uint16. Shards of a split are read as one text that is cut into rows; none is loaded.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grain
import numpy as np
from rich.console import Console

from examples.llama.config import DataConfig, InputError
from examples.llama.text.data import cut_rows, shuffled_batches, spread_rows
from examples.llama.text.tokenizer import ByteTokenizer, Tokenizer

MAGIC, VERSION = 20240520, 1
_HEADER = 256
_DIGESTED = 4096
"""Bytes at both ends of a file that go into the text's name."""


def shard_files(folder: Path, split: str) -> list[Path]:
    """The shards of a split, `train` or `val`, in the order of their names; perhaps none."""
    return sorted(folder.glob(f"*_{split}_*.bin"))


def open_shard(path: Path) -> np.ndarray:
    """The tokens of a shard as a memory-mapped array of uint16."""
    size = path.stat().st_size
    if size < 4 * _HEADER:
        raise InputError(
            f"{path} has {size} bytes, fewer than the header of a token shard; copy it again"
        )
    magic, version, count = map(int, np.fromfile(path, "<i4", 3))
    if (magic, version) != (MAGIC, VERSION):
        raise InputError(
            f"{path} begins with {magic}, {version}, a token shard with {MAGIC}, {VERSION}; it has "
            f"another format, or is still compressed"
        )
    if size != 4 * _HEADER + 2 * count:
        raise InputError(
            f"{path} has {size} bytes, but its header says {count} tokens, which are "
            f"{4 * _HEADER + 2 * count} bytes; copy it again"
        )
    return np.memmap(path, "<u2", mode="r", offset=4 * _HEADER, shape=(count,))


class ShardRows(Sequence[np.ndarray]):
    """Rows of T + 1 tokens of several shards, each cut for itself; a row is read when asked for."""

    def __init__(self, paths: Sequence[Path], sequence_length: int, vocabulary: int):
        """Open the shards."""
        self._paths, self._vocabulary = list(paths), vocabulary
        self._length = sequence_length
        self._rows = [cut_rows(open_shard(path), sequence_length) for path in paths]
        self._ends = np.cumsum([len(rows) for rows in self._rows])

    def __len__(self) -> int:
        """Rows of all shards."""
        return int(self._ends[-1])

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        """Row `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        rows = self._rows[shard]
        row = int(index - self._ends[shard]) + len(rows)
        tokens = np.array(rows[row])
        if tokens.max() >= self._vocabulary:
            at = int(np.argmax(tokens >= self._vocabulary))
            raise InputError(
                f"{self._paths[shard]}: token {row * self._length + at} has id {tokens[at]}, but "
                f"the vocabulary only {self._vocabulary}; choose --vocabulary {tokens[at] + 1} or "
                f"more, or the tokenizer that the shards were made with"
            )
        return tokens


@dataclass(frozen=True)
class ShardTokens:
    """Token shards without a tokenizer: enough to train and to validate."""

    folder: Path
    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    vocabulary: int

    @property
    def name(self) -> str:
        """Digest of names, lengths, and both ends of every file."""
        digest = hashlib.sha256()
        for path in self.train + self.validation:
            size = path.stat().st_size
            with path.open("rb") as file:
                first = file.read(_DIGESTED)
                file.seek(max(0, size - _DIGESTED))
                digest.update(f"{path.name} {size}\n".encode() + first + file.read())
        return f"shards-{digest.hexdigest()[:16]}"

    def training_batches(self, config: DataConfig) -> grain.IterDataset:
        """Endless shuffled batches (B, T + 1), each of which predicts T tokens."""
        return shuffled_batches(
            ShardRows(self.train, config.sequence_length, self.vocabulary), config
        )

    def validation_rows(self, config: DataConfig) -> np.ndarray:
        """Rows (R, T + 1), spread evenly over the validation shards."""
        rows = ShardRows(self.validation, config.sequence_length, self.vocabulary)
        return spread_rows(rows, config)


def shard_tokens(folder: Path, vocabulary: int) -> ShardTokens:
    """The shards of a folder, *_train_*.bin and *_val_*.bin."""
    train, validation = (shard_files(folder, split) for split in ("train", "val"))
    if not (train and validation):
        raise InputError(
            f"{folder} has {len(train)} files *_train_*.bin and {len(validation)} *_val_*.bin; "
            f"token shards of both kinds are needed, uncompressed"
        )
    for path in train + validation:
        open_shard(path)
    return ShardTokens(folder, tuple(train), tuple(validation), vocabulary)


@dataclass(frozen=True)
class ShardCorpus(ShardTokens):
    """Token shards with the tokenizer that made them."""

    tokenizer: Tokenizer

    def validation_bytes_per_token(self, config: DataConfig) -> float:
        """Bytes of the validation rows' text over their predicted tokens.

        A character that a row's end cuts counts as the character that stands for a broken one.
        """
        rows = self.validation_rows(config)[:, 1:]
        size = sum(len(self.tokenizer.decode(row.tolist()).encode()) for row in rows)
        return size / rows.size


@dataclass(frozen=True)
class ShardText:
    """A folder of token shards, to be used with the tokenizer that made them."""

    folder: Path

    def byte_pairs(self, vocabulary: int, cache: Path, console: Console) -> Tokenizer:
        """There is no text to learn them from."""
        raise self._needs_tokenizer()

    def tokenized(self, tokenizer: Tokenizer, cache: Path, console: Console) -> ShardCorpus:
        """Open the shards."""
        if isinstance(tokenizer, ByteTokenizer):
            raise self._needs_tokenizer()
        found = shard_tokens(self.folder, tokenizer.vocabulary)
        return ShardCorpus(found.folder, found.train, found.validation, found.vocabulary, tokenizer)

    def _needs_tokenizer(self) -> InputError:
        return InputError(
            f"{self.folder} has token shards, which are ids without a text; give the file of the "
            f"tokenizer that made them, --tokenizer FILE.json or FILE.model"
        )
