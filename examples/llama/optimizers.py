"""The optimizers by name: one table, one entry each."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

import multinorm_optax as mo
from examples.llama.config import InputError, OptimizerConfig, OptimizerName
from examples.llama.model import Params

Options = Mapping[str, Any]
"""The options of one optimizer, each with a value."""

Build = Callable[[Options, int], optax.GradientTransformation]

MATRIX = "matrix"
"""The label of the matrices in `mo.group_labels`."""


@dataclass(frozen=True)
class Recipe:
    """How one optimizer is made."""

    build: Build
    """(options, steps) -> transformation."""
    defaults: Mapping[str, float | int]
    """The options it has, with their defaults."""
    title: str
    """How tables and pictures call it."""

    @property
    def has_two_rates(self) -> bool:
        """Whether embedding, head and norms have a rate of their own."""
        return "rest_learning_rate" in self.defaults


def schedule(peak: float, steps: int) -> optax.Schedule:
    """Linear from 0 over the first tenth of the steps, then a cosine to a tenth of the peak."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=peak,
        warmup_steps=max(1, round(steps / 10)),
        decay_steps=max(2, steps),
        end_value=peak / 10,
    )


def _matrix_mask(params: Params) -> Any:
    return jax.tree.map(lambda label: label == MATRIX, mo.group_labels(mo.LLAMA_RULES)(params))


def _clip(options: Options) -> optax.GradientTransformation:
    return (
        optax.clip_by_global_norm(options["clip_norm"])
        if options["clip_norm"]
        else optax.identity()
    )


def _matrix_options(options: Options, steps: int) -> dict[str, Any]:
    # alpha = 1: the rate given is the matrices' own, not a multiple of the rest's
    return {
        "learning_rate": schedule(options["learning_rate"], steps),
        "alpha": 1.0,
        "axes": mo.LLAMA_RULES,
        "momentum": options["momentum"] or None,
        "weight_decay": options["weight_decay"],
        "adam": mo.AdamGroup(
            learning_rate=schedule(options["rest_learning_rate"], steps),
            b2=options["b2"],
            clip_norm=options["clip_norm"] or None,
        ),
    }


def _sinkgd(options: Options, steps: int) -> optax.GradientTransformation:
    return mo.sinkgd(num_iters=options["num_iters"], **_matrix_options(options, steps))


def _swan(options: Options, steps: int) -> optax.GradientTransformation:
    return mo.swan(**_matrix_options(options, steps))


def _adamw(options: Options, steps: int) -> optax.GradientTransformation:
    rate = schedule(options["learning_rate"], steps)
    adamw = optax.adamw(
        rate, b2=options["b2"], weight_decay=options["weight_decay"], mask=_matrix_mask
    )
    return optax.chain(_clip(options), adamw)


def _adamw2(options: Options, steps: int) -> optax.GradientTransformation:
    matrices = schedule(options["learning_rate"], steps)
    rest = schedule(options["rest_learning_rate"], steps)
    return optax.partition(
        {
            MATRIX: optax.adamw(matrices, b2=options["b2"], weight_decay=options["weight_decay"]),
            "adam": optax.chain(_clip(options), optax.adam(rest, b2=options["b2"])),
        },
        mo.group_labels(mo.LLAMA_RULES),
    )


def _sgd(options: Options, steps: int) -> optax.GradientTransformation:
    return optax.sgd(
        schedule(options["learning_rate"], steps), momentum=options["momentum"] or None
    )


_ADAM = {"b2": 0.999, "weight_decay": 0.0, "clip_norm": 0.0}

RECIPES: Mapping[OptimizerName, Recipe] = {
    "sinkgd": Recipe(
        _sinkgd,
        {"learning_rate": 1e-3, "rest_learning_rate": 8e-2, "num_iters": 5, "momentum": 0.0}
        | _ADAM,
        "SinkGD",
    ),
    "swan": Recipe(
        _swan, {"learning_rate": 4e-3, "rest_learning_rate": 4e-2, "momentum": 0.0} | _ADAM, "SWAN"
    ),
    "adamw": Recipe(_adamw, {"learning_rate": 1.4e-3} | _ADAM, "AdamW, one rate"),
    "adamw2": Recipe(
        _adamw2, {"learning_rate": 1.5e-3, "rest_learning_rate": 2e-2} | _ADAM, "AdamW, two rates"
    ),
    "sgd": Recipe(_sgd, {"learning_rate": 0.5, "momentum": 0.0}, "SGD"),
}
"""Every optimizer of the example. The default rates are the best of `examples.llama.tune`, but for
SGD's, which was not part of the study."""


def settle(config: OptimizerConfig) -> OptimizerConfig:
    """Fill in the defaults; an option that the optimizer does not have is an error."""
    defaults = RECIPES[config.name].defaults
    chosen = {key: value for key, value in dataclasses.asdict(config).items() if key != "name"}
    for key, value in chosen.items():
        if value is not None and key not in defaults:
            options = ", ".join(_flag(option) for option in defaults)
            raise InputError(
                f"{_flag(key)} has no meaning for {config.name}, which has only {options}"
            )
        if value is not None and (value < 0 or ("rate" in key and value == 0)):
            raise InputError(f"{_flag(key)} is {value}, but must be positive")
    missing: dict[str, Any] = {key: defaults[key] for key in defaults if chosen[key] is None}
    return dataclasses.replace(config, **missing)


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Build a settled optimizer whose rates are scheduled over `steps` steps."""
    recipe = RECIPES[config.name]
    return recipe.build({name: getattr(config, name) for name in recipe.defaults}, steps)


def scheduled_rates(config: OptimizerConfig, steps: int) -> dict[str, np.ndarray]:
    """The rates of a settled optimizer at each step, for the record."""
    peaks = {"learning_rate": config.learning_rate, "rest_learning_rate": config.rest_learning_rate}
    counts = np.arange(steps)
    return {
        name: np.asarray(jax.vmap(schedule(peak, steps))(counts))
        for name, peak in peaks.items()
        if peak is not None
    }


def rates_text(options: Mapping[str, Any]) -> str:
    """The rates of a settled optimizer as tables show them: "matrices / rest", or the only one."""
    rest = options["rest_learning_rate"]
    return f"{options['learning_rate']:g}" + ("" if rest is None else f" / {rest:g}")
