"""Byte pairs learned on the spot: a tokenizer for text that comes without one."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console

from examples.llama.config import InputError
from examples.llama.records import write_atomically
from examples.llama.text.extras import import_extra
from examples.llama.text.tokenizer import Tokenizer, read_tokenizer

END = "<|endoftext|>"
"""The token that ends a text; it has id 0."""


def learn_byte_pairs(texts: Iterable[str], vocabulary: int) -> str:
    """Learn byte pairs from texts; return the tokenizer as JSON.

    It is a function of the texts and the vocabulary alone, has a token for each byte, and therefore
    takes any text to ids and back without loss.

    Raises:
        InputError: the vocabulary has no room for all bytes and `END`.
    """
    if vocabulary < 257:
        raise InputError(
            f"--vocabulary {vocabulary} is too small for byte pairs: 256 bytes and the end of a "
            f"text are 257 tokens; choose for example --vocabulary 4096, or --tokenizer bytes"
        )
    package = import_extra("tokenizers")
    tokenizer = package.Tokenizer(package.models.BPE())
    tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = package.decoders.ByteLevel()
    trainer = package.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(package.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()


def byte_pair_tokenizer(
    texts: Callable[[], Iterable[str]],
    identity: str,
    vocabulary: int,
    cache: Path,
    console: Console,
) -> Tokenizer:
    """Read the byte pairs of a text from the cache; learn them first if need be.

    Args:
        texts: the text, asked for only if the byte pairs are not in the cache.
        identity: says which text it is.
        vocabulary: the largest number of tokens; a short text has fewer.
        cache: folder to keep the tokenizer in, as a file that `--tokenizer` takes. Its name ends in
            a digest of its content, by which a damaged one is recognized.
        console: told when they are learned.
    """
    kept = f"byte-pairs-{vocabulary}-{_digest(identity.encode())}"
    for path in sorted(cache.glob(f"{kept}-*.json")):
        if path.name == f"{kept}-{_digest(path.read_bytes())}.json":
            return read_tokenizer(path)
        console.print(f"{path} is damaged: learning the byte pairs again", soft_wrap=True)
    console.print(
        f"Learning {vocabulary} byte pairs from the training text (once; kept in {cache})",
        soft_wrap=True,
    )
    content = learn_byte_pairs(texts(), vocabulary).encode()
    path = cache / f"{kept}-{_digest(content)}.json"
    write_atomically(path, lambda file: file.write(content))
    return read_tokenizer(path)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
