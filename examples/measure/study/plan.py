"""What the study compares: optimizers, in cells of model and batch size."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from examples.llama.config import DataConfig, ModelConfig, Setup
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
"""Runs of these fractions of the full length, with schedules of their own, are made as well."""


@dataclass(frozen=True)
class Cell:
    """One model size and batch size."""

    title: str
    setup: Setup
    """Steps are those of a run of the full length."""
    seconds: float
    """Duration of such a run until one has been timed: a guess for two CPU cores, or one GPU."""
    shards: bool = False
    """Whether it trains on token shards instead of the standard library's source."""
    center_first: bool = False
    """Whether points are tried from the center outwards instead of in Sobol's order."""


@dataclass(frozen=True)
class Space:
    """Where the rates of one optimizer of the trainer's table are searched."""

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


def _space(points: int, *centers: tuple[float, ...]) -> Space:
    """Centers are those of large-8k, small-8k, small-1k, and 60m with its rehearsal."""
    each = [Rates(*center) for center in (*centers, centers[-1])]
    return Space(points, dict(zip(CELLS, each, strict=True)))


SPACES: Mapping[str, Space] = {
    "adamw2": _space(16, (1e-3, 2e-2), (2e-3, 4e-2), (2e-3, 4e-2), (1e-3, 4e-3)),
    "muon": _space(16, (2e-3, 8e-2), (4e-3, 8e-2), (2e-3, 8e-2), (1e-3, 1e-2)),
    "swan": _space(16, (2e-3, 4e-2), (4e-3, 4e-2), (4e-3, 1.6e-1), (1e-3, 2e-2)),
    "swan-paper": _space(16, (2e-3, 4e-2), (4e-3, 4e-2), (4e-3, 1.6e-1), (1e-3, 2e-2)),
    "swan-sweeps": _space(16, (2e-3, 4e-2), (4e-3, 4e-2), (4e-3, 1.6e-1), (1e-3, 2e-2)),
    "sinkgd-2": _space(16, (5e-4, 4e-2), (2e-3, 8e-2), (2e-3, 8e-2), (1e-3, 2e-2)),
    "sinkgd-operator": _space(16, (1e-1, 4e-2), (1e-1, 8e-2), (1e-1, 8e-2), (5e-2, 2e-2)),
    "adamw": _space(8, (2.8e-3,), (2.8e-3,), (1e-3,), (1e-3,)),
    "sinkgd": _space(8, (5e-4, 4e-2), (2e-3, 8e-2), (2e-3, 8e-2), (1e-3, 2e-2)),
    "sinkgd-tokens": _space(8, (1e-3, 8e-2), (4e-3, 8e-2), (2e-3, 4e-2), (1e-3, 2e-2)),
    "adam-mini": _space(8, (5e-4, 4e-2), (1e-3, 8e-2), (2e-3, 8e-2), (1e-3, 4e-3)),
    "ldadam": _space(8, (4e-3, 2e-2), (8e-3, 2e-2), (8e-3, 8e-2), (1e-3, 4e-3)),
}
"""By the optimizer's name; in this order they are run."""
