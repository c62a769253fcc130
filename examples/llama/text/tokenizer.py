"""Tokenizers: from text to ids and back; byte pairs learned on the spot."""

import hashlib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from rich.console import Console

from examples.llama.config import InputError
from examples.llama.run.records import write_atomically

_END_TOKENS = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<|eos|>", "[EOS]")


class Tokenizer(Protocol):
    """Turns text into ids from 0 to `vocabulary` - 1 and back.

    It can be pickled, so that worker processes have it too.
    """

    @property
    def name(self) -> str:
        """Kind, and digest of the file's content: two tokenizers of one name are equal."""

    @property
    def vocabulary(self) -> int:
        """Number of ids. What a model with a larger vocabulary samples must be below it."""

    @property
    def end(self) -> int | None:
        """Id that ends a text, if there is one."""

    def encode(self, text: str) -> np.ndarray:
        """Ids (N,) of the text, without the one that ends it."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids."""


@dataclass(frozen=True)
class ByteTokenizer:
    """Each byte of UTF-8 is a token; the zero byte ends a text."""

    name: ClassVar[str] = "bytes"
    vocabulary: ClassVar[int] = 256
    end: ClassVar[int | None] = 0

    def encode(self, text: str) -> np.ndarray:
        """Return the bytes (N,), as uint8."""
        return np.frombuffer(text.encode(), np.uint8)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text; bytes that are no UTF-8 become replacement characters."""
        return bytes(int(token) for token in ids).decode(errors="replace")


@dataclass(frozen=True, eq=False)
class SentencePieceTokenizer:
    """A SentencePiece model, as T5 and the first LLaMAs have it."""

    name: str
    processor: Any

    @classmethod
    def from_bytes(cls, content: bytes) -> "SentencePieceTokenizer":
        """Read the content of a *.model file.

        Raises:
            ValueError: it is something else.
        """
        # an empty model is read without complaint, and complains on standard error when it is used
        if not content:
            raise ValueError("the file is empty")
        package = import_extra("sentencepiece")
        try:
            processor = package.SentencePieceProcessor(model_proto=content)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        return cls(f"sentencepiece-{_digest(content)}", processor)

    @property
    def vocabulary(self) -> int:
        """Number of pieces."""
        return self.processor.get_piece_size()

    @property
    def end(self) -> int | None:
        """The model's own end of sentence."""
        end = self.processor.eos_id()
        return None if end < 0 else end

    def encode(self, text: str) -> np.ndarray:
        """Return the pieces' ids (N,), as int32."""
        return np.array(self.processor.encode(text), np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text; what the model normalizes away, such as double spaces, is lost."""
        return self.processor.decode([int(token) for token in ids])


@dataclass(frozen=True, eq=False)
class JsonTokenizer:
    """A tokenizer of the tokenizers package. Special tokens are not looked for in a text."""

    name: str
    tokenizer: Any
    content: bytes = field(repr=False)

    @classmethod
    def from_bytes(cls, content: bytes) -> "JsonTokenizer":
        """Read the content of a *.json file; truncation and padding that it asks for are left out.

        Raises:
            ValueError: it is something else.
        """
        package = import_extra("tokenizers")
        try:
            tokenizer = package.Tokenizer.from_str(content.decode())
        except Exception as error:  # the package raises nothing more precise
            raise ValueError(str(error)) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        return cls(f"tokenizers-{_digest(content)}", tokenizer, content)

    def __reduce__(self) -> tuple[Any, ...]:
        return JsonTokenizer.from_bytes, (self.content,)  # the package forgets settings

    @property
    def vocabulary(self) -> int:
        """One more than the largest id."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def end(self) -> int | None:
        """The token with one of the customary names: </s>, <|endoftext|>, ..."""
        ids = (self.tokenizer.token_to_id(name) for name in _END_TOKENS)
        return next((token for token in ids if token is not None), None)

    def encode(self, text: str) -> np.ndarray:
        """Return the ids (N,), as int32."""
        return np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text, without special tokens."""
        return self.tokenizer.decode([int(token) for token in ids])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer's file: *.model by SentencePiece, *.json by the tokenizers package."""
    kinds: dict[str, Callable[[bytes], Tokenizer]] = {
        ".model": SentencePieceTokenizer.from_bytes,
        ".json": JsonTokenizer.from_bytes,
    }
    if path.suffix not in kinds or not path.is_file():
        fault = "is no file" if path.suffix in kinds else "is no tokenizer"
        raise InputError(
            f"{path} {fault}; --tokenizer takes bytes, bpe, or the path of a SentencePiece model "
            f"(*.model) or of a file of the tokenizers package (*.json)"
        )
    try:
        tokenizer = kinds[path.suffix](path.read_bytes())
        empty = tokenizer.vocabulary == 0
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path} holds no tokenizer: {error}; choose another file") from error
    if empty:
        raise InputError(f"{path} holds a tokenizer without tokens; choose another file")
    return tokenizer


def check_vocabulary(tokenizer: Tokenizer, given: str, vocabulary: int) -> None:
    """Check that the model has enough tokens."""
    if tokenizer.vocabulary > vocabulary:
        raise InputError(
            f"the tokenizer {given} has {tokenizer.vocabulary} tokens, but the model only "
            f"{vocabulary}; choose --vocabulary {tokenizer.vocabulary} or more, or another "
            f"--tokenizer"
        )


def smallest_dtype(vocabulary: int) -> type[np.unsignedinteger[Any] | np.signedinteger[Any]]:
    """The smallest of uint8, uint16 and int32 that holds all ids."""
    if vocabulary <= 2**8:
        return np.uint8
    return np.uint16 if vocabulary <= 2**16 else np.int32


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


def byte_pair_tokenizer(
    texts: Callable[[], Iterable[str]],
    identity: str,
    vocabulary: int,
    cache: Path,
    console: Console,
) -> Tokenizer:
    """Read the byte pairs of a text from the cache; learn them first if they are not there.

    Args:
        texts: the text, asked for only if the byte pairs are not in the cache.
        identity: says which text it is.
        vocabulary: the largest number of tokens; a short text has fewer.
        cache: folder to keep the tokenizer in, as a file that `--tokenizer` takes. Its name ends in
            a digest of its content, which reveals a damaged one.
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


def import_extra(package: str) -> Any:
    """Import a package of the extra `c4`."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise InputError(
            f"this needs the package {package}, which is not installed: "
            f"pip install 'multinorm-optax[c4]'"
        ) from error
