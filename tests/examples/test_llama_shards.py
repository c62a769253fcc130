"""Token shards: what is read, and what is refused."""

import dataclasses
import io
import os
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from examples.llama.config import CorpusConfig, DataConfig, InputError
from examples.llama.text.corpus import load_corpus
from examples.llama.text.shards import (
    MAGIC,
    VERSION,
    open_shard,
    shard_tokens,
)
from examples.llama.text.tokenizer import BYTES
from examples.llama.text.tokens import TokenCorpus, rows_of
from examples.measure.study.plan import CELLS
from examples.measure.study.points import Rates
from examples.measure.study.runs import Trial
from examples.measure.study.training import Trainer

DATA = DataConfig(batch_size=2, sequence_length=8, validation_rows=3)
VOCABULARY = 500


def write_shard(path: Path, tokens: np.ndarray, *, magic: int = MAGIC, count: int | None = None):
    header = np.zeros(256, "<i4")
    header[:3] = magic, VERSION, len(tokens) if count is None else count
    path.write_bytes(header.tobytes() + tokens.astype("<u2").tobytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name, size in (("train_000000", 90), ("train_000001", 50), ("val_000000", 60)):
        write_shard(tmp_path / f"a_{name}.bin", generator.integers(VOCABULARY, size=size))
    return tmp_path


def tokens_of(path: Path) -> np.ndarray:
    return np.frombuffer(path.read_bytes()[1024:], "<u2")


def test_rows_are_those_of_the_shards_in_turn(folder: Path) -> None:
    rows = rows_of(shard_tokens(folder, VOCABULARY).train, 8, VOCABULARY)
    first, second = map(tokens_of, sorted(folder.glob("*train*")))
    assert len(rows) == 11 + 6
    np.testing.assert_array_equal(rows[1], first[8:17])
    np.testing.assert_array_equal(rows[10], first[80:89])
    np.testing.assert_array_equal(rows[11], second[:9])
    np.testing.assert_array_equal(rows[16], second[40:49])


def test_tokens_are_mapped_not_read(folder: Path) -> None:
    assert isinstance(open_shard(folder / "a_val_000000.bin"), np.memmap)


def test_batches_hold_every_row_once_in_an_epoch(folder: Path) -> None:
    tokens = shard_tokens(folder, VOCABULARY)
    batches = iter(tokens.training_batches(DATA))
    found = np.concatenate([next(batches) for _ in range(8)])
    rows = [tuple(row) for row in rows_of(tokens.train, 8, VOCABULARY)]
    assert len({tuple(row) for row in found}) == 16
    assert {tuple(row) for row in found} < set(rows)


def test_validation_rows_are_spread_evenly(folder: Path) -> None:
    tokens = tokens_of(folder / "a_val_000000.bin")
    rows = shard_tokens(folder, VOCABULARY).validation_data(DATA)[0]
    np.testing.assert_array_equal(rows, [tokens[8 * k : 8 * k + 9] for k in (0, 2, 4)])


def test_name_follows_from_the_content(folder: Path) -> None:
    name = shard_tokens(folder, VOCABULARY).name
    assert shard_tokens(folder, VOCABULARY).name == name
    tokens = tokens_of(folder / "a_val_000000.bin").copy()
    tokens[-1] += 1
    write_shard(folder / "a_val_000000.bin", tokens)
    assert shard_tokens(folder, VOCABULARY).name != name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(b"short"), "has 5 bytes, fewer than the header"),
        (
            lambda path: write_shard(path, np.arange(60), magic=1),
            "begins with 1, 1, a token shard with 20240520, 1",
        ),
        (
            lambda path: write_shard(path, np.arange(60), count=61),
            "has 1144 bytes, but its header says 61 tokens, which are 1146 bytes",
        ),
        (lambda path: path.unlink(), r"has 2 files \*_train_\*.bin and 0 \*_val_\*.bin"),
    ],
)
def test_damage_is_named(folder: Path, change, message: str) -> None:
    change(folder / "a_val_000000.bin")
    with pytest.raises(InputError, match=message):
        shard_tokens(folder, VOCABULARY)


