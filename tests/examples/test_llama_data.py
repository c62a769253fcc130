import itertools

import numpy as np
import pytest
from tokenizers import Tokenizer

from examples.llama.config import DataConfig, InputError
from examples.llama.text.documents import PADDING, document_tokens, pad_rows
from examples.llama.text.tokenizer import json_tokenizer
from examples.llama.text.tokens import TokenText, cut_rows, rows_of
from tests.examples.c4_files import LINES, t5_tokenizer

TOKENS = np.arange(201, dtype=np.uint8)
TEXT = TokenText("text", {"train": TOKENS}, {"validation": TOKENS}, 256)
CONFIG = DataConfig(batch_size=4, sequence_length=10, validation_rows=0)


def test_rows_predict_every_token_once() -> None:
    rows = cut_rows(TOKENS, 10)
    assert rows.shape == (20, 11)
    np.testing.assert_array_equal(rows[:, 1:].reshape(-1), TOKENS[1:])
    np.testing.assert_array_equal(rows[1:, 0], rows[:-1, -1])


def test_text_shorter_than_a_row_is_refused() -> None:
    with pytest.raises(InputError, match=r"^a, the longest of 2 pieces of text, has 10 tokens"):
        rows_of({"a": TOKENS[:10], "b": TOKENS[:3]}, 10, 256)


def test_pieces_shorter_than_a_row_have_none() -> None:
    pieces = {"a": TOKENS[:10], "b": TOKENS[:21], "c": TOKENS[:3], "d": TOKENS[30:41]}
    rows = rows_of(pieces, 10, 256)
    np.testing.assert_array_equal(list(rows), [TOKENS[:11], TOKENS[10:21], TOKENS[30:41]])


def _first(config: DataConfig, count: int) -> np.ndarray:
    return np.stack(list(itertools.islice(iter(TEXT.training_batches(config)), count)))


def test_order_is_a_function_of_the_data_seed() -> None:
    np.testing.assert_array_equal(_first(CONFIG, 12), _first(CONFIG, 12))
    other = DataConfig(batch_size=4, sequence_length=10, data_seed=1)
    assert (_first(CONFIG, 5) != _first(other, 5)).any()


def test_each_epoch_has_every_row_once_in_a_new_order() -> None:
    batches = _first(CONFIG, 10).reshape(2, 20, 11)
    for epoch in batches:
        np.testing.assert_array_equal(np.sort(epoch[:, 0]), np.arange(0, 200, 10))
    assert (batches[0] != batches[1]).any()


def test_validation_rows_are_spread_and_fixed() -> None:
    some, _ = TEXT.validation_data(DataConfig(sequence_length=10, validation_rows=4))
    np.testing.assert_array_equal(some[:, 0], [0, 50, 100, 150])
    assert TEXT.validation_data(CONFIG)[0].shape == (20, 11)


def test_more_validation_rows_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match=r"20 rows.*fewer than --validation-rows 21"):
        TEXT.validation_data(DataConfig(sequence_length=10, validation_rows=21))


@pytest.mark.parametrize("length", [2, 7, 20, 30, 100])
def test_document_is_ended_cut_and_padded_as_t5_does_it(length: int) -> None:
    reference = Tokenizer.from_str(t5_tokenizer().decode())
    reference.enable_truncation(length)
    reference.enable_padding(length=length)
    tokenizer = json_tokenizer(t5_tokenizer())
    for text in (LINES[0], " ".join(LINES[:5]), "fox", ""):
        expected = reference.encode(text)
        tokens = document_tokens(tokenizer.encode(text), tokenizer.end, length)
        (row,) = pad_rows([tokens], length)
        np.testing.assert_array_equal(row >= 0, np.array(expected.attention_mask) == 1)
        np.testing.assert_array_equal(row[row >= 0], np.array(expected.ids)[row >= 0])
        assert tokens[-1] == tokenizer.end


def test_document_without_end_token_is_cut_where_the_row_ends() -> None:
    rows = [document_tokens(TOKENS[:count], None, 4) for count in (3, 4, 5)]
    assert pad_rows(rows, 4).tolist() == [[0, 1, 2, PADDING], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert pad_rows(rows, 4).dtype == np.int32
