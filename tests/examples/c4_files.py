"""Small files in C4's format, and small tokenizers, made on the spot."""

import functools
import gzip
import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from examples.llama.config import DataConfig
from examples.llama.text.c4 import folder_documents
from examples.llama.text.documents import PADDING, DocumentCorpus
from examples.llama.text.tokenizer import BYTES


def documents(split: str, file: int, count: int) -> list[str]:
    """Texts of which no two are equal and most have another length."""
    return [f"{split} {file} {number}" + " word" * (number % 7) for number in range(count)]


def write_file(path: Path, texts: Sequence[str]) -> None:
    """Write a file of C4."""
    with gzip.open(path, "wt") as file:
        for number, text in enumerate(texts):
            record = {
                "text": text,
                "timestamp": "2019-04-25T12:57:54Z",
                "url": f"https://example.org/{number}",
            }
            file.write(json.dumps(record) + "\n")


def write_c4(folder: Path, train: Sequence[int], validation: Sequence[int]) -> Path:
    """Write files with so many documents each; return the folder."""
    folder.mkdir(exist_ok=True)
    for split, counts in (("train", train), ("validation", validation)):
        for file, count in enumerate(counts):
            name = f"c4-{split}.{file:05d}-of-{len(counts):05d}.json.gz"
            write_file(folder / name, documents(split, file, count))
    return folder


LINES = [f"The brown fox number {n} jumps over {n * n} lazy dogs, says Zoë." for n in range(300)]


@functools.cache
def sentencepiece_model(eos_id: int = 2) -> bytes:
    """A SentencePiece model with or (-1) without an end of sentence."""
    import sentencepiece

    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=content,
        vocab_size=90,
        eos_id=eos_id,
        minloglevel=2,
    )
    return content.getvalue()


@functools.cache
def t5_tokenizer() -> bytes:
    """A tokenizers file that is built as T5's: pieces, and </s> after each text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        LINES,
        trainers.UnigramTrainer(
            vocab_size=80,
            special_tokens=["<pad>", "</s>", "<unk>"],
            unk_token="<unk>",
            show_progress=False,
        ),
    )
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    # a file may ask for what must not happen to the text of a corpus
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=100)
    return tokenizer.to_str().encode()


LENGTH = 48
FILES, EACH = 4, 25
TRAINING = [text for file in range(FILES) for text in documents("train", file, EACH)]


def make_config(**options: Any) -> DataConfig:
    """Rows of 48 bytes."""
    return DataConfig(
        **{
            "batch_size": 5,
            "sequence_length": LENGTH,
            "shuffle_window": 16,
            "validation_rows": 10,
            **options,
        }
    )


def corpus_of(folder: Path) -> DocumentCorpus:
    """The folder's documents as bytes."""
    return DocumentCorpus(folder_documents(folder), BYTES)


def text_of(row: np.ndarray) -> str:
    """The document of a row of bytes that was not cut."""
    assert row[row != PADDING][-1] == BYTES.end
    return BYTES.decode(row[row != PADDING][:-1])


def texts(corpus: DocumentCorpus, count: int, **options: Any) -> list[str]:
    """The first documents that are trained on."""
    config = make_config(**options)
    batches = iter(corpus.training_batches(config))
    rows = np.concatenate(list(itertools.islice(batches, -(-count // config.batch_size))))[:count]
    batches.close()
    return [text_of(row) for row in rows]