def test_token_beyond_the_vocabulary_is_named(folder: Path) -> None:
    tokens = tokens_of(folder / "a_val_000000.bin").copy()
    tokens[36] = 777
    write_shard(folder / "a_val_000000.bin", tokens)
    with pytest.raises(InputError, match=r"val_000000.bin: token 36 has id 777.* only 500; they"):
        shard_tokens(folder, VOCABULARY).validation_data(DATA)[0]
    tokens = tokens_of(folder / "a_train_000001.bin").copy()
    tokens[:] = 60_000
    write_shard(folder / "a_train_000001.bin", tokens)
    batches = iter(shard_tokens(folder, VOCABULARY).training_batches(DATA))
    with pytest.raises(InputError, match=r"train_000001.bin: token \d+ has id 60000"):
        [next(batches) for _ in range(8)]


def test_shards_of_one_split_are_not_enough(folder: Path) -> None:
    for path in folder.glob("*_train_*.bin"):
        path.unlink()
    tokenizers = pytest.importorskip("tokenizers")
    path = folder / "tokenizer.json"
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"w": 0}, unk_token="w")).save(str(path))
    config = CorpusConfig(text=str(folder), tokenizer=str(path), cache=folder)
    with pytest.raises(InputError, match=r"has 0 files \*_train_\*.bin and 1 \*_val_\*.bin"):
        load_corpus(config, 512, Console(file=io.StringIO()))


def test_shard_of_both_splits_is_refused(folder: Path) -> None:
    (folder / "a_val_000000.bin").rename(folder / "a_train_val_0.bin")
    with pytest.raises(InputError, match=r"a_train_val_0\.bin is of both splits by its name"):
        shard_tokens(folder, VOCABULARY)


def test_pipe_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "b_val_000000.bin")
    with pytest.raises(InputError, match=r"b_val_000000\.bin is a pipe, not a file"):
        shard_tokens(folder, VOCABULARY)


def test_validation_ids_without_text_are_refused(folder: Path) -> None:
    write_shard(folder / "a_val_000000.bin", np.zeros(60, int))
    found = shard_tokens(folder, VOCABULARY)
    silent = dataclasses.replace(BYTES, decode=lambda ids: "")
    with pytest.raises(InputError, match=r"stand for no text; look at .*a_val_000000\.bin"):
        TokenCorpus(**vars(found), tokenizer=silent).validation_data(DATA)


def test_trainer_needs_the_tokenizer(folder: Path) -> None:
    console = Console(file=io.StringIO())
    for tokenizer in ("bytes", "bpe"):
        config = CorpusConfig(text=str(folder), tokenizer=tokenizer, cache=folder)
        with pytest.raises(InputError, match="give the file of the tokenizer that made them"):
            load_corpus(config, 512, console)


def test_trainer_knows_the_bytes_of_a_token(folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    config = CorpusConfig(text=str(folder), tokenizer=str(path), cache=folder)
    corpus = load_corpus(config, VOCABULARY, Console(file=io.StringIO()))
    assert isinstance(corpus, TokenCorpus)
    rows = corpus.validation_data(DATA)[0][:, 1:]
    text = [" ".join(f"w{token}" for token in row) for row in rows.tolist()]
    assert corpus.validation_data(DATA)[1] == sum(map(len, text)) / rows.size


def test_study_trains_on_shards(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name, size in (("train", 3000), ("val", 1500)):
        write_shard(tmp_path / f"a_{name}_0.bin", generator.integers(32_000, size=size))
    cell = CELLS["60m-rehearsal"]
    tokens = shard_tokens(tmp_path, cell.setup.model.vocabulary)
    trainer = Trainer(cell, "sinkgd-2", tokens)
    losses = [
        trainer.run(Trial("60m-rehearsal", "sinkgd-2", 0, 0, Rates(1e-3, 1e-2), seed, 8), 0).loss
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]
    assert losses[0] == pytest.approx(np.log(32_000), abs=0.5)
