"""What is timed: SinkGD, its baselines, and the same mathematics written out plainly."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

import multinorm_optax as mo
from examples.llama.builders import per_layer

RATE = 1e-3
"""The learning rate of all; it does not change the speed."""

RANK = 128
"""Of GaLore's subspace."""

REFERENCE = "adamw"
"""The optimizer that all others are compared with; it takes part in every group."""

Make = Callable[[mo.MatrixAxes], optax.GradientTransformation]
"""An optimizer for a tree of nothing but matrices, from their axes."""


@dataclass(frozen=True)
class Competitor:
    """One of the optimizers that take turns."""

    title: str
    """How tables and pictures call it."""
    make: Make


def literal_sinkhorn(axes: mo.MatrixAxes, num_iters: int) -> optax.GradientTransformation:
    """SR-Sinkhorn as one would write it down, in float32: every half-step makes a new matrix.

    Scetbon et al., arXiv 2502.06742, Algorithm 3: rows divided by their norm, times sqrt(n), then
    columns by theirs, times sqrt(m).
    """

    def direction(G: jax.Array) -> jax.Array:
        m, n = axes.matrix_shape(G.shape)

        def norm(X: jax.Array, over: tuple[int, ...]) -> jax.Array:
            return jnp.sqrt(jnp.sum(X * X, axis=over, keepdims=True))

        def sweep(_: int, X: jax.Array) -> jax.Array:
            X = X / norm(X, axes.input) * jnp.sqrt(n)
            return X / norm(X, axes.output) * jnp.sqrt(m)

        return jax.lax.fori_loop(0, num_iters, sweep, G.astype(jnp.float32)).astype(G.dtype)

    return optax.stateless(lambda updates, _: jax.tree.map(direction, updates))


def _descent(direction: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(direction, optax.scale_by_learning_rate(RATE))


def _sinkgd(num_iters: int, tol: float | None = None) -> Make:
    return lambda axes: mo.sinkgd(RATE, axes=axes, num_iters=num_iters, tol=tol, alpha=1.0)


def _alternated(axes: mo.MatrixAxes) -> optax.GradientTransformation:
    return _descent(mo.multi_normalize(mo.normalize_rows(axes), mo.normalize_columns(axes)))


def _literal(axes: mo.MatrixAxes) -> optax.GradientTransformation:
    return _descent(literal_sinkhorn(axes, 5))


def _muon(axes: mo.MatrixAxes) -> optax.GradientTransformation:
    kernel = optax.contrib.MuonDimensionNumbers(axes.input, axes.output)
    return optax.contrib.muon(
        RATE,
        ns_steps=5,
        muon_weight_dimension_numbers=lambda params: jax.tree.map(lambda _: kernel, params),
    )


def _swan(axes: mo.MatrixAxes) -> optax.GradientTransformation:
    # with the precision of Muon's matrix products, which are most of the work of both
    whitening = mo.muon_quintic(5, precision="default")
    return mo.swan(RATE, axes=axes, alpha=1.0, orthogonalizer=whitening)


def _galore(axes: mo.MatrixAxes) -> optax.GradientTransformation:
    # takes no axes of a stack; its matrices are the last two
    del axes
    return _descent(per_layer(optax.contrib.scale_by_galore(RANK), ndim=2))


def _adafactor(axes: mo.MatrixAxes) -> optax.GradientTransformation:
    del axes
    return per_layer(optax.adafactor(RATE, min_dim_size_to_factor=1, decay_rate=0.8), ndim=2)


FAST: Mapping[str, Competitor] = {
    REFERENCE: Competitor("AdamW", lambda _: optax.adamw(RATE)),
    "sgd": Competitor("SGD", lambda _: optax.sgd(RATE)),
    "sinkgd": Competitor("SinkGD", _sinkgd(5)),
    "sinkgd-1": Competitor("SinkGD L=1", _sinkgd(1)),
    "sinkgd-tol": Competitor("SinkGD tol=1e-3", _sinkgd(5, 1e-3)),
    "multi-normalize": Competitor("multi_normalize", _alternated),
    "literal": Competitor("written plainly", _literal),
}
"""Optimizers that pass over the weights a few times. SinkGD has L = 5 sweeps unless its title says
otherwise. The last two compute the same, through the general interface and without this library."""

SLOW: Mapping[str, Competitor] = {
    REFERENCE: FAST[REFERENCE],
    "sinkgd": FAST["sinkgd"],
    "muon": Competitor("Muon", _muon),
    "swan": Competitor("SWAN", _swan),
}
"""Optimizers that multiply matrices, with five Newton-Schulz steps, and two to compare with."""

BASELINES: Mapping[str, Competitor] = {
    REFERENCE: FAST[REFERENCE],
    "sinkgd": FAST["sinkgd"],
    "adam-mini": Competitor("Adam-mini", lambda axes: mo.adam_mini(RATE, blocks=axes)),
    "lion": Competitor("Lion", lambda _: optax.lion(RATE)),
    "adalomo": Competitor("AdaLomo", _adafactor),
    "ldadam": Competitor("LDAdam", lambda axes: mo.ldadam(RATE, axes=axes, rank=16)),
    "galore": Competitor("GaLore", _galore),
}
"""Those with less state than AdamW, and SinkGD. Adam-mini has a block for each output neuron,
LDAdam rank 16 and error feedback, GaLore rank 128: the steps that choose its subspace anew are too
rare to show in a median."""

TITLES: Mapping[str, str] = {name: one.title for name, one in {**FAST, **SLOW, **BASELINES}.items()}
"""Everyone's title."""
