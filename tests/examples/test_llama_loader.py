"""Reading ahead of the training."""

import gzip
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from examples.llama.config import InputError
from examples.llama.text.documents import DocumentCorpus
from tests.examples.c4_files import corpus_of, make_config, write_c4


def test_iterator_that_is_closed_leaves_no_thread(c4: DocumentCorpus) -> None:
    before = threading.active_count()
    for _ in range(20):
        batches = iter(c4.training_batches(make_config()))
        next(batches)
        batches.close()
    assert threading.active_count() <= before + 1


@pytest.mark.parametrize("bad_file", [0, 1])
def test_fault_is_reported_after_the_batches_before_it(tmp_path: Path, bad_file: int) -> None:
    write_c4(tmp_path, [30, 30], [2])
    bad = tmp_path / f"c4-train.0000{bad_file}-of-00002.json.gz"
    good = json.dumps({"text": "good", "url": "u"}) + "\n"
    bad.write_bytes(gzip.compress((good * 30 + "{\n").encode()))
    config = make_config(batch_size=4, shuffle_window=2)
    found: list[np.ndarray] = []
    with pytest.raises(InputError, match=rf"^{bad}, line 31 is not JSON"):
        found.extend(corpus_of(tmp_path).training_batches(config))  # keeps what came before
    assert len(found) in (30 // 4, 60 // 4)  # the files come in an order that is drawn
