"""What the learning study compares: variants of optimizers, in cells of model and batch size."""

from collections.abc import Mapping
from dataclasses import dataclass

from examples.llama.config import DataConfig, ModelConfig, OptimizerConfig, Setup
from examples.llama.study.search import Rates

REFERENCE = "adamw2"
"""Tokens are counted up to the final loss of this variant."""


@dataclass(frozen=True)
class Variant:
    """One way to train."""

    title: str
    """How tables and pictures call it."""
    optimizer: OptimizerConfig
    """Its options; rates are tuned."""
    start: Rates
    """Where its search begins in the first cell; in the others, at the best of the cell before."""


@dataclass(frozen=True)
class Cell:
    """One model size and batch size."""

    title: str
    setup: Setup
    tries: int
    """Tries of rates, the same number for every variant."""


def _data(rows: int) -> DataConfig:
    # microbatches of 8 rows keep a CPU's arithmetic in its cache
    return DataConfig(
        batch_size=rows, microbatches=rows // 8, sequence_length=128, validation_rows=256
    )


_SMALL = ModelConfig()
_LARGE = ModelConfig(hidden=224, mlp=608, heads=4, layers=4)

CELLS: Mapping[str, Cell] = {
    "small-1k": Cell(
        "0.86 M parameters, batches of 1024 tokens", Setup(model=_SMALL, data=_data(8)), tries=6
    ),
    "small-8k": Cell(
        "0.86 M parameters, batches of 8192 tokens",
        Setup(model=_SMALL, data=_data(64), steps=80),
        tries=6,
    ),
    "large-8k": Cell(
        "2.55 M parameters, batches of 8192 tokens",
        Setup(model=_LARGE, data=_data(64), steps=80),
        tries=4,
    ),
    "large-1k": Cell(
        "2.55 M parameters, batches of 1024 tokens", Setup(model=_LARGE, data=_data(8)), tries=4
    ),
}
"""In the order of the study."""

_SINKGD = Rates(1e-3, 4e-2)

VARIANTS: Mapping[str, Variant] = {
    "adamw2": Variant("AdamW, two rates", OptimizerConfig("adamw2"), Rates(2e-3, 2e-2)),
    "sinkgd": Variant("SinkGD, L = 5", OptimizerConfig("sinkgd"), _SINKGD),
    "adamw": Variant("AdamW, one rate", OptimizerConfig("adamw"), Rates(2e-3)),
    "swan": Variant("SWAN", OptimizerConfig("swan"), Rates(2e-3, 4e-2)),
    "muon": Variant("Muon", OptimizerConfig("muon"), Rates(1e-3, 2e-2)),
    "sinkgd-momentum": Variant(
        "SinkGD, L = 5, momentum",
        OptimizerConfig("sinkgd", momentum=0.95, nesterov=True),
        Rates(5e-4, 4e-2),
    ),
    "sinkgd-tokens": Variant(
        "SinkGD, L = 5, stateless embedding and head",
        OptimizerConfig("sinkgd", rest="sinkhorn"),
        Rates(1e-3, 1e-2),
    ),
    "sinkgd-1": Variant("SinkGD, L = 1", OptimizerConfig("sinkgd", num_iters=1), _SINKGD),
    "sgd": Variant("SGD with momentum", OptimizerConfig("sgd"), Rates(0.06, 0.12)),
    "sinkgd-2": Variant("SinkGD, L = 2", OptimizerConfig("sinkgd", num_iters=2), _SINKGD),
    "adam-mini": Variant("Adam-mini", OptimizerConfig("adam-mini"), Rates(2e-3, 2e-2)),
    "ldadam": Variant("LDAdam", OptimizerConfig("ldadam"), Rates(2e-3, 2e-2)),
    "lion": Variant("Lion", OptimizerConfig("lion"), Rates(5e-4, 5e-3)),
    "galore": Variant("GaLore", OptimizerConfig("galore"), Rates(2e-3, 2e-2)),
    "adalomo": Variant("Adafactor as AdaLomo", OptimizerConfig("adalomo"), Rates(8e-2, 0.5)),
}
"""In the order of the study."""

SEEDS = (1, 2, 3)
"""Of initial weights and data order in the repetitions of the best rates; tries have seed 0."""
