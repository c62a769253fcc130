"""What the trainer trains on: a text with a tokenizer, as rows of token ids.

The text is the Python standard library's source or token shards, cut into rows of T + 1 tokens, or
C4 with one document per row of T tokens, padded with `examples.llama.text.documents.PADDING`. In
all of them a row of S tokens predicts S - 1, except padding.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import grain
import numpy as np
from rich.console import Console

from examples.llama.config import CorpusConfig, DataConfig, InputError
from examples.llama.text.c4 import folder_documents, hub_documents
from examples.llama.text.python_source import python_source
from examples.llama.text.shards import ShardText, shard_files
from examples.llama.text.tokenizer import BYTES, Tokenizer, byte_pair_tokenizer, read_tokenizer


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

    def validation_data(self, config: DataConfig) -> tuple[np.ndarray, float]:
        """The fixed validation rows (R, S), and the text's bytes of UTF-8 per token.

        With these a loss per token becomes one per byte, which can be compared across tokenizers:
        bits per byte = loss in nats / log(2) / bytes per token.
        """


class Text(Protocol):
    """A text without a tokenizer."""

    @property
    def name(self) -> str:
        """Says which text it is."""

    def training_texts(self) -> Iterator[str]:
        """The training part, from which byte pairs can be learned."""

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
        return hub_documents()
    folder = Path(config.text)
    shards = shard_files(folder, "train") + shard_files(folder, "val")
    return ShardText(folder) if shards else folder_documents(folder)


def load_corpus(config: CorpusConfig, vocabulary: int, console: Console) -> Corpus:
    """Find the text, make or read the tokenizer, and put both together.

    Args:
        config: text and tokenizer.
        vocabulary: number of tokens of the model, which the tokenizer must not exceed; with byte
            pairs, the number to learn.
        console: told about what takes time.
    """
    config = config.absolute()
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if home.startswith("~") and not config.cache and config.tokenizer != "bytes":
        raise InputError("there is no home folder for the cache; choose one with --cache")
    text, cache = _text(config), config.cache or Path(home) / "multinorm_optax"
    if config.tokenizer == "bytes":
        tokenizer = BYTES
    elif config.tokenizer == "bpe":
        tokenizer = byte_pair_tokenizer(text.training_texts, text.name, vocabulary, cache, console)
    else:
        tokenizer = read_tokenizer(Path(config.tokenizer))
    if tokenizer.vocabulary > vocabulary:
        raise InputError(
            f"the tokenizer {config.tokenizer} has {tokenizer.vocabulary} tokens, but the model "
            f"only {vocabulary}; choose --vocabulary {tokenizer.vocabulary} or more, or another "
            f"--tokenizer"
        )
    return text.tokenized(tokenizer, cache, console)
