"""The table of optimizers: SinkGD, SWAN, the library's baselines and optax's own.

One entry, a builder under `register`, makes an optimizer available to every command. A builder
takes a `Context` alone, so that it serves the LLaMA and any other tree of weights.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import optax

import multinorm_optax as mo
from examples.llama.per_layer import per_layer
from examples.llama.run.options import InputError

MATRIX, REST = "matrix", "adam"
"""The labels of `mo.group_labels`."""


@dataclass(frozen=True)
class Context:
    """Everything that a builder needs."""

    options: Mapping[str, Any]
    """The optimizer's options, those of its entry, and their values."""
    rates: Mapping[str, optax.ScalarOrSchedule]
    """The learning rates by group, `MATRIX` and `REST`; equal if the optimizer has only one."""
    axes: Any
    """Axes or rules that say which leaves are matrices, see `mo.resolve_axes`."""
    token_axes: Any = ()
    """Rules for the tables with a row per token."""
    blocks: Callable[[Any], Any] | None = None
    """Adam-mini's blocks, from `value_blocks`; `None` for a block per output of each matrix."""
    max_rank: int | None = None
    """The largest rank that every matrix has; `None` does not check."""
    state_dtype: Any = None
    """The dtype of momentum and moments; `None` for at least float32."""


Builder = Callable[[Context], optax.GradientTransformation]


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


OPTIMIZERS: dict[str, Optimizer] = {}
"""Every optimizer by the name that `--optimizer` takes."""


def register(
    name: str, title: str, summary: str, defaults: Mapping[str, Any], *, layerwise: bool = True
) -> Callable[[Builder], Builder]:
    """Enter the decorated builder into the table; `Optimizer` says what the arguments are."""

    def enter(build: Builder) -> Builder:
        OPTIMIZERS[name] = Optimizer(title, build, defaults, summary, layerwise)
        return build

    return enter


def register_variant(name: str, title: str, of: str, **options: Any) -> None:
    """Enter an optimizer with other options into the table."""
    base = OPTIMIZERS[of]
    OPTIMIZERS[name] = dataclasses.replace(
        base,
        title=title,
        defaults={**base.defaults, **options},
        summary="",
        variant_of=of,
        own_options=options,
    )


_ADAM = {"b2": 0.999, "weight_decay": 0.0, "clip_norm": 0.0}
_STATELESS = {"momentum": 0.0, "nesterov": False}


def _rates(matrices: float, rest: float) -> dict[str, Any]:
    return {"learning_rate": matrices, "rest_learning_rate": rest}


def by_group(
    context: Context, build: Callable[[optax.ScalarOrSchedule, float], optax.GradientTransformation]
) -> optax.GradientTransformation:
    """The same for the matrices and for every other parameter: `build(rate, weight decay)`.

    Each has its own rate; only matrices decay.
    """
    decay = {MATRIX: context.options.get("weight_decay", 0.0), REST: 0.0}
    groups = {group: build(rate, decay[group]) for group, rate in context.rates.items()}
    return optax.partition(groups, mo.group_labels(context.axes))


def with_adam(
    direction: Callable[[Any], optax.GradientTransformation], context: Context
) -> optax.GradientTransformation:
    """A direction for the matrices, Adam for every other parameter, each at its own rate.

    Momentum, decay and clipping are off where the optimizer has no such option.
    """
    options = context.options
    return mo.auxiliary_adam(
        direction,
        context.rates[MATRIX],
        alpha=1.0,  # the rate given is the matrices' own, not a multiple of the other one
        axes=context.axes,
        momentum=options.get("momentum") or None,
        momentum_dtype=context.state_dtype,
        nesterov=options.get("nesterov", False),
        weight_decay=options.get("weight_decay", 0.0),
        adam_learning_rate=context.rates[REST],
        adam_b2=options.get("b2", 0.999),
        adam_clip_norm=options.get("clip_norm") or None,
        adam_moment_dtype=context.state_dtype,
    )


