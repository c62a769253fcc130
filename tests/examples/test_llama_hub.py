import gzip
import io
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from rich.console import Console

from examples.llama.config import CorpusConfig, InputError
from examples.llama.text.c4 import DocumentCorpus, Documents, hub_documents
from examples.llama.text.corpus import load_corpus
from examples.llama.text.documents import HubDataset
from tests.examples.c4_files import (
    BYTES,
    make_config,
    texts,
    write_c4,
)

GOOD = '{"text": "good", "timestamp": "2019-04-25T12:57:54Z", "url": "u"}' + "\n"


@pytest.fixture
def hub(c4_folder: Path) -> Documents:
    """The folder, read as a data set of the hub would be."""
    return hub_documents(HubDataset(str(c4_folder), configuration=None, revision=None))


def test_hub_gives_the_rows_of_its_files(hub: Documents, c4: DocumentCorpus) -> None:
    corpus, config = DocumentCorpus(hub, BYTES), make_config()
    streamed, read, again = (iter(made.training_batches(config)) for made in (corpus, c4, corpus))
    for _ in range(12):
        np.testing.assert_array_equal(next(streamed), next(read))
    assert streamed.get_state() == read.get_state()
    again.set_state(streamed.get_state())
    for _ in range(12):
        np.testing.assert_array_equal(next(again), next(read))
    for batches in (streamed, read, again):
        batches.close()
    np.testing.assert_array_equal(corpus.validation_rows(config), c4.validation_rows(config))
    assert corpus.name == f"{hub.name}-bytes"


def test_a_worker_reads_from_the_hub(hub: Documents, c4: DocumentCorpus) -> None:
    assert texts(DocumentCorpus(hub, BYTES), 20, workers=1) == texts(c4, 20)


def test_fault_in_a_file_of_the_hub_is_reported_with_its_place(tmp_path: Path) -> None:
    write_c4(tmp_path, [1, 1], [1])
    path = tmp_path / "c4-train.00001-of-00002.json.gz"
    hub = HubDataset(str(tmp_path), configuration=None, revision=None)
    place = f"{hub}, split train, file 2 of 2"
    for content, message in (
        (gzip.compress((GOOD * 3).encode())[:-9], "cannot be read after row 0"),
        (gzip.compress((GOOD + '{"url": "u"}\n').encode()), "row 2 has no text"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{place}.*{message}"):
            texts(DocumentCorpus(hub_documents(hub), BYTES), 30)


def test_hub_out_of_reach_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = perf_counter()
    with pytest.raises(InputError, match=r"cannot open allenai/c4-en.* use --text FOLDER"):
        load_corpus(CorpusConfig(text="hub"), 256, Console(file=io.StringIO()))
    assert perf_counter() - start < 20


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"datasets.*pip install 'multinorm-optax\[c4\]'"):
        HubDataset("some/name").parts("train")
