"""SinkGD, SWAN, and those that they are measured against first: Muon, AdamW, SGD."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import multinorm_optax as mo
from examples.llama.config import Setup
from examples.llama.model import Params
from examples.llama.rules import LLAMA_RULES, TOKEN_RULES
from examples.llama.schedule import schedule

Options = Mapping[str, Any]
"""The options of one optimizer, each with a value."""

Build = Callable[[Options, Setup], optax.GradientTransformation]
"""How an optimizer is made: (options, what is trained) -> transformation."""

MATRIX, REST = "matrix", "adam"
"""The labels of `mo.group_labels`."""


def group_rates(options: Options, setup: Setup) -> dict[str, Callable[[Any], Any]]:
    """The scheduled rate of each group."""
    return {
        MATRIX: schedule(options["learning_rate"], setup.steps, setup.warm_up),
        REST: schedule(options["rest_learning_rate"], setup.steps, setup.warm_up),
    }


def by_group(groups: Mapping[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    """One transformation for the matrices and one for every other parameter."""
    return optax.partition(dict(groups), mo.group_labels(LLAMA_RULES))


def state_dtype(setup: Setup) -> Any:
    """The dtype of momentum and moments if the precision says one; None for at least float32."""
    return jnp.bfloat16 if setup.model.precision == "bfloat16" else None


def in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Give gradients and weights to the optimizer in float32, which makes its state float32."""

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        wide = optax.tree.cast((updates, params), jnp.float32)
        found, state = inner.update(wide[0], state, wide[1])
        return optax.tree.cast_like(found, updates), state

    return optax.GradientTransformation(
        lambda params: inner.init(optax.tree.cast(params, jnp.float32)), update
    )


def auxiliary_adam(
    direction: Callable[[Any], optax.GradientTransformation], options: Options, setup: Setup
) -> optax.GradientTransformation:
    """A direction for the matrices, Adam for every other parameter, each at its own rate."""
    rates = group_rates(options, setup)
    return mo.auxiliary_adam(
        direction,
        rates[MATRIX],
        alpha=1.0,  # the rate given is the matrices' own, not a multiple of the other one
        axes=LLAMA_RULES,
        momentum=options.get("momentum") or None,
        momentum_dtype=state_dtype(setup),
        nesterov=options.get("nesterov", False),
        weight_decay=options["weight_decay"],
        adam_learning_rate=rates[REST],
        adam_b2=options["b2"],
        adam_clip_norm=options["clip_norm"] or None,
        adam_moment_dtype=state_dtype(setup),
    )


def _token_labels(params: Params) -> Any:
    rules = [*TOKEN_RULES, (r".*", None)]
    labels = mo.group_labels(rules)(params)
    return jax.tree.map(lambda label: "tokens" if label == MATRIX else "others", labels)


def sinkgd(options: Options, setup: Setup) -> optax.GradientTransformation:
    """SinkGD; embedding and head under Adam or stateless too."""

    def direction(axes: Any) -> optax.GradientTransformation:
        sinkhorn = mo.scale_by_sinkhorn(axes, options["num_iters"])
        if not options["operator_norm"]:
            return sinkhorn
        return optax.chain(sinkhorn, mo.scale_by_operator_norm(axes))

    whole = auxiliary_adam(direction, options, setup)
    if options["rest"] == "adam":
        return whole
    tokens = optax.chain(
        mo.scale_by_token_sinkhorn(TOKEN_RULES),
        optax.scale_by_learning_rate(group_rates(options, setup)[REST]),
    )
    return optax.partition({"tokens": tokens, "others": whole}, _token_labels)


def swan(options: Options, setup: Setup) -> optax.GradientTransformation:
    """SWAN, with the paper's whitening or an exact one."""
    exact = options["orthogonalizer"] == "exact"
    orthogonalizer = mo.polar_express() if exact else mo.swan_whitening()
    return auxiliary_adam(
        lambda axes: mo.scale_by_swan(axes, orthogonalizer=orthogonalizer), options, setup
    )


def muon(options: Options, setup: Setup) -> optax.GradientTransformation:
    """optax's Muon for the matrices, Adam for every other parameter."""
    kernel = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
    rates = group_rates(options, setup)
    matrices = optax.contrib.muon(
        rates[MATRIX],
        beta=options["momentum"],
        nesterov=options["nesterov"],
        weight_decay=options["weight_decay"],
        muon_weight_dimension_numbers=lambda params: jax.tree.map(lambda _: kernel, params),
        consistent_rms=1.0,  # entries of root mean square 1, as for the others: rates compare
    )
    # not muon's own Adam, which follows its choice of nesterov
    return by_group({MATRIX: matrices, REST: optax.adam(rates[REST], b2=options["b2"])})


def _matrix_mask(params: Params) -> Any:
    return jax.tree.map(lambda label: label == MATRIX, mo.group_labels(LLAMA_RULES)(params))


def adamw(options: Options, setup: Setup) -> optax.GradientTransformation:
    """AdamW as it is mostly run: one rate for every parameter."""
    rate = schedule(options["learning_rate"], setup.steps, setup.warm_up)
    decay = options["weight_decay"]
    transformation = optax.adamw(rate, b2=options["b2"], weight_decay=decay, mask=_matrix_mask)
    norm = options["clip_norm"]
    clip = optax.clip_by_global_norm(norm) if norm else optax.identity()
    return optax.chain(clip, transformation)


def adamw2(options: Options, setup: Setup) -> optax.GradientTransformation:
    """AdamW with a rate for the matrices and one for the rest."""
    return auxiliary_adam(lambda axes: optax.scale_by_adam(b2=options["b2"]), options, setup)


def sgd(options: Options, setup: Setup) -> optax.GradientTransformation:
    """Gradient descent."""
    momentum = options["momentum"] or None
    rates = group_rates(options, setup)
    return by_group({g: optax.sgd(rates[g], momentum, options["nesterov"]) for g in rates})
