"""What the trainer trains on: a text with a tokenizer, as rows of token ids.

The text is the Python standard library's source or token shards, cut into rows of T + 1 tokens, or
C4 with one document per row of T tokens, padded with `examples.llama.text.documents.PADDING`. In
all of them a row of S tokens predicts S - 1, except padding.
"""

import os
from pathlib import Path

from rich.console import Console

from examples.llama.config import CorpusConfig, InputError
from examples.llama.text.c4 import folder_documents, hub_documents
from examples.llama.text.documents import DocumentCorpus, Documents
from examples.llama.text.python_source import PythonSource, python_source
from examples.llama.text.shards import shard_files, shard_tokens
from examples.llama.text.tokenizer import BYTES, byte_pair_tokenizer, read_tokenizer
from examples.llama.text.tokens import TokenCorpus

Corpus = DocumentCorpus | TokenCorpus
"""A text with a tokenizer; two of one name give the same rows for the same `DataConfig`.

Its training batches (B, S) are endless, in an order that the data seed determines. An iterator over
them has `get_state` and `set_state` with a small state that JSON can hold. With its validation rows
(R, S) come the text's bytes of UTF-8 per token, by which a loss per token becomes one per byte that
can be compared across tokenizers: bits per byte = loss in nats / log(2) / bytes per token.
"""


def _text(config: CorpusConfig) -> PythonSource | Documents | None:
    """The text without a tokenizer; None for token shards, which are ids without a text."""
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
    return None if shards else folder_documents(folder)


def cache_folder(config: CorpusConfig) -> Path:
    """The folder for tokens and byte pairs; it begins with ~ if there is no home folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return config.cache or Path(home) / "multinorm_optax"


def load_corpus(config: CorpusConfig, vocabulary: int, console: Console) -> Corpus:
    """Find the text, make or read the tokenizer, and put both together.

    Args:
        config: text and tokenizer.
        vocabulary: number of tokens of the model, which the tokenizer must not exceed; with byte
            pairs, the number to learn.
        console: told about what takes time.
    """
    config = config.absolute()
    text, cache = _text(config), cache_folder(config)
    if str(cache).startswith("~") and config.tokenizer != "bytes":
        raise InputError("there is no home folder for the cache; choose one with --cache")
    if config.tokenizer not in ("bytes", "bpe"):
        tokenizer = read_tokenizer(Path(config.tokenizer))
    elif text is None:
        raise InputError(
            f"{config.text} has token shards, which are ids without a text; give the file of the "
            f"tokenizer that made them, --tokenizer FILE.json or FILE.model"
        )
    elif config.tokenizer == "bytes":
        tokenizer = BYTES
    else:
        tokenizer = byte_pair_tokenizer(text.training_texts, text.name, vocabulary, cache, console)
    if tokenizer.vocabulary > vocabulary:
        raise InputError(
            f"the tokenizer {config.tokenizer} has {tokenizer.vocabulary} tokens, but the model "
            f"only {vocabulary}; choose --vocabulary {tokenizer.vocabulary} or more, or another "
            f"--tokenizer"
        )
    if text is None:
        tokens = shard_tokens(Path(config.text), tokenizer.vocabulary)
        return TokenCorpus(**vars(tokens), tokenizer=tokenizer)
    if isinstance(text, Documents):
        return DocumentCorpus(text, tokenizer)
    return text.tokenized(tokenizer, cache, console)
