"""The baselines with less state: Adam-mini and LDAdam; optax's Lion, GaLore and Adafactor.

The optimizers of optax are used unchanged. This file tells them about layers and groups.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

import multinorm_optax as mo
from examples.llama.config import InputError, Setup
from examples.llama.model import Params
from examples.llama.per_layer import per_layer
from examples.llama.recipes import (
    MATRIX,
    REST,
    Options,
    auxiliary_adam,
    by_group,
    group_rates,
    state_dtype,
)
from examples.llama.rules import LLAMA_RULES, llama_blocks


def adam_mini(options: Options, setup: Setup) -> optax.GradientTransformation:
    """Adam-mini for every parameter."""
    blocks = llama_blocks(setup.model.hidden // setup.model.heads, value=options["value_blocks"])
    decay = {MATRIX: options["weight_decay"], REST: 0.0}
    rates = group_rates(options, setup)
    return by_group(
        {
            group: mo.adam_mini(
                rates[group], blocks=blocks, b2=options["b2"], weight_decay=decay[group]
            )
            for group in rates
        }
    )


def _rank(options: Options, setup: Setup) -> int:
    rank, width = options["rank"], min(setup.model.hidden, setup.model.mlp)
    if not 1 <= rank <= width:
        raise InputError(
            f"--rank is {rank}, but the matrices have only {width} dimensions; choose 1 to {width}"
        )
    return rank


def ldadam(options: Options, setup: Setup) -> optax.GradientTransformation:
    """LDAdam for the matrices, AdamW with the same decays for every other parameter."""
    rates = group_rates(options, setup)
    return mo.ldadam(
        rates[MATRIX],
        axes=LLAMA_RULES,
        rank=_rank(options, setup),
        b2=options["b2"],
        error_feedback=options["error_feedback"],
        weight_decay=options["weight_decay"],
        adam_learning_rate=rates[REST],
        adam_b2=options["b2"],
        adam_moment_dtype=state_dtype(setup),
    )


def galore(options: Options, setup: Setup) -> optax.GradientTransformation:
    """GaLore for the matrices, Adam for every other parameter.

    optax projects the longer side of a matrix, the paper's program the shorter one: so its basis
    has more numbers here, and its moments fewer.
    """
    matrices = optax.contrib.scale_by_galore(
        _rank(options, setup),
        options["update_proj_gap"],
        base_optimizer=optax.scale_by_adam(b2=options["b2"]),
    )
    return auxiliary_adam(lambda axes: per_layer(matrices, ndim=2), options, setup)


def lion(options: Options, setup: Setup) -> optax.GradientTransformation:
    """Lion for every parameter."""
    decay = {MATRIX: options["weight_decay"], REST: 0.0}
    rates = group_rates(options, setup)
    return by_group(
        {g: optax.lion(rates[g], b2=options["b2"], weight_decay=decay[g]) for g in rates}
    )


def _adafactor_as_adalomo(rate: Callable[[Any], Any]) -> optax.GradientTransformation:
    return optax.adafactor(
        rate,
        min_dim_size_to_factor=1,
        decay_rate=0.8,
        clipping_threshold=1.0,
        momentum=None,
        weight_decay_rate=None,
        multiply_by_parameter_scale=True,
    )


def _adalomo_labels(params: Params) -> Any:
    labels = mo.group_labels(LLAMA_RULES)(params)
    if "layers" not in params:  # a part of the model, in a layer-wise step
        return labels
    gains = jax.tree.map(lambda label: "gain" if label == REST else label, labels["layers"])
    return {**labels, "layers": gains}


def adalomo(options: Options, setup: Setup) -> optax.GradientTransformation:
    """Adafactor with AdaLomo's settings (Lv et al., arXiv 2310.10195) for every parameter.

    A rate is relative to the root mean square of a weight.
    """
    rates = group_rates(options, setup)
    groups = {
        MATRIX: per_layer(_adafactor_as_adalomo(rates[MATRIX]), ndim=2),
        "gain": per_layer(_adafactor_as_adalomo(rates[REST]), ndim=1),
        REST: _adafactor_as_adalomo(rates[REST]),
    }
    return optax.partition(groups, _adalomo_labels)
