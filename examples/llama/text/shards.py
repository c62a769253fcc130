"""Token shards in the format of llm.c and modded-nanogpt: ids on disk, without their text.

A file has a header of 256 little-endian int32 (20240520, version 1, number of tokens, zeros), then
the tokens as uint16. Shards of a split are read as one text that is cut into rows; none is loaded.
"""

import fnmatch
import hashlib
import os
from pathlib import Path

import numpy as np

from examples.llama.config import InputError
from examples.llama.text.tokens import TokenText

MAGIC, VERSION = 20240520, 1
_HEADER = 256
_DIGESTED = 4096
"""Bytes at both ends of a file that go into the text's name."""


def shard_files(folder: Path, split: str) -> list[Path]:
    """The shards of a split, `train` or `val`, in the order of their names; perhaps none."""
    names = fnmatch.filter(os.listdir(folder), f"*_{split}_*.bin") if folder.is_dir() else []
    return [folder / name for name in sorted(names)]


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


def shard_tokens(folder: Path, vocabulary: int) -> TokenText:
    """The shards of a folder, *_train_*.bin and *_val_*.bin.

    Their name is a digest of names, lengths, and both ends of every file.
    """
    train, validation = (shard_files(folder, split) for split in ("train", "val"))
    if not (train and validation):
        raise InputError(
            f"{folder} has {len(train)} files *_train_*.bin and {len(validation)} *_val_*.bin; "
            f"token shards of both kinds are needed, uncompressed"
        )
    if both := [path.name for path in train if path in validation]:
        raise InputError(
            f"{folder}: {', '.join(both)} is of both splits by its name; call it *_train_*.bin or "
            f"*_val_*.bin, not both"
        )
    digest = hashlib.sha256()
    for path in train + validation:
        if path.is_fifo():
            raise InputError(f"{path} is a pipe, not a file; remove it")
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(_DIGESTED)
            file.seek(max(0, size - _DIGESTED))
            name = f"{path.name} {size}\n".encode(errors="surrogateescape")
            digest.update(name + first + file.read())
    return TokenText(
        f"shards-{digest.hexdigest()[:16]}",
        {str(path): open_shard(path) for path in train},
        {str(path): open_shard(path) for path in validation},
        vocabulary,
    )
