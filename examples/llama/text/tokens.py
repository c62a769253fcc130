"""Texts that are arrays of token ids, cut into rows of T + 1 tokens and shuffled."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import grain
import numpy as np

from examples.llama.config import DataConfig, InputError
from examples.llama.text.tokenizer import Tokenizer


def cut_rows(tokens: np.ndarray, sequence_length: int) -> np.ndarray:
    """Cut into rows of `sequence_length` + 1 tokens, so that every token but the first is predicted
    once: a row starts with the token that ends the row before. A remainder is left out."""
    if len(tokens) <= sequence_length:
        return np.empty((0, sequence_length + 1), tokens.dtype)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, sequence_length + 1)
    return windows[::sequence_length]


def rows_of(
    arrays: Mapping[str, np.ndarray], sequence_length: int, vocabulary: int
) -> grain.MapDataset:
    """Rows of T + 1 tokens of several arrays, each cut for itself; a row is read when asked for.

    An array shorter than a row has none. The arrays' names are for messages.
    """

    def check(name: str, row: int, tokens: np.ndarray) -> np.ndarray:
        tokens = np.array(tokens)
        if tokens.max() >= vocabulary:
            at = int(np.argmax(tokens >= vocabulary))
            raise InputError(
                f"{name}: token {row * sequence_length + at} has id {tokens[at]}, but the "
                f"vocabulary has only {vocabulary}; they were made with another tokenizer"
            )
        return tokens

    cut = {name: cut_rows(tokens, sequence_length) for name, tokens in arrays.items()}
    each = [
        grain.MapDataset.source(rows).map_with_index(functools.partial(check, name))
        for name, rows in cut.items()
        if len(rows)
    ]
    if not each:
        name, tokens = max(arrays.items(), key=lambda item: len(item[1]))
        raise InputError(
            f"{name}, the longest of {len(arrays)} pieces of text, has {len(tokens)} tokens, too "
            f"few for a row of sequence length {sequence_length}; choose a smaller "
            f"--sequence-length or more text"
        )
    return grain.MapDataset.concatenate(each)


@dataclass(frozen=True, eq=False)
class TokenText:
    """Token ids without a tokenizer: enough to train and to validate."""

    name: str
    """Two texts of one name are equal."""
    train: Mapping[str, np.ndarray]
    """Arrays of ids by the name that messages give them."""
    validation: Mapping[str, np.ndarray]
    vocabulary: int
    """Number of ids."""

    def training_batches(self, config: DataConfig) -> grain.IterDataset:
        """Endless batches (B, T + 1), reshuffled in every epoch; the data seed alone says how."""
        return (
            rows_of(self.train, config.sequence_length, self.vocabulary)
            .seed(config.data_seed)
            .shuffle()
            .repeat()
            .batch(config.batch_size, drop_remainder=True)
            .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4))
        )

    def validation_data(self, config: DataConfig) -> tuple[np.ndarray, float | None]:
        """Rows (R, T + 1), spread evenly over the validation text, whose bytes are not known."""
        rows = rows_of(self.validation, config.sequence_length, self.vocabulary)
        if config.validation_rows > len(rows):
            raise InputError(
                f"the validation text has {len(rows)} rows of sequence length "
                f"{config.sequence_length}, fewer than --validation-rows "
                f"{config.validation_rows}; 0 takes all"
            )
        count = config.validation_rows or len(rows)
        spread = np.arange(count) * len(rows) // count
        return np.stack([rows[index] for index in spread.tolist()]), None


@dataclass(frozen=True, eq=False)
class TokenCorpus(TokenText):
    """Token ids with the tokenizer that made them: a `Corpus`."""

    tokenizer: Tokenizer
    bytes_per_token: float | None = None
    """Bytes of the validation text, divided by its tokens; None has the validation rows decoded."""

    def validation_data(self, config: DataConfig) -> tuple[np.ndarray, float]:
        """The validation rows, and the bytes of text per token.

        Where rows are decoded, a character that a row's end cuts counts as the character that
        stands for a broken one.
        """
        rows, _ = super().validation_data(config)
        if self.bytes_per_token is not None:
            return rows, self.bytes_per_token
        predicted = rows[:, 1:]
        size = sum(len(self.tokenizer.decode(row.tolist()).encode()) for row in predicted)
        if size == 0:
            raise InputError(
                f"the ids of the validation rows stand for no text; look at "
                f"{', '.join(self.validation)}"
            )
        return rows, size / predicted.size
