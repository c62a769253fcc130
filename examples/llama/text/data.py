"""From tokens to rows and batches.

A row is a row of token ids. Where a text is contiguous, rows are cut from it; where it comes as
documents, each gets its own row, filled up with `PADDING`.
"""

from collections.abc import Sequence

import grain
import numpy as np

from examples.llama.config import DataConfig, InputError

PADDING = -1
"""Stands where a row has no token; the loss leaves it out."""


def cut_rows(tokens: np.ndarray, sequence_length: int) -> np.ndarray:
    """Cut into rows of `sequence_length` + 1 tokens, so that every token but the first is predicted
    once: a row starts with the token that ends the row before. A remainder is left out."""
    if len(tokens) <= sequence_length:
        raise InputError(
            f"the text has {len(tokens)} tokens, too few for one row of sequence length "
            f"{sequence_length}; choose a smaller --sequence-length or more text"
        )
    windows = np.lib.stride_tricks.sliding_window_view(tokens, sequence_length + 1)
    return windows[::sequence_length]


def document_tokens(tokens: np.ndarray, end: int | None, sequence_length: int) -> np.ndarray:
    """Put `end`, if there is one, after a document's tokens; cut to `sequence_length` in all.

    A document that is too long loses tokens before its end, not the end: this is what T5's
    tokenizer makes of it in the transformers library (`truncation=True`, `max_length`), with which
    the published C4 benchmarks prepare their rows.
    """
    if end is None:
        return tokens[:sequence_length]
    return np.append(tokens[: sequence_length - 1], end).astype(tokens.dtype)


def pad_rows(rows: Sequence[np.ndarray], sequence_length: int) -> np.ndarray:
    """Stack rows of up to `sequence_length` tokens as int32, with `PADDING` after each."""
    padded = np.full((len(rows), sequence_length), PADDING, np.int32)
    for row, tokens in zip(padded, rows, strict=True):
        row[: len(tokens)] = tokens
    return padded


def training_batches(tokens: np.ndarray, config: DataConfig) -> grain.IterDataset:
    """Endless shuffled batches (B, T + 1), reshuffled in every epoch; the data seed alone says how.

    Its iterators can be saved in a checkpoint.
    """
    return shuffled_batches(cut_rows(tokens, config.sequence_length), config)


def shuffled_batches(
    rows: Sequence[np.ndarray] | np.ndarray, config: DataConfig
) -> grain.IterDataset:
    """The same from rows that are cut already; each is asked for when its batch is made."""
    return (
        grain.MapDataset.source(rows)
        .seed(config.data_seed)
        .shuffle()
        .repeat()
        .batch(config.batch_size)
        .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4))
    )


def validation_rows(tokens: np.ndarray, config: DataConfig) -> np.ndarray:
    """The fixed validation rows (R, T + 1), spread evenly over the validation text."""
    return spread_rows(cut_rows(tokens, config.sequence_length), config)


def spread_rows(rows: Sequence[np.ndarray] | np.ndarray, config: DataConfig) -> np.ndarray:
    """The same from rows that are cut already."""
    if config.validation_rows == 0:
        return np.stack(list(rows))
    if config.validation_rows > len(rows):
        raise InputError(
            f"the validation text has {len(rows)} rows of sequence length "
            f"{config.sequence_length}, fewer than --validation-rows {config.validation_rows}; "
            f"0 takes all"
        )
    chosen = np.arange(config.validation_rows) * len(rows) // config.validation_rows
    return np.stack([rows[index] for index in chosen.tolist()])
