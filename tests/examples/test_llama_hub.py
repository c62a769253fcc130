import io
import shutil
import sys
from pathlib import Path
from time import perf_counter

import pytest
from rich.console import Console

from examples.llama.config import CorpusConfig, InputError
from examples.llama.text.c4 import REVISION, hub_documents
from examples.llama.text.corpus import load_corpus
from examples.llama.text.documents import DocumentCorpus
from tests.examples.c4_files import BYTES, make_config, write_c4


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Some files as the hub's cache has them, and nothing else within reach."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "datasets--allenai--c4" / "snapshots" / REVISION / "en"
    folder.mkdir(parents=True)
    write_c4(tmp_path / "files", [], [3])
    shutil.copy(
        tmp_path / "files" / "c4-validation.00000-of-00001.json.gz",
        folder / "c4-validation.00000-of-00008.json.gz",
    )
    return folder


def test_hub_gives_the_rows_of_its_files(hub: Path) -> None:
    found = hub_documents()
    assert found.name == "allenai/c4-en-1588ec45"
    assert (len(found.train), len(found.validation)) == (1024, 8)
    corpus = DocumentCorpus(found, BYTES)
    rows, _ = corpus.validation_data(make_config(validation_rows=3))
    assert [BYTES.decode(row[:12]) for row in rows] == [f"validation 0 {n}"[:12] for n in range(3)]


def test_file_that_the_hub_does_not_give_is_named(hub: Path) -> None:
    corpus = DocumentCorpus(hub_documents(), BYTES)
    with pytest.raises(
        InputError, match=r"cannot read en/c4-train\.\d+-of-01024.json.gz of allenai"
    ):
        next(iter(corpus.training_batches(make_config())))


def test_hub_out_of_reach_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = perf_counter()
    with pytest.raises(InputError, match=r"cannot read en/c4-val.* of allenai/c4 .* use --text"):
        load_corpus(CorpusConfig(text="hub"), 256, Console(file=io.StringIO()))
    assert perf_counter() - start < 20


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"huggingface_hub.*pip install 'multinorm-optax\[c4\]'"):
        hub_documents()
