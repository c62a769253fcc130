"""Tokenizers: from text to ids and back; byte pairs learned on the spot."""

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from examples.llama.config import InputError
from examples.llama.run.files import write_atomically
from examples.llama.run.options import import_optional


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Turns text into ids from 0 to `vocabulary` - 1 and back."""

    name: str
    """Kind, and digest of the file's content: two tokenizers of one name are equal."""
    vocabulary: int
    """Number of ids. What a model with a larger vocabulary samples must be below it."""
    end: int | None
    """Id that ends a text, if there is one."""
    encode_all: Callable[[Sequence[str]], Iterable[np.ndarray]]
    """Ids (N,) of each of several texts, without the one that ends it; packages that can use all
    cores for it."""
    decode: Callable[[Sequence[int]], str]
    """Text of ids."""

    def encode(self, text: str) -> np.ndarray:
        """Ids (N,) of a text, without the one that ends it."""
        (ids,) = self.encode_all([text])
        return ids


BYTES = Tokenizer(
    name="bytes",
    vocabulary=256,
    end=0,
    encode_all=lambda texts: [np.frombuffer(text.encode(), np.uint8) for text in texts],
    decode=lambda ids: bytes(int(token) for token in ids).decode(errors="replace"),
)
"""Each byte of UTF-8 is a token; the zero byte ends a text."""


def sentencepiece_tokenizer(content: bytes) -> Tokenizer:
    """A SentencePiece model, as T5 and the first LLaMAs have it, from the content of its file.

    What the model normalizes away, such as double spaces, is lost.

    Raises:
        ValueError: it is something else.
    """
    # an empty model is read without complaint, and complains on standard error when it is used
    if not content:
        raise ValueError("the file is empty")
    package = import_extra("sentencepiece")
    try:
        model = package.SentencePieceProcessor(model_proto=content)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return Tokenizer(
        name=f"sentencepiece-{_digest(content)}",
        vocabulary=model.get_piece_size(),
        end=None if model.eos_id() < 0 else model.eos_id(),
        encode_all=lambda texts: [np.array(ids, np.int32) for ids in model.encode(list(texts))],
        decode=lambda ids: model.decode([int(token) for token in ids]),
    )


_END_TOKENS = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<|eos|>", "[EOS]")


def json_tokenizer(content: bytes) -> Tokenizer:
    """A tokenizer of the tokenizers package, from the content of its file.

    Truncation and padding that it asks for are left out. Special tokens are not looked for in a
    text; the first that has one of the customary names ends it.

    Raises:
        ValueError: it is something else.
    """
    package = import_extra("tokenizers")
    try:
        model = package.Tokenizer.from_str(content.decode())
    except Exception as error:  # the package raises nothing more precise
        raise ValueError(str(error)) from error
    model.no_truncation()
    model.no_padding()
    model.encode_special_tokens = True
    ends = (model.token_to_id(name) for name in _END_TOKENS)

    def encode_all(texts: Sequence[str]) -> list[np.ndarray]:
        try:
            found = model.encode_batch(list(texts), add_special_tokens=False)
        except Exception as error:  # the package raises nothing more precise
            raise InputError(
                f"the tokenizer cannot encode a text: {error}; choose one that encodes any text, "
                f"with a token for what is unknown for example"
            ) from error
        return [np.array(one.ids, np.int32) for one in found]

    return Tokenizer(
        name=f"tokenizers-{_digest(content)}",
        vocabulary=max(model.get_vocab(with_added_tokens=True).values(), default=-1) + 1,
        end=next((token for token in ends if token is not None), None),
        encode_all=encode_all,
        decode=lambda ids: model.decode([int(token) for token in ids]),
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer's file: *.model by SentencePiece, *.json by the tokenizers package."""
    kinds = {".model": sentencepiece_tokenizer, ".json": json_tokenizer}
    if path.suffix not in kinds or not path.is_file():
        fault = "is not a file" if path.suffix in kinds else "is not a tokenizer's file"
        raise InputError(
            f"{path} {fault}; --tokenizer takes bytes, bpe, or the path of a SentencePiece model "
            f"(*.model) or of a file of the tokenizers package (*.json)"
        )
    try:
        tokenizer = kinds[path.suffix](path.read_bytes())
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path} holds no tokenizer: {error}; choose another file") from error
    if tokenizer.vocabulary == 0:
        raise InputError(f"{path} holds a tokenizer without tokens; choose another file")
    return tokenizer


END = "<|endoftext|>"
"""The token that ends a text; it has id 0."""


def learn_byte_pairs(texts: Iterable[str], vocabulary: int) -> str:
    """Learn byte pairs from texts; return the tokenizer as JSON.

    It is a function of the texts and the vocabulary alone, has a token for each byte, and therefore
    takes any text to ids and back without loss.
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


TEXTS_FOR_BYTE_PAIRS = 50_000
"""Byte pairs are learned from at most that many documents or files, the first of the text."""


def byte_pair_tokenizer(
    texts: Callable[[], Iterable[str]],
    name: str,
    vocabulary: int,
    cache: Path,
    console: Console,
) -> Tokenizer:
    """Read the byte pairs of a text from the cache; learn them first if they are not there.

    Args:
        texts: the text, asked for only if the byte pairs are not in the cache.
        name: says which text it is.
        vocabulary: the largest number of tokens; a short text has fewer.
        cache: folder to keep the tokenizer in, as a file that `--tokenizer` takes. Its name ends in
            a digest of its content, which reveals a damaged one.
        console: told when they are learned.
    """
    identity = _digest(f"{name} {TEXTS_FOR_BYTE_PAIRS}".encode())
    kept = f"byte-pairs-{vocabulary}-{identity}"
    for path in sorted(cache.glob(f"{kept}-*.json")):
        if path.name == f"{kept}-{_digest(path.read_bytes())}.json":
            return read_tokenizer(path)
        console.print(f"{path} is damaged: learning the byte pairs again", soft_wrap=True)
    some = itertools.islice(texts(), TEXTS_FOR_BYTE_PAIRS)
    console.print(
        f"Learning {vocabulary} byte pairs from the training text (once; kept in {cache})",
        soft_wrap=True,
    )
    content = learn_byte_pairs(some, vocabulary).encode()
    path = cache / f"{kept}-{_digest(content)}.json"
    write_atomically(path, lambda file: file.write(content))
    return read_tokenizer(path)


def kept_byte_pairs(cache: Path, name: str) -> Path | None:
    """The file in the cache with the byte pairs of the tokenizer of this name, if it is there."""
    return next(cache.glob(f"byte-pairs-*-{name.rpartition('-')[2]}.json"), None)


import_extra = functools.partial(import_optional, install="'multinorm-optax[c4]'")
"""Import a package of the extra `c4`."""
