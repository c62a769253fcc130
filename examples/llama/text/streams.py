"""Streams of documents: endless, shuffled, and resumable from any position.

A stream's state is its position, a few numbers. From there its documents follow as they would have
without the interruption, because everything random is drawn from the seed and the position.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from examples.llama.config import InputError
from examples.llama.text.documents import Part


class Position(NamedTuple):
    """A position in a stream: in a window of documents, which begins somewhere in an epoch."""

    epoch: int = 0
    """Epochs that are over."""
    window: int = 0
    """Windows of the epoch that are over."""
    part: int = 0
    """Where the window begins: the part's place in the epoch's order."""
    document: int = 0
    """Where the window begins: the document's number in the part."""
    taken: int = 0
    """Documents already taken from the window."""


@dataclass(frozen=True)
class Stream:
    """Endless documents of some parts.

    In each epoch the parts are read one after another, in a new order, and each run of `window`
    documents comes in an order drawn for it: every document once per epoch.
    """

    parts: tuple[Part, ...]
    """What is read."""
    number: int
    """Its number among the streams of a text."""
    seed: int
    """The data seed; together with the number it determines every order."""
    window: int
    """Documents held at a time, among which the order is drawn."""

    def documents(self, position: Position) -> Iterator[tuple[str, Position]]:
        """The documents from a position on, each with the position after it.

        A window that was begun is read again, and its part up to it.
        """
        epoch, window, part, document, taken = position
        while True:
            texts = self._epoch(epoch, part, document)
            while held := list(itertools.islice(texts, self.window)):
                order = self._random(epoch, window).permutation(len(held))
                for taken in range(taken, len(held)):  # noqa: B020 - resumes in the window
                    after = Position(epoch, window, part, document, taken + 1)
                    yield held[order[taken]][0], after
                _, part, document = held[-1]
                window, taken = window + 1, 0
            epoch, window, part, document = epoch + 1, 0, 0, 0

    def _epoch(self, epoch: int, part: int, document: int) -> Iterator[tuple[str, int, int]]:
        """The epoch's documents from a place on, each with the place after it."""
        order = self._random(epoch).permutation(len(self.parts))
        for place in range(part, len(order)):
            start = document if place == part else 0
            texts = self.parts[order[place]].documents(start)
            for number, text in enumerate(texts, start=start + 1):
                yield text, place, number

    def _random(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng(
            np.random.SeedSequence(self.seed, spawn_key=(self.number, *purpose))
        )


def deal(parts: Sequence[Part], streams: int, window: int, seed: int) -> tuple[Stream, ...]:
    """Shuffle the parts and deal them to streams; there are no more streams than parts.

    Where their number is not divisible, some streams get a part less, and come to their next epoch
    earlier.

    Args:
        parts: what all streams together read.
        streams: their number.
        window: documents held at a time by all streams together.
        seed: of every order; not negative.
    """
    for option, value, least in (
        ("--streams", streams, 1),
        ("--shuffle-window", window, 1),
        ("--data-seed", seed, 0),
    ):
        if value < least:
            raise InputError(f"{option} is {value}, but must be at least {least}")
    count = min(streams, len(parts))
    shuffled = np.random.default_rng(np.random.SeedSequence(seed)).permutation(len(parts))
    return tuple(
        Stream(
            parts=tuple(parts[index] for index in shuffled[number::count]),
            number=number,
            seed=seed,
            window=max(1, window // count),
        )
        for number in range(count)
    )
