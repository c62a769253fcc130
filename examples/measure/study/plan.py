"""What the study compares: optimizers, in cells of model and batch size."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from examples.llama.config import DataConfig, ModelConfig, OptimizerConfig, Setup
from examples.llama.costs.candidates import CANDIDATES
from examples.llama.presets import PRESETS
from examples.measure.study.points import Box, Rates

REFERENCE = "adamw2"
"""The optimizer whose final loss the others are compared with."""
WIDTH = 16.0
"""The largest rate of a box over its smallest, the same for every rate of every optimizer."""
MOVES = 4
"""How often a box may move, each time with half as many points again."""
FIRST = 8
"""Points of each well-searched optimizer that come before everything else in a cell."""
REPEATED = 2
"""Best points that are repeated."""
SEEDS = (1, 2, 3)
"""Of initial weights and order of the text in the repetitions; the search has seed 0."""
SHORTER = (4, 2)
"""Runs of these fractions of the whole length, with schedules of their own, are made as well."""


@dataclass(frozen=True)
class Cell:
    """One model size and batch size."""

    title: str
    setup: Setup
    """Steps are those of a run of the whole length."""
    seconds: float
    """What such a run takes, until one has been timed: a guess for two CPU cores, or one GPU."""
    shards: bool = False
    """Whether it trains on token shards instead of the standard library's source."""
    center_first: bool = False
    """Whether points are tried from the center outwards instead of in Sobol's order."""


@dataclass(frozen=True)
class Entry:
    """One optimizer."""

    name: str
    title: str
    """Display name."""
    optimizer: OptimizerConfig
    """Its options; the rates are searched."""
    points: int
    """Points of its first box."""
    centers: Mapping[str, Rates]
    """Known rates by cell, around which the box lies."""

    def box(self, cell: str) -> Box:
        """The first box of a cell."""
        return Box(self.centers[cell], WIDTH)


def _rows(rows: int) -> DataConfig:
    # microbatches of 8 rows fit a CPU's cache
    return DataConfig(
        batch_size=rows, microbatches=rows // 8, sequence_length=128, validation_rows=256
    )


_SMALL = ModelConfig()
_LARGE = ModelConfig(hidden=224, mlp=608, heads=4, layers=4)
_60M = dataclasses.replace(PRESETS["60m"].setup.model, precision="mixed")
_TINY = ModelConfig(hidden=16, mlp=24, heads=2, layers=2, vocabulary=32_000)

CELLS: Mapping[str, Cell] = {
    "large-8k": Cell(
        "2.55 M parameters, batches of 8192 tokens",
        Setup(model=_LARGE, data=_rows(64), steps=80),
        seconds=65,
    ),
    "small-8k": Cell(
        "0.86 M parameters, batches of 8192 tokens",
        Setup(model=_SMALL, data=_rows(64), steps=80),
        seconds=33,
    ),
    "small-1k": Cell(
        "0.86 M parameters, batches of 1024 tokens",
        Setup(model=_SMALL, data=_rows(8), steps=300),
        seconds=18,
    ),
    "60m": Cell(
        "58 M parameters, batches of 32 768 tokens",
        Setup(
            preset="60m",
            model=_60M,
            data=DataConfig(batch_size=128, sequence_length=256, validation_rows=1024),
            steps=608,
        ),
        seconds=45,
        shards=True,
        center_first=True,
    ),
    "60m-rehearsal": Cell(
        "a rehearsal of 60m on a CPU: the same text and code, a tiny model",
        Setup(
            model=_TINY,
            data=DataConfig(batch_size=4, sequence_length=64, validation_rows=16),
            steps=8,
        ),
        seconds=1,
        shards=True,
        center_first=True,
    ),
}
"""By name."""
CPU_CELLS = ("large-8k", "small-8k", "small-1k")
"""The cells that are run unless others are named."""


def _entry(
    name: str,
    points: int,
    *,
    large_8k: Rates,
    small_8k: Rates,
    small_1k: Rates,
    big: Rates,
) -> Entry:
    centers = {
        "large-8k": large_8k,
        "small-8k": small_8k,
        "small-1k": small_1k,
        "60m": big,
        "60m-rehearsal": big,
    }
    candidate = CANDIDATES[name]
    return Entry(name, candidate.title, candidate.optimizer, points, centers)


_ENTRIES = (
    _entry(
        "adamw2",
        16,
        large_8k=Rates(1e-3, 2e-2),
        small_8k=Rates(2e-3, 4e-2),
        small_1k=Rates(2e-3, 4e-2),
        big=Rates(1e-3, 4e-3),
    ),
    _entry(
        "muon",
        16,
        large_8k=Rates(2e-3, 8e-2),
        small_8k=Rates(4e-3, 8e-2),
        small_1k=Rates(2e-3, 8e-2),
        big=Rates(1e-3, 1e-2),
    ),
    _entry(
        "swan",
        16,
        large_8k=Rates(2e-3, 4e-2),
        small_8k=Rates(4e-3, 4e-2),
        small_1k=Rates(4e-3, 1.6e-1),
        big=Rates(1e-3, 2e-2),
    ),
    _entry(
        "swan-exact",
        16,
        large_8k=Rates(2e-3, 4e-2),
        small_8k=Rates(4e-3, 4e-2),
        small_1k=Rates(4e-3, 1.6e-1),
        big=Rates(1e-3, 2e-2),
    ),
    _entry(
        "sinkgd-2",
        16,
        large_8k=Rates(5e-4, 4e-2),
        small_8k=Rates(2e-3, 8e-2),
        small_1k=Rates(2e-3, 8e-2),
        big=Rates(1e-3, 2e-2),
    ),
    _entry(
        "sinkgd-operator",
        16,
        large_8k=Rates(1e-1, 4e-2),
        small_8k=Rates(1e-1, 8e-2),
        small_1k=Rates(1e-1, 8e-2),
        big=Rates(5e-2, 2e-2),
    ),
    _entry(
        "adamw",
        8,
        large_8k=Rates(2.8e-3),
        small_8k=Rates(2.8e-3),
        small_1k=Rates(1e-3),
        big=Rates(1e-3),
    ),
    _entry(
        "sinkgd",
        8,
        large_8k=Rates(5e-4, 4e-2),
        small_8k=Rates(2e-3, 8e-2),
        small_1k=Rates(2e-3, 8e-2),
        big=Rates(1e-3, 2e-2),
    ),
    _entry(
        "sinkgd-tokens",
        8,
        large_8k=Rates(1e-3, 8e-2),
        small_8k=Rates(4e-3, 8e-2),
        small_1k=Rates(2e-3, 4e-2),
        big=Rates(1e-3, 2e-2),
    ),
    _entry(
        "adam-mini",
        8,
        large_8k=Rates(5e-4, 4e-2),
        small_8k=Rates(1e-3, 8e-2),
        small_1k=Rates(2e-3, 8e-2),
        big=Rates(1e-3, 4e-3),
    ),
    _entry(
        "ldadam",
        8,
        large_8k=Rates(4e-3, 2e-2),
        small_8k=Rates(8e-3, 2e-2),
        small_1k=Rates(8e-3, 8e-2),
        big=Rates(1e-3, 4e-3),
    ),
)

ENTRIES: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""By name; in this order they are run."""