@register(
    "sinkgd",
    "SinkGD",
    "stateless on the matrices of the layers, Adam on every other parameter",
    _rates(1e-3, 8e-2)
    | _STATELESS
    | _ADAM
    | {"num_iters": 5, "rest": "adam", "operator_norm": False},
)
def _sinkgd(context: Context) -> optax.GradientTransformation:
    options = context.options
    if options["num_iters"] == 0:
        raise InputError("--num-iters is 0, but sinkgd takes one sweep at least")

    def direction(axes: Any) -> optax.GradientTransformation:
        sinkhorn = mo.scale_by_sinkhorn(axes, options["num_iters"])
        if not options["operator_norm"]:
            return sinkhorn
        return optax.chain(sinkhorn, mo.scale_by_operator_norm(axes))

    def token_labels(params: Any) -> Any:
        labels = mo.group_labels([*context.token_axes, (r".*", None)])(params)
        return jax.tree.map(lambda label: "tokens" if label == MATRIX else "others", labels)

    others = with_adam(direction, context)
    if options["rest"] == "adam":
        return others
    tokens = optax.chain(
        mo.scale_by_token_sinkhorn(context.token_axes),
        optax.scale_by_learning_rate(context.rates[REST]),
    )
    return optax.partition({"tokens": tokens, "others": others}, token_labels)


register_variant("sinkgd-1", "SinkGD, 1 sweep", of="sinkgd", num_iters=1)
register_variant("sinkgd-2", "SinkGD, 2 sweeps", of="sinkgd", num_iters=2)
register_variant(
    "sinkgd-operator",
    "SinkGD, 2 sweeps, operator norm set",
    of="sinkgd",
    num_iters=2,
    operator_norm=True,
    learning_rate=0.1,  # of another unit: an operator norm, not the size of an entry
)
register_variant("sinkgd-momentum", "SinkGD, momentum", of="sinkgd", momentum=0.95, nesterov=True)
register_variant(
    "sinkgd-tokens", "SinkGD, stateless embedding and head", of="sinkgd", rest="sinkhorn"
)


@register(
    "swan",
    "SWAN",
    "stateless too, with whitened gradients",
    _rates(4e-3, 4e-2) | _STATELESS | _ADAM | {"orthogonalizer": "exact", "num_iters": 0},
)
def _swan(context: Context) -> optax.GradientTransformation:
    exact = context.options["orthogonalizer"] == "exact"
    direction = functools.partial(
        mo.scale_by_swan,
        orthogonalizer=mo.polar_express() if exact else mo.swan_whitening(),
        num_iters=context.options["num_iters"] or None,
    )
    return with_adam(direction, context)


register_variant("swan-paper", "SWAN, the paper's whitening", of="swan", orthogonalizer="paper")
register_variant("swan-sweeps", "SWAN after 2 sweeps", of="swan", num_iters=2)


@register(
    "muon",
    "Muon",
    "orthogonalized momentum on the matrices, Adam on every other parameter",
    _rates(3e-3, 8e-2) | {"momentum": 0.95, "nesterov": True, "b2": 0.999, "weight_decay": 0.0},
)
def _muon(context: Context) -> optax.GradientTransformation:
    options = context.options
    kernel = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
    matrices = optax.contrib.muon(
        context.rates[MATRIX],
        beta=options["momentum"],
        nesterov=options["nesterov"],
        weight_decay=options["weight_decay"],
        muon_weight_dimension_numbers=lambda params: jax.tree.map(lambda _: kernel, params),
        consistent_rms=1.0,  # entries of root mean square 1, as for the others: rates compare
    )
    # not muon's own Adam, which follows its choice of nesterov
    adam = optax.adam(context.rates[REST], b2=options["b2"])
    return optax.partition({MATRIX: matrices, REST: adam}, mo.group_labels(context.axes))


@register(
    "adamw",
    "AdamW, one rate",
    "one rate for every parameter",
    {"learning_rate": 1.4e-3} | _ADAM,
)
def _adamw(context: Context) -> optax.GradientTransformation:
    options = context.options

    def is_matrix(params: Any) -> Any:
        return jax.tree.map(lambda label: label == MATRIX, mo.group_labels(context.axes)(params))

    norm = options["clip_norm"]
    return optax.chain(
        optax.clip_by_global_norm(norm) if norm else optax.identity(),
        optax.adamw(
            context.rates[MATRIX],
            b2=options["b2"],
            weight_decay=options["weight_decay"],
            mask=is_matrix,
        ),
    )


@register(
    "adamw2",
    "AdamW, two rates",
    "AdamW with two rates, as all others have",
    _rates(1.5e-3, 2e-2) | _ADAM,
)
def _adamw2(context: Context) -> optax.GradientTransformation:
    return with_adam(lambda axes: optax.scale_by_adam(b2=context.options["b2"]), context)


@register(
    "sgd",
    "SGD with momentum",
    "gradient descent with momentum",
    _rates(0.5, 0.5) | {"momentum": 0.9, "nesterov": False},
)
def _sgd(context: Context) -> optax.GradientTransformation:
    momentum, nesterov = context.options["momentum"] or None, context.options["nesterov"]
    return by_group(context, lambda rate, _: optax.sgd(rate, momentum, nesterov))


