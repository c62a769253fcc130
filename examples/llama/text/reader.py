"""Reading documents ahead of the training, in chunks of rows, by a thread or by processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from examples.llama.config import InputError
from examples.llama.text.data import document_tokens
from examples.llama.text.streams import Position, Stream
from examples.llama.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class RowMaker:
    """Makes rows of documents."""

    tokenizer: Tokenizer
    sequence_length: int

    def row(self, tokens: np.ndarray) -> np.ndarray:
        """The row of a document with these tokens, without padding."""
        return document_tokens(tokens, self.tokenizer.end, self.sequence_length)

    def rows(self, stream: Stream, position: Position) -> Iterator[tuple[np.ndarray, Position]]:
        """The rows of a stream from a position on, each with the position after it.

        Documents whose row has fewer than two tokens are left out: nothing could be predicted.

        Raises:
            InputError: a whole epoch has no row, or a document cannot be read.
        """
        last = position.epoch
        for text, after in stream.documents(position):
            row = self.row(self.tokenizer.encode(text))
            if len(row) >= 2:
                last = after.epoch
                yield row, after
            elif after.epoch > last + 1:
                raise InputError(
                    f"no document has two tokens or more in {', '.join(map(str, stream.parts))}; "
                    f"choose another --text"
                )


@dataclass(frozen=True)
class Row:
    """A document as a row."""

    stream: int
    """Number of its stream."""
    after: Position
    """Where the stream goes on after it."""
    tokens: np.ndarray
    """Its tokens, without padding."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a reader; opaque to grain, which takes lists apart."""

    rows: list[Row | InputError]


class Reader(grain.IterDataset):
    """Chunks of rows from some streams in turn; grain gives each process a slice of them."""

    def __init__(
        self, maker: RowMaker, streams: Sequence[tuple[Stream, Position]], chunk_size: int
    ):
        super().__init__()
        self._maker, self._streams, self._chunk_size = maker, streams, chunk_size

    def set_slice(self, sl: slice, sequential_slice: bool = False) -> None:
        """Keep some of the streams; grain asks for it in each process."""
        self._streams = self._streams[sl]

    def __iter__(self) -> "_ReaderIterator":
        return _ReaderIterator(self._maker, self._streams, self._chunk_size)


class _ReaderIterator(grain.DatasetIterator):
    def __init__(
        self, maker: RowMaker, streams: Sequence[tuple[Stream, Position]], chunk_size: int
    ):
        super().__init__()
        self._numbers = [stream.number for stream, _ in streams]
        self._rows = [maker.rows(stream, position) for stream, position in streams]
        self._chunk_size, self._turn = chunk_size, 0
        self._error: InputError | None = None

    def __next__(self) -> Chunk:
        return Chunk([self._next_row() for _ in range(self._chunk_size)])

    def _next_row(self) -> Row | InputError:
        """The next row, or what went wrong, again and again.

        An error is returned and not raised, because grain does not hand over what a process raises
        unchanged, nor after the rows that came before it.
        """
        if self._error is None:
            turn, self._turn = self._turn, (self._turn + 1) % len(self._rows)
            try:
                tokens, after = next(self._rows[turn])
                return Row(self._numbers[turn], after, tokens)
            except InputError as error:
                self._error = error
        return InputError(*self._error.args)

    def get_state(self) -> dict[str, Any]:
        """Nothing: the rows bring their positions along."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing: a reader is made for its positions."""


def prepare_process(number: int, count: int) -> None:
    """Leave signals to the training process, which stops this one; end if it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    training = multiprocessing.parent_process()

    def end_with_training() -> None:
        assert training is not None
        training.join()
        os._exit(1)

    threading.Thread(target=end_with_training, daemon=True).start()
