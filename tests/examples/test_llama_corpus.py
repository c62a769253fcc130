import io
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from examples.llama.config import CorpusConfig, DataConfig, InputError
from examples.llama.text.corpus import load_corpus
from examples.llama.text.data import training_batches, validation_rows
from examples.llama.text.stdlib_text import ContiguousCorpus, is_validation, source_files
from tests.examples.c4_files import sentencepiece_model


def load(config: CorpusConfig, vocabulary: int = 256) -> ContiguousCorpus:
    corpus = load_corpus(config, vocabulary, Console(file=io.StringIO()))
    assert isinstance(corpus, ContiguousCorpus)
    return corpus


def test_files_are_listed_in_order_without_tests_and_packages(source_folder: Path) -> None:
    files = source_files(source_folder)
    assert len(files) == 60
    assert files == sorted(files)
    assert all(path.parts[0].startswith("package") for path in files)


def test_every_file_is_in_one_split_whole(source_folder: Path, corpus: ContiguousCorpus) -> None:
    for held_out, tokens in ((False, corpus.train), (True, corpus.validation)):
        files = [path for path in source_files(source_folder) if is_validation(path) is held_out]
        assert tokens.dtype == np.uint8
        assert tokens.tobytes().split(b"\0") == [
            (source_folder / path).read_bytes() for path in files
        ]


def test_split_depends_on_the_path_alone() -> None:
    held_out = [n for n in range(2000) if is_validation(Path(f"package/module{n}.py"))]
    assert held_out[:3] == [17, 22, 26]
    assert 60 < len(held_out) < 140


def test_second_load_reads_the_cache(source_folder: Path, tmp_path: Path) -> None:
    outputs = []
    for _ in range(2):
        console = Console(file=io.StringIO(), width=500)
        loaded = load_corpus(CorpusConfig(corpus_root=source_folder, cache=tmp_path), 256, console)
        outputs.append(console.file.getvalue())  # type: ignore[attr-defined]
    assert "Reading 60 files" in outputs[0]
    assert outputs[1] == ""
    assert [path.name for path in tmp_path.iterdir()] == [f"{loaded.name}.npz"]


def test_changed_file_list_is_another_corpus(source_folder: Path, tmp_path: Path) -> None:
    for path in source_files(source_folder):
        (tmp_path / "copy" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / path).write_bytes((source_folder / path).read_bytes())
    config = CorpusConfig(corpus_root=tmp_path / "copy", cache=tmp_path / "cache")
    before = load(config)
    with (tmp_path / "copy" / source_files(source_folder)[0]).open("a") as file:
        file.write("more")
    after = load(config)
    assert before.name != after.name
    assert len(after.train) + len(after.validation) == (
        len(before.train) + len(before.validation) + 4
    )


def test_folder_without_python_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0 training and 0 validation files.*--corpus-root"):
        load(CorpusConfig(corpus_root=tmp_path, cache=tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_rows_are_those_of_the_bytes(corpus: ContiguousCorpus) -> None:
    config = DataConfig(batch_size=4, sequence_length=16, validation_rows=12)
    for made, expected in zip(
        itertools.islice(iter(corpus.training_batches(config)), 3),
        iter(training_batches(corpus.train, config)),
        strict=False,
    ):
        np.testing.assert_array_equal(made, expected)
    np.testing.assert_array_equal(
        corpus.validation_rows(config), validation_rows(corpus.validation, config)
    )
    assert corpus.validation_bytes_per_token(config) == 1


def _by_kind(source_folder: Path, folder: Path, kind: str) -> CorpusConfig:
    (folder / "sp.model").write_bytes(sentencepiece_model(2 if kind == "ended" else -1))
    tokenizer = "bpe" if kind == "bpe" else str(folder / "sp.model")
    return CorpusConfig(tokenizer=tokenizer, corpus_root=source_folder, cache=folder)


@pytest.mark.parametrize("kind", ["bpe", "ended", "endless"])
def test_text_of_other_tokens_is_the_same_text(
    source_folder: Path, tmp_path: Path, kind: str
) -> None:
    made = load(_by_kind(source_folder, tmp_path, kind), 400)
    tokenizer = made.tokenizer
    for held_out, tokens in ((False, made.train), (True, made.validation)):
        files = [path for path in source_files(source_folder) if is_validation(path) is held_out]
        texts = [(source_folder / path).read_text() for path in files]
        if tokenizer.end is None:
            expected = np.concatenate([tokenizer.encode(text) for text in texts])
            np.testing.assert_array_equal(tokens, expected)
        else:
            pieces = np.split(tokens, np.flatnonzero(tokens == tokenizer.end))
            pieces = [pieces[0], *(piece[1:] for piece in pieces[1:])]
            assert [tokenizer.decode(piece) for piece in pieces] == [
                tokenizer.decode(tokenizer.encode(text)) for text in texts
            ]
    assert made.train.dtype == (np.uint16 if tokenizer.vocabulary > 256 else np.uint8)
    if kind == "bpe":
        size = sum(len(text) for text in texts) + len(texts) - 1
        assert made.validation_bytes_per_token(DataConfig()) == size / len(made.validation) > 1


def test_other_tokens_are_learned_and_cached_once(source_folder: Path, tmp_path: Path) -> None:
    config = _by_kind(source_folder, tmp_path, "bpe")
    first, written = load(config, 300), sorted(tmp_path.glob("*.*"))
    second = load(config, 300)
    assert first.name == second.name
    assert sorted(tmp_path.glob("*.*")) == written
    np.testing.assert_array_equal(first.train, second.train)
    assert load(config, 290).name != first.name != load(replace(config, tokenizer="bytes")).name


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CorpusConfig(text="absent"), r"--text absent is no folder; it takes python, hub, or"),
        (CorpusConfig(text="hub", corpus_root=Path("x")), "--corpus-root x is only for --text pyt"),
    ],
)
def test_text_that_is_not_there_is_refused(config: CorpusConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(config)
