"""The table of optimizers: one entry makes one available to every command."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from examples.llama import builders
from examples.llama.builders import Builder


@dataclass(frozen=True)
class Optimizer:
    """An optimizer that `--optimizer` can name."""

    title: str
    """Display name, with the default options."""
    build: Builder
    defaults: Mapping[str, Any]
    """Its options, fields of `OptimizerConfig`, with the defaults of the preset cpu."""
    summary: str = ""
    """What it is, for `--help`; the title if empty."""
    layerwise: bool = True
    """Whether it can be built for a part of the model without matrices, as --layerwise needs."""
    variant_of: str | None = None
    """The optimizer that this one is, with other options; presets' options for it apply."""
    own_options: Mapping[str, Any] = field(default_factory=dict)
    """The options in which a variant differs; they take precedence over the presets'."""

    @property
    def has_two_rates(self) -> bool:
        """Whether embedding, head and norms have a rate of their own."""
        return "rest_learning_rate" in self.defaults


_ADAM = {"b2": 0.999, "weight_decay": 0.0, "clip_norm": 0.0}
_STATELESS = {"momentum": 0.0, "nesterov": False}


def _rates(matrices: float, rest: float) -> dict[str, Any]:
    return {"learning_rate": matrices, "rest_learning_rate": rest}


_BASE = {
    "sinkgd": Optimizer(
        "SinkGD",
        builders.sinkgd,
        _rates(1e-3, 8e-2)
        | _STATELESS
        | _ADAM
        | {"num_iters": 5, "rest": "adam", "operator_norm": False},
        "stateless on the matrices of the layers, Adam on every other parameter",
    ),
    "swan": Optimizer(
        "SWAN",
        builders.swan,
        _rates(4e-3, 4e-2) | _STATELESS | _ADAM | {"orthogonalizer": "exact"},
        "stateless too, with whitened gradients",
    ),
    "muon": Optimizer(
        "Muon",
        builders.muon,
        _rates(1e-3, 2e-2) | {"momentum": 0.95, "nesterov": True, "b2": 0.999, "weight_decay": 0.0},
        "orthogonalized momentum on the matrices, Adam on every other parameter",
    ),
    "adamw": Optimizer(
        "AdamW, one rate",
        builders.adamw,
        {"learning_rate": 1.4e-3} | _ADAM,
        "one rate for every parameter",
    ),
    "adamw2": Optimizer(
        "AdamW, two rates",
        builders.adamw2,
        _rates(1.5e-3, 2e-2) | _ADAM,
        "AdamW with two rates, as all others have",
    ),
    "sgd": Optimizer(
        "SGD with momentum",
        builders.sgd,
        _rates(0.5, 0.5) | {"momentum": 0.9, "nesterov": False},
        "gradient descent with momentum",
    ),
    "adam-mini": Optimizer(
        "Adam-mini",
        builders.adam_mini,
        _rates(2e-3, 8e-2) | {"b2": 0.999, "weight_decay": 0.0, "value_blocks": "whole"},
        "Adam with one second moment per block",
    ),
    "ldadam": Optimizer(
        "LDAdam",
        builders.ldadam,
        _rates(8e-3, 8e-2) | {"rank": 16, "error_feedback": True, "b2": 0.99, "weight_decay": 0.0},
        "Adam in a subspace that turns every step",
    ),
    "galore": Optimizer(
        "GaLore",
        builders.galore,
        _rates(5.7e-3, 2e-2) | _ADAM | {"rank": 32, "update_proj_gap": 50},
        "Adam in a subspace that is fixed for some steps",
        layerwise=False,
    ),
    "lion": Optimizer(
        "Lion",
        builders.lion,
        _rates(5e-4, 1e-2) | {"b2": 0.99, "weight_decay": 0.0},
        "the sign of momentum",
    ),
    "adalomo": Optimizer(
        "Adafactor as AdaLomo",
        builders.adalomo,
        _rates(0.04, 0.5),
        "Adafactor with AdaLomo's settings",
    ),
}


def _variant(of: str, title: str, **options: Any) -> Optimizer:
    base = _BASE[of]
    return dataclasses.replace(
        base,
        title=title,
        defaults={**base.defaults, **options},
        summary="",
        variant_of=of,
        own_options=options,
    )


OPTIMIZERS: Mapping[str, Optimizer] = {
    **_BASE,
    "sinkgd-1": _variant("sinkgd", "SinkGD, 1 sweep", num_iters=1),
    "sinkgd-2": _variant("sinkgd", "SinkGD, 2 sweeps", num_iters=2),
    "sinkgd-operator": _variant(
        "sinkgd",
        "SinkGD, 2 sweeps, operator norm set",
        num_iters=2,
        operator_norm=True,
        learning_rate=0.1,  # of another unit: an operator norm, not the size of an entry
    ),
    "sinkgd-momentum": _variant("sinkgd", "SinkGD, momentum", momentum=0.95, nesterov=True),
    "sinkgd-tokens": _variant("sinkgd", "SinkGD, stateless embedding and head", rest="sinkhorn"),
    "swan-paper": _variant("swan", "SWAN, the paper's whitening", orthogonalizer="paper"),
    "sgd-plain": _variant("sgd", "SGD without momentum", momentum=0.0),
    "ldadam-plain": _variant("ldadam", "LDAdam without error feedback", error_feedback=False),
}
"""Every optimizer by the name that `--optimizer` takes."""

BASE_OPTIMIZERS = tuple(name for name, one in OPTIMIZERS.items() if one.variant_of is None)
"""The names of those that are not variants."""
