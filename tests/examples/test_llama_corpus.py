import io
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from examples.llama.config import CorpusConfig, DataConfig, InputError
from examples.llama.text.corpus import load_corpus
from examples.llama.text.python_source import is_validation, python_source, source_files
from examples.llama.text.tokens import TokenCorpus, cut_rows
from tests.examples.c4_files import sentencepiece_model
from tests.examples.damage import refuse_to_list


def load(config: CorpusConfig, vocabulary: int = 256) -> TokenCorpus:
    corpus = load_corpus(config, vocabulary, Console(file=io.StringIO()))
    assert isinstance(corpus, TokenCorpus)
    return corpus


def _tokens(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    (tokens,) = arrays.values()
    return tokens


def _length(corpus: TokenCorpus) -> tuple[int, int]:
    return len(_tokens(corpus.train)), len(_tokens(corpus.validation))


def test_files_are_listed_in_order_without_tests_and_packages(source_folder: Path) -> None:
    files = source_files(source_folder)
    assert len(files) == 60
    assert files == sorted(files)
    assert all(path.parts[0].startswith("package") for path in files)


def test_every_file_is_in_one_split_whole(source_folder: Path, corpus: TokenCorpus) -> None:
    for held_out, tokens in ((False, _tokens(corpus.train)), (True, _tokens(corpus.validation))):
        files = [path for path in source_files(source_folder) if is_validation(path) is held_out]
        assert tokens.dtype == np.uint8
        assert tokens.tobytes().split(b"\0") == [
            (source_folder / path).read_bytes() for path in files
        ]


def test_split_depends_on_the_path_alone() -> None:
    held_out = [n for n in range(2000) if is_validation(Path(f"package/module{n}.py"))]
    assert held_out[:3] == [17, 22, 26]
    assert 60 < len(held_out) < 140


def _load(config: CorpusConfig) -> tuple[TokenCorpus, str]:
    console = Console(file=io.StringIO(), width=500)
    loaded = load_corpus(config, 300, console)
    assert isinstance(loaded, TokenCorpus)
    return loaded, console.file.getvalue()  # type: ignore[attr-defined]


def test_second_load_reads_the_cache(source_folder: Path, tmp_path: Path) -> None:
    config = CorpusConfig(tokenizer="bpe", corpus_root=source_folder, cache=tmp_path)
    loaded, output = _load(config)
    assert "Learning 300 byte pairs" in output
    assert "Tokenizing 60 files" in output
    assert (tmp_path / f"{loaded.name}.npz").exists()
    assert _load(config)[1] == ""


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flip(place: float) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        index = int(place * (len(content) - 1))
        return content[:index] + bytes([content[index] ^ 4]) + content[index + 1 :]

    return flip


@pytest.mark.parametrize("kind", ["npz", "json"])
@pytest.mark.parametrize(
    "damage", [_cut, lambda content: b"", *(_flip(place / 7) for place in range(8))]
)
def test_damaged_cache_is_made_again(
    kind: str, damage: Callable[[bytes], bytes], source_folder: Path, tmp_path: Path
) -> None:
    config = CorpusConfig(tokenizer="bpe", corpus_root=source_folder, cache=tmp_path)
    first, _ = _load(config)
    (path,) = tmp_path.glob(f"*.{kind}")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    second, output = _load(config)
    assert second.name == first.name
    np.testing.assert_array_equal(_tokens(second.train), _tokens(first.train))
    np.testing.assert_array_equal(_tokens(second.validation), _tokens(first.validation))
    # bits of a zip file that say nothing of its content may differ
    assert f"{path} is damaged" in output or kind == "npz"
    assert kind == "npz" or path.read_bytes() == whole


def test_changed_files_are_another_corpus(source_folder: Path, tmp_path: Path) -> None:
    for path in source_files(source_folder):
        (tmp_path / "copy" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / path).write_bytes((source_folder / path).read_bytes())
    config = CorpusConfig(corpus_root=tmp_path / "copy", cache=tmp_path / "cache")
    before = load(config)
    changed = tmp_path / "copy" / source_files(source_folder)[0]
    content, times = changed.read_bytes(), changed.stat()
    changed.write_bytes(content + b"more")
    longer = load(config)
    assert sum(_length(longer)) == sum(_length(before)) + 4
    changed.write_bytes(b"X" + content[1:])
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    other = load(config)
    assert _length(other) == _length(before)
    assert len({before.name, longer.name, other.name}) == 3
    changed.write_bytes(content)
    assert load(config).name == before.name


def test_a_folder_is_known_by_its_files_whatever_the_python(
    source_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CorpusConfig(corpus_root=source_folder, cache=tmp_path)
    before = load(config).name
    monkeypatch.setattr("platform.python_version", lambda: "4.0.0")
    assert load(config).name == before
    assert python_source(None).title == "python-4.0.0"


def test_validation_files_without_a_token_are_refused(tmp_path: Path) -> None:
    names = [Path(f"{number}.py") for number in range(100)]
    (tmp_path / next(filter(is_validation, names))).touch()
    (tmp_path / next(name for name in names if not is_validation(name))).write_text("x = 1")
    config = CorpusConfig(corpus_root=tmp_path, cache=tmp_path / "cache")
    with pytest.raises(InputError, match=r"validation files .* are empty.*--corpus-root"):
        load(config)


def test_folder_without_python_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0 training and 0 validation files.*--corpus-root"):
        load(CorpusConfig(corpus_root=tmp_path, cache=tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_validation_rows_are_those_of_the_bytes(corpus: TokenCorpus) -> None:
    rows, bytes_per_token = corpus.validation_data(
        DataConfig(sequence_length=16, validation_rows=0)
    )
    np.testing.assert_array_equal(rows, cut_rows(_tokens(corpus.validation), 16))
    assert bytes_per_token == 1


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
    for held_out, tokens in ((False, _tokens(made.train)), (True, _tokens(made.validation))):
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
    assert _tokens(made.train).dtype == (np.uint16 if tokenizer.vocabulary > 256 else np.uint8)
    if kind == "bpe":
        size = sum(len(text) for text in texts) + len(texts) - 1
        assert made.bytes_per_token == size / len(_tokens(made.validation)) > 1


def test_other_tokens_are_learned_and_cached_once(source_folder: Path, tmp_path: Path) -> None:
    config = _by_kind(source_folder, tmp_path, "bpe")
    first, written = load(config, 300), sorted(tmp_path.glob("*.*"))
    second = load(config, 300)
    assert first.name == second.name
    assert sorted(tmp_path.glob("*.*")) == written
    np.testing.assert_array_equal(_tokens(first.train), _tokens(second.train))
    assert load(config, 290).name != first.name != load(replace(config, tokenizer="bytes")).name


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CorpusConfig(text="absent"), r"--text .*absent is not a folder; it takes python, hub, or"),
        (
            CorpusConfig(text="hub", corpus_root=Path("x")),
            "--corpus-root .*x is only for --text pyt",
        ),
    ],
)
def test_text_that_is_not_there_is_refused(config: CorpusConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(config)


def test_folder_that_cannot_be_read_is_an_error(
    source_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_to_list("package1", monkeypatch)
    with pytest.raises(PermissionError, match="package1"):
        source_files(source_folder)


def test_names_of_files_need_not_be_text(source_folder: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(source_folder, tmp_path / "source"))
    Path(os.fsdecode(os.fsencode(root) + b"/na\xefve.py")).write_text("pass")
    load_corpus(CorpusConfig(corpus_root=root), 256, Console(file=io.StringIO()))


def test_bytes_need_no_cache(source_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # of a user without a home
    console = Console(file=io.StringIO())
    load_corpus(CorpusConfig(corpus_root=source_folder), 256, console)
    with pytest.raises(InputError, match="no home folder for the cache"):
        load_corpus(CorpusConfig(corpus_root=source_folder, tokenizer="bpe"), 300, console)
