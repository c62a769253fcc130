"""Documents: C4's own files, gzipped lines of JSON, or a data set streamed from the hub."""

import functools
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from examples.llama.config import InputError
from examples.llama.run.records import naming
from examples.llama.text.tokenizer import import_extra

_END = 2**16
"""Bytes at each end of a file that identify it."""


class Part(Protocol):
    """A part of a text, such as a file: documents in an order that never changes.

    It can be pickled, so that a worker process can read it.
    """

    def documents(self, start: int) -> Iterator[str]:
        """The texts of the documents from number `start` on, the first is 0."""


@dataclass(frozen=True)
class C4File:
    """A file of C4, for example c4-train.00000-of-01024.json.gz; document n is line n + 1."""

    path: Path

    def identity(self) -> str:
        """A digest that tells its content from any other, without reading all of a large file.

        It covers the size and both ends of the file. A gzip file ends with the CRC-32 and
        the length of what was compressed, with which the content is compared when it is read.
        """
        with naming(self.path), self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest = hashlib.sha256(f"{size}\n".encode())
            for start in (0, max(0, size - _END)):
                file.seek(start)
                digest.update(file.read(_END))
        return digest.hexdigest()

    def documents(self, start: int) -> Iterator[str]:
        """The texts from line `start` + 1 on; lines before it are not looked into."""
        number = 0
        try:
            with gzip.open(self.path) as lines:
                for number, line in enumerate(lines, start=1):
                    if number > start:
                        yield self._text(number, line)
        except EOFError as error:
            raise InputError(
                f"{self.path} ends in the middle of line {number + 1}: it was cut short; download "
                f"it again"
            ) from error
        except (OSError, zlib.error) as error:
            raise InputError(
                f"{self.path} cannot be read after line {number} ({error}); download it again"
            ) from error
        if number < max(1, start):
            found = f"has {number} lines, but {start} were read before" if number else "is empty"
            raise InputError(f"{self.path} {found}; download it again")

    def _text(self, number: int, line: bytes) -> str:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise self._bad_line(number, f"is not JSON ({error})") from error
        if not isinstance(record, dict) or "text" not in record:
            raise self._bad_line(number, "has no key 'text'")
        text = record["text"]
        if not isinstance(text, str):
            raise self._bad_line(
                number, f"has a 'text' of type {type(text).__name__}, not a string"
            )
        if not is_unicode(text):
            raise self._bad_line(number, "has a text with half a surrogate pair")
        return text

    def _bad_line(self, number: int, fault: str) -> InputError:
        return InputError(
            f"{self.path}, line {number} {fault}; the files must have C4's format, a line like "
            f'{{"text": "...", "timestamp": "...", "url": "..."}} for each document'
        )


def is_unicode(text: str) -> bool:
    """Whether the text can be encoded; JSON can hold halves of surrogate pairs, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def c4_files(folder: Path, split: str) -> tuple[C4File, ...]:
    """The files of a split, `train` or `validation`, in the order of their names."""
    pattern = f"c4-{split}.*.json.gz"
    if not folder.is_dir():
        raise InputError(
            f"--text {folder} is not a folder; it takes python, hub, or a folder with C4's files "
            f"(c4-train.*.json.gz and c4-validation.*.json.gz) or token shards (*_train_*.bin and "
            f"*_val_*.bin)"
        )
    files = tuple(C4File(path) for path in sorted(folder.glob(pattern)) if path.is_file())
    if not files:
        raise InputError(
            f"{folder} has no {split} files: none has a name like {pattern}, for example "
            f"c4-{split}.00000-of-{'01024' if split == 'train' else '00008'}.json.gz; download "
            f"some of C4's, or choose another folder with --text"
        )
    return files


_SECONDS_TO_REACH_THE_HUB = 10


@dataclass(frozen=True)
class HubDataset:
    """A data set of the hub, or a folder with the files of one."""

    name: str = "allenai/c4"
    """Owner and name, or a folder."""
    configuration: str | None = "en"
    """Which of the data set's configurations."""
    revision: str | None = "1588ec454efa1a09f29cd18ddd04fe05fc8653a2"
    """Commit, so that the text is the same whenever it is read."""

    def __str__(self) -> str:
        """Name, configuration and the beginning of the revision."""
        return "-".join(filter(None, (self.name, self.configuration, (self.revision or "")[:8])))

    def parts(self, split: str) -> tuple["HubFile", ...]:
        """The files of a split, `train` or `validation`."""
        count = _open(self, split).num_shards
        return tuple(HubFile(self, split, index, count) for index in range(count))


@dataclass(frozen=True)
class HubFile:
    """One file of a split."""

    dataset: HubDataset
    split: str
    index: int
    count: int

    def documents(self, start: int) -> Iterator[str]:
        """The texts from row `start` on; the rows before it are read too."""
        number = start
        try:
            rows = _open(self.dataset, self.split).shard(num_shards=self.count, index=self.index)
            for number, row in enumerate(rows.skip(start), start=start + 1):
                text = row.get("text")
                if not isinstance(text, str) or not is_unicode(text):
                    raise InputError(f"{self}, row {number} has no text under the key 'text'")
                yield text
        except InputError:
            raise
        except Exception as error:  # those of the network, of decompression and of JSON
            raise InputError(
                f"{self} cannot be read after row {number} ({type(error).__name__}: {error})"
            ) from error
        if number == 0:
            raise InputError(f"{self} is empty")

    def __str__(self) -> str:
        """Where it is, for a message."""
        return f"{self.dataset}, split {self.split}, file {self.index + 1} of {self.count}"


@functools.cache
def _open(dataset: HubDataset, split: str) -> Any:
    """The split as an iterable of `datasets`; nothing but a list of files is read yet."""
    datasets = import_extra("datasets")
    datasets.disable_progress_bars()
    try:
        if not Path(dataset.name).is_dir():
            # one request first: `datasets` tries for half a minute if there is no network
            import_extra("huggingface_hub").HfApi().dataset_info(
                dataset.name, revision=dataset.revision, timeout=_SECONDS_TO_REACH_THE_HUB
            )
        return datasets.load_dataset(
            dataset.name,
            dataset.configuration,
            split=split,
            revision=dataset.revision,
            streaming=True,
        )
    except Exception as error:  # those of the network have no common class
        raise InputError(
            f"cannot open {dataset} from the hub ({type(error).__name__}: {error}); check the "
            f"network, or download C4's files (en/c4-train.*.json.gz and "
            f"en/c4-validation.*.json.gz) and use --text FOLDER"
        ) from error
