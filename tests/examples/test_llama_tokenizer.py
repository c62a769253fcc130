import io
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tokenizers import Tokenizer as TokenizersTokenizer
from tokenizers.models import WordLevel

from examples.llama.config import CorpusConfig, InputError
from examples.llama.text.corpus import load_corpus
from examples.llama.text.tokenizer import (
    BYTES,
    Tokenizer,
    byte_pair_tokenizer,
    json_tokenizer,
    learn_byte_pairs,
    read_tokenizer,
    sentencepiece_tokenizer,
)
from tests.examples.c4_files import LINES, sentencepiece_model, t5_tokenizer

BYTE_PAIRS = json_tokenizer(learn_byte_pairs(LINES, 300).encode())
QUIET = Console(file=io.StringIO())


@given(st.text())
def test_bytes_and_byte_pairs_give_any_text_back(text: str) -> None:
    for tokenizer in (BYTES, BYTE_PAIRS):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= token < tokenizer.vocabulary for token in ids)
    assert len(BYTE_PAIRS.encode(text)) <= len(text.encode())


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    assert BYTES.decode([0x61, 0xFF, 0x62]) == "a\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize(("name", "end"), [("sp.model", 2), ("t5.json", 1)])
def test_files_are_read_by_their_suffix(tmp_path: Path, name: str, end: int) -> None:
    path = tmp_path / name
    path.write_bytes(sentencepiece_model() if path.suffix == ".model" else t5_tokenizer())
    tokenizer = read_tokenizer(path)
    text = LINES[17]
    ids = tokenizer.encode(text)
    # neither cut to 5, nor padded to 100, nor ended, as the file may ask for
    assert tokenizer.decode(ids) == text
    assert 5 < len(ids) < 100
    assert tokenizer.end == end not in ids
    assert max(ids) < tokenizer.vocabulary <= 90


def test_model_without_end_of_sentence_has_no_end() -> None:
    assert sentencepiece_tokenizer(sentencepiece_model(-1)).end is None


def test_name_tells_tokenizers_apart_by_content() -> None:
    made: list[Tokenizer] = [
        BYTES,
        BYTE_PAIRS,
        json_tokenizer(t5_tokenizer()),
        json_tokenizer(learn_byte_pairs(LINES, 290).encode()),
        sentencepiece_tokenizer(sentencepiece_model()),
        sentencepiece_tokenizer(sentencepiece_model(-1)),
    ]
    assert len({tokenizer.name for tokenizer in made}) == len(made)
    for tokenizer in made:
        texts = (LINES[0], "<|endoftext|>", "")
        for text, ids in zip(texts, tokenizer.encode_all(texts), strict=True):
            assert ids.tolist() == tokenizer.encode(text).tolist()
            assert tokenizer.end not in ids


def test_byte_pairs_are_a_function_of_text_and_size() -> None:
    assert learn_byte_pairs(iter(LINES), 300) == learn_byte_pairs(LINES, 300)
    assert BYTE_PAIRS.vocabulary == 300
    assert BYTE_PAIRS.end == 0
    assert len(BYTE_PAIRS.encode(LINES[0])) < len(LINES[0])
    # a text that repeats nothing has no pairs to learn
    assert json_tokenizer(learn_byte_pairs(["abc"], 300).encode()).vocabulary < 262


def test_byte_pairs_are_learned_once_and_kept_as_a_tokenizer_file(tmp_path: Path) -> None:
    made = byte_pair_tokenizer(lambda: LINES, "text", 300, tmp_path, QUIET)
    (path,) = tmp_path.iterdir()
    TokenizersTokenizer.from_file(str(path))
    assert path.name.startswith("byte-pairs-300-")
    assert read_tokenizer(path).name == made.name
    again = byte_pair_tokenizer(lambda: 1 // 0, "text", 300, tmp_path, QUIET)  # type: ignore[arg-type, return-value]
    assert again.name == made.name
    for identity, vocabulary in (("other text", 300), ("text", 290)):
        byte_pair_tokenizer(lambda: LINES, identity, vocabulary, tmp_path, QUIET)
    assert len(list(tmp_path.iterdir())) == 3


def test_two_runs_at_once_learn_the_same(tmp_path: Path) -> None:
    barrier, names = threading.Barrier(2), []

    def texts() -> list[str]:
        barrier.wait(10)
        return LINES

    def learn() -> None:
        names.append(byte_pair_tokenizer(texts, "text", 300, tmp_path, QUIET).name)

    threads = [threading.Thread(target=learn) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 2
    assert names[0] == names[1]
    assert len(list(tmp_path.iterdir())) == 1


def test_byte_pairs_need_room_for_all_bytes() -> None:
    with pytest.raises(InputError, match=r"--vocabulary 256 is too small .* 257 tokens"):
        learn_byte_pairs(LINES, 256)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.json", None, r"absent.json is not a file; --tokenizer takes bytes, bpe, or"),
        ("bytess", None, r"bytess is not a tokenizer's file; --tokenizer takes bytes, bpe, or"),
        ("empty.model", b"", r"empty.model holds no tokenizer: the file is empty"),
        ("nonsense.model", b"nonsense", r"nonsense.model holds no tokenizer: .*; choose another"),
        ("nonsense.json", b"nonsense", r"nonsense.json holds no tokenizer: .*; choose another"),
        ("config.json", b'{"a": 1}', r"config.json holds no tokenizer"),
        ("latin.json", b"\xff", r"latin.json holds no tokenizer"),
    ],
)
def test_what_is_no_tokenizer_is_refused(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_tokenizer(tmp_path / name)


def test_text_that_a_tokenizer_cannot_write_is_refused() -> None:
    model = TokenizersTokenizer(WordLevel({"known": 0}, unk_token="[UNK]"))
    tokenizer = json_tokenizer(model.to_str().encode())
    assert tokenizer.encode("known").tolist() == [0]
    with pytest.raises(InputError, match=r"cannot encode a text: .*token for what is unknown"):
        tokenizer.encode("unknown")


@pytest.mark.parametrize(
    ("given_as", "vocabulary", "message"),
    [
        ("bytes", 255, "tokenizer bytes has 256 tokens, but the model only 255; "),
        ("t5.json", 70, r"t5.json has \d+ tokens, but the model only 70; choose --vocabulary \d+ "),
    ],
)
def test_model_with_too_few_tokens_is_refused(
    source_folder: Path, tmp_path: Path, given_as: str, vocabulary: int, message: str
) -> None:
    (tmp_path / "t5.json").write_bytes(t5_tokenizer())
    tokenizer = given_as if given_as == "bytes" else str(tmp_path / given_as)
    config = CorpusConfig(tokenizer=tokenizer, corpus_root=source_folder, cache=tmp_path)
    with pytest.raises(InputError, match=message):
        load_corpus(config, vocabulary, QUIET)
    assert not list(tmp_path.glob("*.npz"))


@pytest.mark.parametrize("package", ["sentencepiece", "tokenizers"])
def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    read = {
        "sentencepiece": lambda: sentencepiece_tokenizer(b"content"),
        "tokenizers": lambda: learn_byte_pairs(LINES, 300),
    }
    with pytest.raises(InputError, match=rf"{package}.*pip install 'multinorm-optax\[c4\]'"):
        read[package]()
