import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.llama.config import InputError
from examples.llama.text.documents import DocumentCorpus
from tests.examples.c4_files import (
    EACH,
    TRAINING,
    corpus_of,
    documents,
    make_config,
    texts,
    write_c4,
    write_file,
)


def test_every_document_comes_once_in_an_epoch_and_in_another_order_in_the_next(
    c4: DocumentCorpus,
) -> None:
    read = texts(c4, 300)
    epochs = [read[start : start + 100] for start in (0, 100, 200)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(TRAINING)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_order_is_a_function_of_the_data_seed(c4: DocumentCorpus) -> None:
    assert texts(c4, 100) == texts(c4, 100)
    assert texts(c4, 100) != texts(c4, 100, data_seed=1)
    assert Counter(texts(c4, 100)) == Counter(texts(c4, 100, data_seed=1))


def test_without_a_window_files_are_read_in_a_new_order_each_epoch(c4: DocumentCorpus) -> None:
    read = texts(c4, 500, shuffle_window=1)
    orders = set()
    for start in range(0, 500, 100):
        order = [int(text.split()[1]) for text in read[start : start + 100 : EACH]]
        orders.add(tuple(order))
        assert read[start : start + 100] == [
            text for file in order for text in documents("train", file, EACH)
        ]
    assert len(orders) > 1


def test_a_window_holds_its_documents(c4: DocumentCorpus) -> None:
    read, in_order = texts(c4, 100, shuffle_window=20), texts(c4, 100, shuffle_window=1)
    for start in range(0, 100, 20):
        assert sorted(read[start : start + 20]) == sorted(in_order[start : start + 20])
        assert read[start : start + 20] != in_order[start : start + 20]


@settings(max_examples=30, deadline=None)
@given(
    before=st.integers(0, 45),
    window=st.sampled_from([1, 7, 40, 1000]),
    batch_size=st.sampled_from([1, 3, 8]),
)
def test_a_saved_iterator_goes_on_as_if_nothing_had_happened(
    c4: DocumentCorpus, before: int, window: int, batch_size: int
) -> None:
    batches = c4.training_batches(make_config(shuffle_window=window, batch_size=batch_size))
    first = iter(batches)
    for _ in range(before):
        next(first)
    state = json.dumps(first.get_state())
    expected = [next(first) for _ in range(8)]
    assert len(state) < 200
    second = iter(batches)
    next(second)  # what was read before does not matter
    second.set_state(json.loads(state))
    assert second.get_state() == json.loads(state)
    for batch in expected:
        np.testing.assert_array_equal(next(second), batch)
    assert second.get_state() == first.get_state()
    first.close()
    second.close()


def test_a_file_that_lost_lines_since_the_checkpoint_is_noticed(tmp_path: Path) -> None:
    corpus = corpus_of(write_c4(tmp_path, [30], [1]))
    batches = corpus.training_batches(make_config(batch_size=1, shuffle_window=5))
    first = iter(batches)
    for _ in range(23):
        next(first)
    state = first.get_state()
    first.close()
    write_file(tmp_path / "c4-train.00000-of-00001.json.gz", documents("train", 0, 10))
    second = iter(batches)
    second.set_state(state)
    with pytest.raises(InputError, match="has 10 lines, but 20 were read before"):
        next(second)
