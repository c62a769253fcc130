"""What the trainer trains on: a text with a tokenizer, as rows of token ids.

The text is the Python standard library's source, cut into rows of T + 1 tokens, or C4 with one
document per row of T tokens, padded with `examples.llama.text.data.PADDING`, or token shards, cut
into rows of T + 1 tokens. In all of them a row of S tokens predicts S - 1, except padding.
"""

import os
from pathlib import Path
from typing import Protocol

import grain
import numpy as np
from rich.console import Console

from examples.llama.config import CorpusConfig, DataConfig, InputError
from examples.llama.text.c4 import folder_documents, hub_documents
from examples.llama.text.documents import HubDataset
from examples.llama.text.shards import ShardText, shard_files
from examples.llama.text.stdlib_text import python_source
from examples.llama.text.tokenizer import ByteTokenizer, Tokenizer, check_vocabulary, read_tokenizer


class Corpus(Protocol):
    """A text with a tokenizer."""

    @property
    def name(self) -> str:
        """Two corpora of one name give the same rows for the same `DataConfig`."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What the token ids mean."""

    def training_batches(self, config: DataConfig) -> grain.IterDataset:
        """Endless batches (B, S) of token ids, in an order that the data seed determines.

        An iterator over them has `get_state` and `set_state` with a small state that JSON can hold.
        """

    def validation_rows(self, config: DataConfig) -> np.ndarray:
        """The fixed validation rows (R, S)."""

    def validation_bytes_per_token(self, config: DataConfig) -> float:
        """Bytes of UTF-8 in the validation text, divided by its tokens.

        With it a loss per token becomes one per byte, which can be compared across tokenizers:
        bits per byte = loss in nats / log(2) / bytes per token.
        """


class Text(Protocol):
    """A text without a tokenizer."""

    def byte_pairs(self, vocabulary: int, cache: Path, console: Console) -> Tokenizer:
        """Byte pairs learned from its training part."""

    def tokenized(self, tokenizer: Tokenizer, cache: Path, console: Console) -> Corpus:
        """The text as token ids."""


def _text(config: CorpusConfig) -> Text:
    if config.text == "python":
        return python_source(config.corpus_root)
    if config.corpus_root is not None:
        raise InputError(
            f"--corpus-root {config.corpus_root} is only for --text python; for a folder with C4's "
            f"files or token shards use --text FOLDER"
        )
    if config.text == "hub":
        return hub_documents(HubDataset())
    folder = Path(config.text).expanduser()
    return ShardText(folder) if shard_files(folder, "train") else folder_documents(folder)


def _cache_folder(config: CorpusConfig) -> Path:
    if config.cache is not None:
        return config.cache
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multinorm_optax"


def load_corpus(config: CorpusConfig, vocabulary: int, console: Console) -> Corpus:
    """Find the text, make or read the tokenizer, and put both together.

    Args:
        config: text and tokenizer.
        vocabulary: number of tokens of the model, which the tokenizer must not exceed; with byte
            pairs, the number to learn.
        console: told about what takes time.
    """
    text, cache = _text(config), _cache_folder(config)
    if config.tokenizer == "bytes":
        tokenizer: Tokenizer = ByteTokenizer()
    elif config.tokenizer == "bpe":
        tokenizer = text.byte_pairs(vocabulary, cache, console)
    else:
        tokenizer = read_tokenizer(Path(config.tokenizer).expanduser())
    check_vocabulary(tokenizer, config.tokenizer, vocabulary)
    return text.tokenized(tokenizer, cache, console)
