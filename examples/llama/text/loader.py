"""Batches of documents, read ahead of the training by a thread or by processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from absl import flags

from examples.llama.config import InputError
from examples.llama.text.data import document_tokens, pad_rows
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
    """The stream's position after it."""
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


_CHUNKS_AHEAD = 2
"""Chunks that each reader keeps ready; as many rows as two batches over all readers."""


class DocumentBatches(grain.IterDataset):
    """Endless batches (B, S) of documents, int32 with padding; each row one document.

    Its iterators can be saved in a checkpoint: their state is where each stream is, a few numbers
    per stream. It does not depend on the number of workers either.
    """

    def __init__(self, maker: RowMaker, streams: tuple[Stream, ...], batch_size: int, workers: int):
        """Check the workers.

        Args:
            maker: makes the rows.
            streams: what is read.
            batch_size: rows of a batch.
            workers: processes that read, a divisor of the number of streams; 0 for a thread.
        """
        super().__init__()
        divisors = [n for n in range(1, len(streams) + 1) if len(streams) % n == 0]
        if workers != 0 and workers not in divisors:
            raise InputError(
                f"--workers {workers} cannot share {len(streams)} streams of documents equally; "
                f"choose one of 0, {', '.join(map(str, divisors))} (there are as many streams as "
                f"--streams says, but not more than files)"
            )
        self.maker, self.streams = maker, streams
        self.batch_size, self.workers = batch_size, workers

    def __iter__(self) -> "_BatchIterator":
        return _BatchIterator(self)

    def rows(
        self, positions: Sequence[Position], turn: int
    ) -> Generator[Row | InputError, None, None]:
        """The rows from each stream's position on, starting with stream `turn`."""
        placed = list(zip(self.streams, positions, strict=True))
        readers = max(1, self.workers)
        reader = Reader(self.maker, placed[turn:] + placed[:turn], -(-self.batch_size // readers))
        chunks: Any
        if self.workers:
            if not flags.FLAGS.is_parsed():  # grain 0.2.18 reads a flag of its own without a check
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(self.workers, _CHUNKS_AHEAD)
            chunks = iter(reader.mp_prefetch(options, worker_init_fn=prepare_process))
        else:
            ahead = grain.experimental.ThreadPrefetchIterDataset(
                reader, prefetch_buffer_size=_CHUNKS_AHEAD
            )
            chunks = iter(ahead)
        try:
            while True:
                for rows in zip(*(next(chunks).rows for _ in range(readers)), strict=True):
                    yield from rows
        finally:
            if hasattr(chunks, "close"):  # not in the oldest grain, where the last reference counts
                chunks.close()


class _BatchIterator(grain.DatasetIterator):
    def __init__(self, batches: DocumentBatches):
        super().__init__()
        self._batches = batches
        self._positions, self._turn = [Position()] * len(batches.streams), 0
        self._rows: Generator[Row | InputError, None, None] | None = None
        self._closed = False

    def __next__(self) -> np.ndarray:
        if self._closed:
            raise ValueError("the batches are closed; make a new iterator")
        if self._rows is None:
            self._rows = self._batches.rows(tuple(self._positions), self._turn)
        rows: list[Row] = []
        while len(rows) < self._batches.batch_size:
            row = next(self._rows)
            if isinstance(row, InputError):
                self.close()
                raise row
            rows.append(row)
        for row in rows:
            self._positions[row.stream] = row.after
        self._turn = (rows[-1].stream + 1) % len(self._positions)
        return pad_rows([row.tokens for row in rows], self._batches.maker.sequence_length)

    def get_state(self) -> dict[str, Any]:
        """Where each stream is, and whose turn it is."""
        return {"turn": self._turn, "positions": [list(place) for place in self._positions]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there with the next batch."""
        self._stop()
        self._turn = state["turn"]
        self._positions = [Position(*place) for place in state["positions"]]

    def close(self) -> None:
        """Stop reading ahead, and end the processes."""
        self._closed = True
        self._stop()

    def _stop(self) -> None:
        if self._rows is not None:
            self._rows.close()
            self._rows = None
