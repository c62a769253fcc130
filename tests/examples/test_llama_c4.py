import gzip
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from examples.llama.config import CorpusConfig, InputError
from examples.llama.text.c4 import folder_documents
from examples.llama.text.corpus import load_corpus
from examples.llama.text.documents import PADDING, DocumentCorpus
from examples.llama.text.tokenizer import sentencepiece_tokenizer
from tests.examples.c4_files import (
    BYTES,
    EACH,
    FILES,
    LENGTH,
    corpus_of,
    documents,
    make_config,
    sentencepiece_model,
    text_of,
    texts,
    write_c4,
    write_file,
)


def test_a_document_is_a_row_with_an_end_and_padding(c4: DocumentCorpus) -> None:
    rows = c4.validation_data(make_config())[0]
    assert (rows.shape, rows.dtype) == ((10, LENGTH), np.int32)
    expected = documents("validation", 0, 8) + documents("validation", 1, 2)
    assert [text_of(row) for row in rows] == expected
    for row, text in zip(rows, expected, strict=True):
        assert (row == PADDING).sum() == LENGTH - len(text) - 1
    batch = next(iter(c4.training_batches(make_config())))
    assert (batch.shape, batch.dtype) == ((5, LENGTH), np.int32)


def test_a_long_document_keeps_its_end(c4: DocumentCorpus) -> None:
    rows = c4.validation_data(make_config(sequence_length=20))[0]
    assert (rows != PADDING)[4].all()
    assert rows[4, -1] == BYTES.end
    assert BYTES.decode(rows[4, :-1]) == documents("validation", 0, 8)[4][:19]


def test_all_validation_rows_and_their_bytes(c4: DocumentCorpus) -> None:
    assert len(c4.validation_data(make_config(validation_rows=0))[0]) == 15
    assert c4.validation_data(make_config())[1] == 1
    with pytest.raises(InputError, match=r"15 documents .* fewer than --validation-rows 16; 0"):
        c4.validation_data(make_config(validation_rows=16))[0]


@pytest.mark.parametrize("eos_id", [2, -1])
def test_bytes_per_token_counts_the_end_where_it_is_a_token(c4_folder: Path, eos_id: int) -> None:
    tokenizer = sentencepiece_tokenizer(sentencepiece_model(eos_id))
    corpus = DocumentCorpus(folder_documents(c4_folder), tokenizer)
    read = documents("validation", 0, 8) + documents("validation", 1, 2)
    end = int(eos_id >= 0)
    num_bytes = sum(len(text) + end for text in read)
    num_tokens = sum(len(tokenizer.encode(text)) + end for text in read)
    assert corpus.validation_data(make_config())[1] == num_bytes / num_tokens
    lengths = (corpus.validation_data(make_config())[0] != PADDING).sum(axis=1)
    expected = [min(LENGTH, len(tokenizer.encode(text)) + end) for text in read]
    assert lengths.tolist() == expected


def test_documents_without_two_tokens_are_left_out(tmp_path: Path) -> None:
    write_c4(tmp_path, [1], [1])
    for split in ("train", "validation"):
        write_file(tmp_path / f"c4-{split}.00000-of-00001.json.gz", ["", "a", "", "b", ""])
    corpus = corpus_of(tmp_path)
    assert Counter(texts(corpus, 20)) == {"a": 10, "b": 10}
    assert len(corpus.validation_data(make_config(validation_rows=0))[0]) == 2
    write_file(tmp_path / "c4-train.00000-of-00001.json.gz", ["", "", ""])
    with pytest.raises(InputError, match=r"no document has two tokens or more in .*c4-train"):
        texts(corpus_of(tmp_path), 1)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("shuffle_window", 0, "--shuffle-window is 0, but must be at least 1"),
        ("data_seed", -1, "--data-seed is -1, but must be at least 0"),
        ("sequence_length", 1, "--sequence-length 1 leaves nothing to predict"),
    ],
)
def test_options_without_meaning_are_refused(
    c4: DocumentCorpus, option: str, value: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        c4.training_batches(make_config(**{option: value}))


def test_name_depends_on_files_and_tokenizer(c4_folder: Path, tmp_path: Path) -> None:
    other = write_c4(tmp_path, [EACH] * FILES, [8, 6])
    model = sentencepiece_tokenizer(sentencepiece_model())
    made = [
        corpus_of(c4_folder),
        corpus_of(other),
        DocumentCorpus(folder_documents(c4_folder), model),
    ]
    assert len({corpus.name for corpus in made}) == 3
    assert corpus_of(c4_folder).name == made[0].name


def test_files_of_equal_size_and_other_content_are_another_text(tmp_path: Path) -> None:
    names = set()
    for two in (["aaaa", "bb"], ["aaab", "bb"], ["aaaa", "bc"]):
        for split in ("train", "validation"):
            path = tmp_path / f"c4-{split}.00000-of-00001.json.gz"
            lines = "".join(json.dumps({"text": text}) + "\n" for text in two)
            path.write_bytes(gzip.compress(lines.encode(), compresslevel=0, mtime=0))
        names.add((path.stat().st_size, folder_documents(tmp_path).name))
    assert len({size for size, _ in names}) == 1
    assert len(names) == 3


def test_a_folder_is_loaded_with_byte_pairs(c4_folder: Path, tmp_path: Path) -> None:
    output = io.StringIO()
    config = CorpusConfig(text=str(c4_folder), tokenizer="bpe", cache=tmp_path)
    made = [load_corpus(config, 280, Console(file=output, width=500)) for _ in range(2)]
    assert made[0].name == made[1].name
    assert output.getvalue().count("Learning 280 byte pairs") == 1
    assert made[0].tokenizer.vocabulary == 280
    config = replace(config, tokenizer=str(next(tmp_path.glob("*.json"))))
    assert load_corpus(config, 280, Console(file=output)).name == made[0].name
    rows = made[0].validation_data(make_config())[0]
    read = [made[0].tokenizer.decode(row[row > 0]) for row in rows]
    assert read == documents("validation", 0, 8) + documents("validation", 1, 2)