register_variant("sgd-plain", "SGD without momentum", of="sgd", momentum=0.0)


@register(
    "adam-mini",
    "Adam-mini",
    "Adam with one second moment per block",
    _rates(2e-3, 8e-2) | {"b2": 0.999, "weight_decay": 0.0, "value_blocks": "whole"},
)
def _adam_mini(context: Context) -> optax.GradientTransformation:
    b2, values = context.options["b2"], context.options["value_blocks"]
    blocks = context.blocks(values) if context.blocks else context.axes
    return by_group(
        context,
        lambda rate, decay: mo.adam_mini(rate, blocks=blocks, b2=b2, weight_decay=decay),
    )


def _rank(context: Context) -> int:
    rank, most = context.options["rank"], context.max_rank
    if most is not None and rank > most:
        raise InputError(
            f"--rank is {rank}, but the matrices have only {most} dimensions; choose 1 to {most}"
        )
    return rank


@register(
    "ldadam",
    "LDAdam",
    "Adam in a subspace that turns every step",
    _rates(8e-3, 8e-2) | {"rank": 16, "error_feedback": True, "b2": 0.99, "weight_decay": 0.0},
)
def _ldadam(context: Context) -> optax.GradientTransformation:
    """LDAdam for the matrices, AdamW with the same decays for every other parameter."""
    options = context.options
    return mo.ldadam(
        context.rates[MATRIX],
        axes=context.axes,
        rank=_rank(context),
        b2=options["b2"],
        error_feedback=options["error_feedback"],
        weight_decay=options["weight_decay"],
        adam_learning_rate=context.rates[REST],
        adam_b2=options["b2"],
        adam_moment_dtype=context.state_dtype,
    )


register_variant("ldadam-plain", "LDAdam without error feedback", of="ldadam", error_feedback=False)


@register(
    "galore",
    "GaLore",
    "Adam in a subspace that is fixed for some steps",
    _rates(5.7e-3, 2e-2) | _ADAM | {"rank": 32, "update_proj_gap": 50},
    layerwise=False,
)
def _galore(context: Context) -> optax.GradientTransformation:
    """GaLore for the matrices, Adam for every other parameter.

    optax projects the longer side of a matrix, the paper's program the shorter one, so the basis
    has more numbers here and the moments fewer.
    """
    matrices = optax.contrib.scale_by_galore(
        _rank(context),
        context.options["update_proj_gap"],
        base_optimizer=optax.scale_by_adam(b2=context.options["b2"]),
    )
    return with_adam(lambda axes: per_layer(matrices, ndim=2), context)


@register(
    "lion",
    "Lion",
    "the sign of momentum",
    _rates(5e-4, 1e-2) | {"b2": 0.99, "weight_decay": 0.0},
)
def _lion(context: Context) -> optax.GradientTransformation:
    b2 = context.options["b2"]
    return by_group(context, lambda rate, decay: optax.lion(rate, b2=b2, weight_decay=decay))


@register(
    "adalomo",
    "Adafactor as AdaLomo",
    "Adafactor with AdaLomo's settings",
    _rates(0.04, 0.5),
)
def _adalomo(context: Context) -> optax.GradientTransformation:
    """Adafactor with AdaLomo's settings (Lv et al., arXiv 2310.10195) for every parameter.

    A rate is relative to the root mean square of a weight.
    """

    def adafactor(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        return optax.adafactor(
            rate,
            min_dim_size_to_factor=1,
            decay_rate=0.8,
            clipping_threshold=1.0,
            momentum=None,
            weight_decay_rate=None,
            multiply_by_parameter_scale=True,
        )

    def labels(params: Any) -> Any:
        found = mo.group_labels(context.axes)(params)
        if "layers" not in params:  # a part of the model, in a layer-wise step
            return found
        gains = jax.tree.map(lambda label: "gain" if label == REST else label, found["layers"])
        return {**found, "layers": gains}

    groups = {
        MATRIX: per_layer(adafactor(context.rates[MATRIX]), ndim=2),
        "gain": per_layer(adafactor(context.rates[REST]), ndim=1),
        REST: adafactor(context.rates[REST]),
    }
    return optax.partition(groups, labels)


BASE_OPTIMIZERS = tuple(name for name, one in OPTIMIZERS.items() if one.variant_of is None)
"""The names of those that are not variants."""
