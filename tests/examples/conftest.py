"""A corpus of a few files and a model of a few thousand weights, so that runs take moments."""

import gc
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from examples.llama.config import CorpusConfig, DataConfig, ModelConfig, Setup
from examples.llama.text.corpus import Corpus, load_corpus
from examples.llama.text.documents import DocumentCorpus
from tests.examples.c4_files import EACH, FILES, corpus_of, write_c4


@pytest.fixture
def orbax_collected() -> Iterator[None]:
    """Collect what orbax leaves of a read that failed: coroutines that complain when they go.

    Otherwise some later test would be blamed.
    """
    yield
    gc.collect()


@pytest.fixture(scope="session")
def source_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Python files with some that must be left out."""
    root = tmp_path_factory.mktemp("source")
    generator = np.random.default_rng(0)
    words = ["def ", "return ", "self.", "x", "y", " = ", "\n    ", "(", ")", "import ", "\n"]
    for number in range(60):
        folder = root / f"package{number % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"module{number}.py").write_text("".join(generator.choice(words, 200)))
    for left_out in ("test", "site-packages"):
        (root / left_out).mkdir()
        (root / left_out / "module.py").write_text("left out")
    (root / "notes.txt").write_text("left out")
    return root


@pytest.fixture(scope="session")
def corpus_config(source_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> CorpusConfig:
    return CorpusConfig(corpus_root=source_folder, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def corpus(corpus_config: CorpusConfig) -> Corpus:
    return load_corpus(corpus_config, 256, Console(file=io.StringIO()))


@pytest.fixture
def tiny_model() -> ModelConfig:
    return ModelConfig(hidden=16, mlp=24, heads=2, layers=2)


@pytest.fixture
def tiny_setup(tiny_model: ModelConfig) -> Setup:
    data = DataConfig(batch_size=4, sequence_length=16, validation_rows=12)
    return Setup(model=tiny_model, data=data, steps=12, validate_every=4)


@pytest.fixture
def tiny_options(corpus_config: CorpusConfig) -> list[str]:
    """The tiny set-up on the command line."""
    return [
        *("--hidden", "16", "--mlp", "24", "--heads", "2", "--layers", "2"),
        *("--sequence-length", "16", "--batch-size", "4"),
        *("--validation-rows", "12", "--validate-every", "4"),
        *("--corpus-root", str(corpus_config.corpus_root), "--cache", str(corpus_config.cache)),
    ]


@pytest.fixture(scope="session")
def c4_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few small files in C4's format; tests that change files make their own."""
    return write_c4(tmp_path_factory.mktemp("c4"), [EACH] * FILES, [8, 7])


@pytest.fixture(scope="session")
def c4(c4_folder: Path) -> DocumentCorpus:
    """Their documents as bytes."""
    return corpus_of(c4_folder)
