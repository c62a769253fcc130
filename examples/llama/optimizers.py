"""The optimizers by name: one table, one entry each."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

import multinorm_optax as mo
from examples.llama.config import InputError, OptimizerConfig, OptimizerName, PresetName
from examples.llama.model import Params
from examples.llama.presets import PRESETS

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
    defaults: Options
    """The options it has, with their defaults."""
    title: str
    """How tables and pictures call it."""

    @property
    def has_two_rates(self) -> bool:
        """Whether embedding, head and norms have a rate of their own."""
        return "rest_learning_rate" in self.defaults


def schedule(peak: jax.typing.ArrayLike, steps: int) -> Callable[[Any], Any]:
    """Linear from 0 over the first tenth of the steps, then a cosine to a tenth of the peak."""
    shape = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=1.0,
        warmup_steps=max(1, round(steps / 10)),
        decay_steps=max(2, steps),
        end_value=0.1,
    )
    return lambda count: peak * shape(count)


def _matrix_mask(params: Params) -> Any:
    return jax.tree.map(lambda label: label == MATRIX, mo.group_labels(mo.LLAMA_RULES)(params))


def _clip(options: Options) -> optax.GradientTransformation:
    return (
        optax.clip_by_global_norm(options["clip_norm"])
        if options["clip_norm"]
        else optax.identity()
    )


def _whole_model(
    direction: optax.GradientTransformation, options: Options, steps: int
) -> optax.GradientTransformation:
    return mo.whole_model(
        direction,
        schedule(options["learning_rate"], steps),
        alpha=1.0,  # the rate given is the matrices' own, not a multiple of the rest's
        axes=mo.LLAMA_RULES,
        momentum=options.get("momentum") or None,
        nesterov=options.get("nesterov", False),
        weight_decay=options["weight_decay"],
        adam=mo.AdamGroup(
            learning_rate=schedule(options["rest_learning_rate"], steps),
            b2=options["b2"],
            clip_norm=options["clip_norm"] or None,
        ),
    )


TOKEN_RULES = (
    (r"embed/embedding", mo.MatrixAxes(output=0, input=1)),
    (r"head/kernel", mo.MatrixAxes(output=1, input=0)),
)
"""The tables whose rows are tokens: embedding (V, D), looked up, and head (D, V)."""


def _token_labels(params: Params) -> Any:
    rules = [*TOKEN_RULES, (r".*", None)]
    labels = mo.group_labels(rules)(params)
    return jax.tree.map(lambda label: "tokens" if label == MATRIX else "others", labels)


def _sinkgd(options: Options, steps: int) -> optax.GradientTransformation:
    matrices = mo.scale_by_sinkhorn(mo.LLAMA_RULES, options["num_iters"])
    whole = _whole_model(matrices, options, steps)
    if options["rest"] == "adam":
        return whole
    tokens = optax.chain(
        mo.scale_by_token_sinkhorn(TOKEN_RULES),
        optax.scale_by_learning_rate(schedule(options["rest_learning_rate"], steps)),
    )
    return optax.partition({"tokens": tokens, "others": whole}, _token_labels)


def _swan(options: Options, steps: int) -> optax.GradientTransformation:
    return _whole_model(mo.scale_by_swan(mo.LLAMA_RULES), options, steps)


def _muon(options: Options, steps: int) -> optax.GradientTransformation:
    kernel = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
    matrices = optax.contrib.muon(
        schedule(options["learning_rate"], steps),
        beta=options["momentum"],
        nesterov=options["nesterov"],
        weight_decay=options["weight_decay"],
        muon_weight_dimension_numbers=lambda params: jax.tree.map(lambda _: kernel, params),
        consistent_rms=1.0,  # entries of root mean square 1, as for the others: rates compare
    )
    # not muon's own Adam, which follows its choice of nesterov
    rest = optax.adam(schedule(options["rest_learning_rate"], steps), b2=options["b2"])
    return optax.partition({MATRIX: matrices, "adam": rest}, mo.group_labels(mo.LLAMA_RULES))


def _adamw(options: Options, steps: int) -> optax.GradientTransformation:
    rate = schedule(options["learning_rate"], steps)
    adamw = optax.adamw(
        rate, b2=options["b2"], weight_decay=options["weight_decay"], mask=_matrix_mask
    )
    return optax.chain(_clip(options), adamw)


def _adamw2(options: Options, steps: int) -> optax.GradientTransformation:
    return _whole_model(optax.scale_by_adam(b2=options["b2"]), options, steps)


def _sgd(options: Options, steps: int) -> optax.GradientTransformation:
    groups = {
        MATRIX: schedule(options["learning_rate"], steps),
        "adam": schedule(options["rest_learning_rate"], steps),
    }
    momentum = options["momentum"] or None
    return optax.partition(
        {name: optax.sgd(rate, momentum, options["nesterov"]) for name, rate in groups.items()},
        mo.group_labels(mo.LLAMA_RULES),
    )


_TWO_RATES = {"learning_rate": 1e-3, "rest_learning_rate": 2e-2}
_ADAM = {"b2": 0.999, "weight_decay": 0.0, "clip_norm": 0.0}
_STATELESS = {"momentum": 0.0, "nesterov": False}

RECIPES: Mapping[OptimizerName, Recipe] = {
    "sinkgd": Recipe(
        _sinkgd,
        _TWO_RATES
        | _STATELESS
        | _ADAM
        | {"rest_learning_rate": 8e-2, "num_iters": 5, "rest": "adam"},
        "SinkGD",
    ),
    "swan": Recipe(
        _swan,
        _TWO_RATES | _STATELESS | _ADAM | {"learning_rate": 4e-3, "rest_learning_rate": 4e-2},
        "SWAN",
    ),
    "muon": Recipe(
        _muon,
        _TWO_RATES | {"momentum": 0.95, "nesterov": True, "b2": 0.999, "weight_decay": 0.0},
        "Muon",
    ),
    "adamw": Recipe(_adamw, {"learning_rate": 1.4e-3} | _ADAM, "AdamW, one rate"),
    "adamw2": Recipe(_adamw2, _TWO_RATES | _ADAM | {"learning_rate": 1.5e-3}, "AdamW, two rates"),
    "sgd": Recipe(
        _sgd,
        {"learning_rate": 0.5, "rest_learning_rate": 0.5, "momentum": 0.9, "nesterov": False},
        "SGD",
    ),
}
"""Every optimizer of the example, with the default options of the CPU's preset."""


