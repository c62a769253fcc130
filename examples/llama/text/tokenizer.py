"""Tokenizers: from text to ids and back."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from examples.llama.config import InputError
from examples.llama.text.extras import import_extra

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
    """Read a tokenizer's file: *.model by SentencePiece, *.json by the tokenizers package.

    Raises:
        InputError: there is no such file, or it holds no tokenizer.
    """
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
    """Check that a model of so many tokens has them all.

    Raises:
        InputError: the tokenizer, which was `given` by this name or path, has more.
    """
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
