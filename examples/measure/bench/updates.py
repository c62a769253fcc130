"""What `bench` times: updates of weights of chosen shapes, from gradients to new weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.console import Console

import multinorm_optax as mo
from examples.llama.config import PresetName
from examples.llama.optimizers import MATRIX, OPTIMIZERS, REST, Context, Optimizer
from examples.llama.presets import PRESETS
from examples.measure.timing import Turn, take_turns, within

Shape = tuple[int, ...]
Tree = dict[str, jax.Array]

RATE = 1e-3
"""The learning rate of all optimizers; it does not change the speed."""

KERNEL = mo.MatrixAxes(output=-1, input=-2)
"""Stored (layers, in, out), or (in, out)."""

REFERENCE = "adamw"
"""The optimizer that all others are compared with; it takes part in every group."""

FAST = (
    REFERENCE,
    "sgd-plain",
    "sinkgd",
    "sinkgd-1",
    "sinkgd-2",
    "sinkgd-operator",
    "sinkgd-tol",
    "multi-normalize",
    "literal",
)
"""Memory-bound optimizers. `multi-normalize` and `literal` compute the same as `sinkgd`."""
SLOW = (REFERENCE, "sinkgd", "muon", "swan-quintic", "swan")
"""Optimizers that multiply matrices, and two to compare with. Muon and `swan-quintic` take five
Newton-Schulz steps, `swan` takes twelve."""
BASELINES = (REFERENCE, "sinkgd", "adam-mini", "lion", "adalomo", "ldadam", "galore")
"""Optimizers with less state than AdamW. The median does not show GaLore's steps that choose its
subspace: they are too rare."""

_OPTIONS = {"galore": {"rank": 128}}


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


OWN: Mapping[str, Optimizer] = {
    "sinkgd-tol": Optimizer(
        "SinkGD, tolerance 1e-3",
        lambda context: mo.sinkgd(RATE, axes=context.axes, tol=1e-3, alpha=1.0),
        {},
    ),
    "multi-normalize": Optimizer(
        "multi_normalize",
        lambda context: optax.chain(
            mo.multi_normalize(mo.normalize_rows(context.axes), mo.normalize_columns(context.axes)),
            optax.scale_by_learning_rate(RATE),
        ),
        {},
    ),
    "literal": Optimizer(
        "literal loop",
        lambda context: optax.chain(
            literal_sinkhorn(context.axes, 5), optax.scale_by_learning_rate(RATE)
        ),
        {},
    ),
    # with the polynomial and the precision of Muon, so that both multiply the same matrices
    "swan-quintic": Optimizer(
        "SWAN, Muon's quintic",
        lambda context: mo.swan(
            RATE,
            axes=context.axes,
            alpha=1.0,
            orthogonalizer=mo.muon_quintic(5, precision="default"),
        ),
        {},
    ),
}
"""Entries that the trainer's table does not have."""

TITLES: Mapping[str, str] = {
    name: {**OPTIMIZERS, **OWN}[name].title for name in (*FAST, *SLOW, *BASELINES)
}


def build(name: str, axes: mo.MatrixAxes) -> optax.GradientTransformation:
    """An optimizer for a tree that holds only matrices."""
    entry = {**OPTIMIZERS, **OWN}[name]
    options = {**entry.defaults, **_OPTIONS.get(name, {})}
    return entry.build(Context(options=options, rates={MATRIX: RATE, REST: RATE}, axes=axes))


def update_turns(
    optimizers: Mapping[str, optax.GradientTransformation], params: Tree, gradients: Tree
) -> dict[str, Turn]:
    """Turns that each update the same weights once, with gradients that exist already.

    The weights' memory, which is donated, goes from turn to turn; each optimizer has its own state.
    """
    weights = params

    def turn_of(optimizer: optax.GradientTransformation) -> Turn:
        state = jax.jit(optimizer.init)(params)

        def step(params: Tree, state: Any, gradients: Tree) -> tuple[Tree, Any]:
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        compiled = jax.jit(step, donate_argnums=(0, 1))

        def turn() -> None:
            nonlocal state, weights
            weights, state = jax.block_until_ready(compiled(weights, state, gradients))

        return turn

    return {name: turn_of(optimizer) for name, optimizer in optimizers.items()}


@dataclass(frozen=True)
class Matrices:
    """The weights that are updated."""

    shapes: Mapping[str, Shape]
    """By name."""
    dtype: str = "float32"
    axes: mo.MatrixAxes = KERNEL
    steep: bool = False
    """Whether gradients are steep; otherwise they are Gaussian."""

    @property
    def elements(self) -> int:
        """The number of weights."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def gaussian(self, seed: int) -> Tree:
        """Normal random numbers."""
        keys = jax.random.split(jax.random.key(seed), len(self.shapes))
        return {
            name: jax.random.normal(key, shape, self.dtype)
            for key, (name, shape) in zip(keys, self.shapes.items(), strict=True)
        }

    def gradient(self) -> Tree:
        """Normal random numbers; if steep, each times a factor from 1e-6 to 1e6, log-uniform.

        Rows and columns of Gaussian gradients are nearly alike, so that three sweeps balance them
        up to rounding. Steep ones are not balanced after five.
        """
        plain = self.gaussian(0)
        if not self.steep:
            return plain
        sizes = self.gaussian(2)
        return {
            name: leaf * 10.0 ** (12 * jax.scipy.special.ndtr(sizes[name]) - 6).astype(leaf.dtype)
            for name, leaf in plain.items()
        }

    def seconds(
        self, what: str, names: Sequence[str], budget: float, console: Console
    ) -> dict[str, list[float]]:
        """Seconds of the optimizers' updates, round by round, for a budget of seconds."""
        optimizers = {name: build(name, self.axes) for name in names}
        turns = update_turns(optimizers, self.gaussian(1), self.gradient())
        return take_turns(what, turns, within(budget), console)


def layer_shapes(preset: PresetName, layers: int) -> dict[str, Shape]:
    """The matrices of some of a preset's layers, stacked."""
    model = PRESETS[preset].setup.model
    d, f = model.hidden, model.mlp
    attention = dict.fromkeys(("query", "key", "value", "out"), (layers, d, d))
    return {**attention, "gate": (layers, d, f), "up": (layers, d, f), "down": (layers, f, d)}


def fitting_layers(preset: PresetName, elements: float) -> int:
    """How many of a preset's layers have no more weights than that; at least one."""
    each = sum(math.prod(shape) for shape in layer_shapes(preset, 1).values())
    return min(PRESETS[preset].setup.model.layers, max(1, int(elements / each)))


def product_flops(preset: PresetName) -> float:
    """Operations of five of Muon's Newton-Schulz steps on one layer: X X^T, its square, times X."""
    sides = (sorted(shape[1:]) for shape in layer_shapes(preset, 1).values())
    return 5.0 * sum(4 * m * m * n + 2 * m**3 for m, n in sides)


def product_speed(dtype: str, console: Console) -> float:
    """Operations a second in a product of square matrices."""
    x, product = jnp.ones((1024, 1024), dtype), jax.jit(jnp.matmul)
    turns = {"product": lambda: product(x, x).block_until_ready()}
    seconds = take_turns("a product of matrices", turns, lambda _: 5, console)["product"]
    return 2 * 1024**3 / min(seconds)
