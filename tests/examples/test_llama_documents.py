import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.llama.config import InputError
from examples.llama.text.c4 import folder_documents
from tests.examples.c4_files import (
    corpus_of,
    make_config,
    texts,
    write_c4,
)

GOOD = '{"text": "good", "timestamp": "2019-04-25T12:57:54Z", "url": "u"}' + "\n"
THREE = gzip.compress((GOOD * 3).encode())
HEADER = gzip.compress(b"")[:10]

FAULTS = {
    "cut short": (THREE[:-9], r"ends in the middle of line \d: it was cut short; download it"),
    "damaged": (THREE[:-8] + bytes(8), r"cannot be read after line \d \(CRC check failed"),
    "scrambled": (HEADER + b"\xff" * 99, r"cannot be read after line 0 \(Error -3"),
    "not gzip": (GOOD.encode(), r"cannot be read after line 0 \(Not a gzipped file"),
    "not JSON": (gzip.compress((GOOD * 2 + "{\n" + GOOD).encode()), r", line 3 is not JSON"),
    "blank line": (gzip.compress((GOOD + "\n" + GOOD).encode()), r", line 2 is not JSON"),
    "not UTF-8": (gzip.compress(GOOD.encode() + b'{"text": "\xff"}\n'), r", line 2 is not JSON"),
    "no text": (gzip.compress((GOOD + '{"url": "u"}\n').encode()), r", line 2 has no key 'text'"),
    "a list": (gzip.compress(b'["text"]\n'), r", line 1 has no key 'text'"),
    "a number": (
        gzip.compress(b'{"text": 3}\n'),
        r", line 1 has a 'text' of type int, not a string",
    ),
    "surrogate": (gzip.compress(b'{"text": "\\ud800"}\n'), r", line 1 has a text with half"),
    "no lines": (gzip.compress(b""), r"is empty; download it again"),
    "nothing": (b"", r"is empty; download it again"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_fault_in_a_file_is_reported_with_its_place(tmp_path: Path, split: str, fault: str) -> None:
    content, message = FAULTS[fault]
    write_c4(tmp_path, [2, 2], [2])
    path = tmp_path / f"c4-{split}.00000-of-0000{2 if split == 'train' else 1}.json.gz"
    path.write_bytes(content)
    corpus = corpus_of(tmp_path)
    read: dict[str, Callable[[], Any]] = {
        "train": lambda: texts(corpus, 50),
        "validation": lambda: corpus.validation_data(make_config(validation_rows=0))[0],
    }
    with pytest.raises(InputError, match=str(path) + ".*" + message):
        read[split]()


@pytest.mark.parametrize("missing", ["train", "validation"])
def test_folder_without_a_split_is_refused(tmp_path: Path, missing: str) -> None:
    write_c4(tmp_path, [1] * (missing != "train"), [1] * (missing != "validation"))
    message = rf"{tmp_path} has no {missing} files: .* c4-{missing}\.\*\.json\.gz, for example"
    with pytest.raises(InputError, match=message):
        folder_documents(tmp_path)
