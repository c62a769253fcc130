"""The optimizers by name: one table, one entry each."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from examples.llama import baselines, recipes
from examples.llama.config import InputError, OptimizerConfig, OptimizerName, PresetName, Setup
from examples.llama.options import flag
from examples.llama.presets import PRESETS
from examples.llama.recipes import Build, Options
from examples.llama.schedule import schedule


@dataclass(frozen=True)
class Recipe:
    """How one optimizer is made."""

    build: Build
    defaults: Options
    """The options it has, with their defaults."""
    title: str
    """How tables and pictures call it."""

    @property
    def has_two_rates(self) -> bool:
        """Whether embedding, head and norms have a rate of their own."""
        return "rest_learning_rate" in self.defaults


_TWO_RATES = {"learning_rate": 1e-3, "rest_learning_rate": 2e-2}
_ADAM = {"b2": 0.999, "weight_decay": 0.0, "clip_norm": 0.0}
_STATELESS = {"momentum": 0.0, "nesterov": False}

RECIPES: Mapping[OptimizerName, Recipe] = {
    "sinkgd": Recipe(
        recipes.sinkgd,
        _TWO_RATES
        | _STATELESS
        | _ADAM
        | {"rest_learning_rate": 8e-2, "num_iters": 5, "rest": "adam", "operator_norm": False},
        "SinkGD",
    ),
    "swan": Recipe(
        recipes.swan,
        _TWO_RATES
        | _STATELESS
        | _ADAM
        | {"learning_rate": 4e-3, "rest_learning_rate": 4e-2, "orthogonalizer": "paper"},
        "SWAN",
    ),
    "muon": Recipe(
        recipes.muon,
        _TWO_RATES | {"momentum": 0.95, "nesterov": True, "b2": 0.999, "weight_decay": 0.0},
        "Muon",
    ),
    "adamw": Recipe(recipes.adamw, {"learning_rate": 1.4e-3} | _ADAM, "AdamW, one rate"),
    "adamw2": Recipe(
        recipes.adamw2, _TWO_RATES | _ADAM | {"learning_rate": 1.5e-3}, "AdamW, two rates"
    ),
    "sgd": Recipe(
        recipes.sgd,
        {"learning_rate": 0.5, "rest_learning_rate": 0.5, "momentum": 0.9, "nesterov": False},
        "SGD",
    ),
    "adam-mini": Recipe(
        baselines.adam_mini,
        {
            "learning_rate": 2e-3,
            "rest_learning_rate": 8e-2,
            "b2": 0.999,
            "weight_decay": 0.0,
            "value_blocks": "whole",
        },
        "Adam-mini",
    ),
    "ldadam": Recipe(
        baselines.ldadam,
        {
            "learning_rate": 8e-3,
            "rest_learning_rate": 8e-2,
            "rank": 16,
            "error_feedback": True,
            "b2": 0.99,
            "weight_decay": 0.0,
        },
        "LDAdam",
    ),
    "galore": Recipe(
        baselines.galore,
        _TWO_RATES | _ADAM | {"learning_rate": 5.7e-3, "rank": 32, "update_proj_gap": 50},
        "GaLore",
    ),
    "lion": Recipe(
        baselines.lion,
        {"learning_rate": 5e-4, "rest_learning_rate": 1e-2, "b2": 0.99, "weight_decay": 0.0},
        "Lion",
    ),
    "adalomo": Recipe(
        baselines.adalomo,
        {"learning_rate": 0.04, "rest_learning_rate": 0.5},
        "Adafactor as AdaLomo",
    ),
}
"""Every optimizer of the example, with the default options of the CPU's preset."""


def settle(config: OptimizerConfig, preset: PresetName = "cpu") -> OptimizerConfig:
    """Fill in the preset's defaults; an option that the optimizer does not have is an error."""
    defaults = {**RECIPES[config.name].defaults, **PRESETS[preset].options.get(config.name, {})}
    chosen = {key: value for key, value in dataclasses.asdict(config).items() if key != "name"}
    for key, value in chosen.items():
        if value is not None and key not in defaults:
            options = ", ".join(flag(option) for option in defaults)
            raise InputError(
                f"{flag(key)} has no meaning for {config.name}, which has only {options}"
            )
    missing: dict[str, Any] = {key: defaults[key] for key in defaults if chosen[key] is None}
    return dataclasses.replace(config, **missing)


def make_optimizer(config: OptimizerConfig, setup: Setup) -> optax.GradientTransformation:
    """Build a settled optimizer for a model, its rates scheduled over the setup's schedule.

    The rates may be traced numbers, so that one compiled step serves all of them.
    """
    recipe = RECIPES[config.name]
    scheduled = dataclasses.replace(
        setup, steps=setup.length_of_schedule, warm_up_steps=setup.warm_up
    )
    optimizer = recipe.build({name: getattr(config, name) for name in recipe.defaults}, scheduled)
    return (
        recipes.in_float32(optimizer) if setup.model.precision == "bfloat16-weights" else optimizer
    )


def peak_rates(config: OptimizerConfig) -> dict[str, float]:
    """The peak rates that a settled optimizer has, by option."""
    peaks = {"learning_rate": config.learning_rate, "rest_learning_rate": config.rest_learning_rate}
    return {name: peak for name, peak in peaks.items() if peak is not None}


def scheduled_rates(config: OptimizerConfig, setup: Setup) -> dict[str, np.ndarray]:
    """The rates of a settled optimizer at each step, for the record."""
    counts = np.arange(setup.steps)
    return {
        name: np.asarray(jax.vmap(schedule(peak, setup.length_of_schedule, setup.warm_up))(counts))
        for name, peak in peak_rates(config).items()
    }


def rates_text(options: Mapping[str, Any]) -> str:
    """The rates of a settled optimizer as tables show them: "matrices / rest", or the only one."""
    rest = options["rest_learning_rate"]
    return f"{options['learning_rate']:g}" + ("" if rest is None else f" / {rest:g}")
