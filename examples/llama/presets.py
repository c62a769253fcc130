"""The presets: the CPU's default run, and the papers' models with GaLore's protocol on C4.

Zhao et al., "GaLore", arXiv 2403.03507, whose benchmark the papers of SWAN (arXiv 2412.13148) and
SinkGD (arXiv 2502.06742) follow: batches of 512 rows of 256 tokens, one document per row, padding
left out of the loss, data seed 42, everything in bfloat16, evaluation on about 10 M tokens.
"""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from examples.llama.config import (
    CorpusConfig,
    DataConfig,
    Experiment,
    InputError,
    ModelConfig,
    OptimizerConfig,
    OptimizerName,
    PresetName,
    Setup,
)
from examples.llama.optimizers import OPTIMIZERS
from examples.llama.run.options import flag


@dataclass(frozen=True)
class Preset:
    """The defaults of a command line."""

    setup: Setup
    """Model, data and length."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """Text and tokenizer."""
    options: Mapping[OptimizerName, Mapping[str, Any]] = field(default_factory=dict)
    """Rates and other options that differ from those of the CPU's default run."""


_LINEAR_AND_REST = {"learning_rate": 1e-3, "rest_learning_rate": 2e-2}
"""alpha = 0.05 times the papers' global rate of 0.02, and that rate."""


def _papers(
    name: PresetName,
    model: ModelConfig,
    steps: int,
    microbatches: int,
    galore_rank: int,
    adam_rate: float = 1e-3,
) -> Preset:
    one_rate = {"learning_rate": adam_rate, "rest_learning_rate": adam_rate}
    data = DataConfig(
        batch_size=512,
        microbatches=microbatches,
        sequence_length=256,
        data_seed=42,
        validation_rows=50_000,
    )
    return Preset(
        Setup(preset=name, model=model, data=data, steps=steps, validate_every=1000),
        # the protocol's t5-base tokenizer is a file that has to be fetched: --tokenizer names it
        CorpusConfig(text="hub", tokenizer="bpe"),
        {
            "sinkgd": _LINEAR_AND_REST,
            "swan": _LINEAR_AND_REST,
            "muon": _LINEAR_AND_REST,
            "adamw": {"learning_rate": adam_rate},
            "adamw2": one_rate,
            "adam-mini": one_rate | {"value_blocks": "whole" if steps <= 20_000 else "neuron"},
            "ldadam": one_rate,
            # 0.01 times the scale 0.25 of GaLore's own runs, and 0.01
            "galore": {
                "learning_rate": 2.5e-3,
                "rest_learning_rate": 1e-2,
                "rank": galore_rank,
                "update_proj_gap": 200,
            },
        },
    )


_llama = functools.partial(ModelConfig, vocabulary=32_000, precision="bfloat16", remat=False)

PRESETS: Mapping[PresetName, Preset] = {
    "cpu": Preset(Setup()),
    "60m": _papers("60m", _llama(512, 1376, 8, 8), 10_000, 4, 128),
    "130m": _papers("130m", _llama(768, 2048, 12, 12), 20_000, 4, 256),
    "350m": _papers("350m", _llama(1024, 2736, 16, 24), 60_000, 8, 256),
    "1b": _papers("1b", _llama(2048, 5461, 32, 24, remat=True), 100_000, 16, 512, adam_rate=7e-4),
    "7b": _papers("7b", _llama(4096, 11008, 32, 32, remat=True), 150_000, 32, 1024, adam_rate=7e-4),
}
"""Every preset of the command line."""


def resolve(config: OptimizerConfig, preset: PresetName = "cpu") -> OptimizerConfig:
    """Fill in the preset's defaults; an option that the optimizer does not have is an error."""
    entry = OPTIMIZERS[config.name]
    of_preset = PRESETS[preset].options.get(entry.variant_of or config.name, {})
    defaults = {**entry.defaults, **of_preset, **entry.own_options}
    chosen = {key: value for key, value in dataclasses.asdict(config).items() if key != "name"}
    for key, value in chosen.items():
        if value is not None and key not in defaults:
            options = ", ".join(flag(option) for option in defaults)
            raise InputError(
                f"{flag(key)} has no meaning for {config.name}, which has only {options}"
            )
    missing: dict[str, Any] = {key: defaults[key] for key in defaults if chosen[key] is None}
    return dataclasses.replace(config, **missing)


def has_rates(name: OptimizerName, preset: PresetName) -> bool:
    """Whether a preset knows an optimizer's rates: the default run's are for a small model."""
    entry, options = OPTIMIZERS[name], PRESETS[preset].options
    of_preset = (entry.variant_of or name) in options and "learning_rate" not in entry.own_options
    return preset == "cpu" or of_preset


def defaults(name: OptimizerName, preset: PresetName) -> OptimizerConfig:
    """What the command line starts from: no rates where the preset knows none."""
    config = resolve(OptimizerConfig(name), preset)
    if has_rates(name, preset):
        return config
    return dataclasses.replace(config, learning_rate=None, rest_learning_rate=None)


def check_rates(experiment: Experiment) -> None:
    """Refuse to train with rates that are neither given nor the preset's."""
    optimizer, preset = experiment.optimizer, experiment.setup.preset
    rates = ("learning_rate", "rest_learning_rate")
    missing = [
        flag(rate)
        for rate in rates
        if rate in OPTIMIZERS[optimizer.name].defaults and getattr(optimizer, rate) is None
    ]
    if missing and not has_rates(optimizer.name, preset):
        raise InputError(
            f"--preset {preset} has no learning rates for {optimizer.name}, and those of the "
            f"default run are for a small model; give {' and '.join(missing)} to "
            f"examples.llama.train"
        )


def resolved(experiment: Experiment) -> Experiment:
    """The experiment with all of its optimizer's options."""
    return dataclasses.replace(
        experiment, optimizer=resolve(experiment.optimizer, experiment.setup.preset)
    )