def settle(config: OptimizerConfig, preset: PresetName = "cpu") -> OptimizerConfig:
    """Fill in the preset's defaults; an option that the optimizer does not have is an error."""
    rates = PRESETS[preset].rates.get(config.name, {})
    defaults = {**RECIPES[config.name].defaults, **rates}
    chosen = {key: value for key, value in dataclasses.asdict(config).items() if key != "name"}
    for key, value in chosen.items():
        if value is not None and key not in defaults:
            options = ", ".join(_flag(option) for option in defaults)
            raise InputError(
                f"{_flag(key)} has no meaning for {config.name}, which has only {options}"
            )
        if isinstance(value, float | int) and (value < 0 or ("rate" in key and value == 0)):
            raise InputError(f"{_flag(key)} is {value}, but must be positive")
    missing: dict[str, Any] = {key: defaults[key] for key in defaults if chosen[key] is None}
    return dataclasses.replace(config, **missing)


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Build a settled optimizer whose rates are scheduled over `steps` steps.

    The rates may be traced numbers, so that one compiled step serves all of them.
    """
    recipe = RECIPES[config.name]
    return recipe.build({name: getattr(config, name) for name in recipe.defaults}, steps)


def peak_rates(config: OptimizerConfig) -> dict[str, float]:
    """The peak rates that a settled optimizer has, by option."""
    peaks = {"learning_rate": config.learning_rate, "rest_learning_rate": config.rest_learning_rate}
    return {name: peak for name, peak in peaks.items() if peak is not None}


def scheduled_rates(config: OptimizerConfig, steps: int) -> dict[str, np.ndarray]:
    """The rates of a settled optimizer at each step, for the record."""
    counts = np.arange(steps)
    return {
        name: np.asarray(jax.vmap(schedule(peak, steps))(counts))
        for name, peak in peak_rates(config).items()
    }


def rates_text(options: Mapping[str, Any]) -> str:
    """The rates of a settled optimizer as tables show them: "matrices / rest", or the only one."""
    rest = options["rest_learning_rate"]
    return f"{options['learning_rate']:g}" + ("" if rest is None else f" / {rest:g}")
