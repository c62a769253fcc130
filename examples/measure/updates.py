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
from examples.measure.timing import REFERENCE, Turn, competitors, spread, take_turns, within

Shape = tuple[int, ...]
Tree = dict[str, jax.Array]

RATE = 1e-3
"""The learning rate of all optimizers; it does not change the speed."""

WEIGHTS = 32_000_000
"""The most weights that are updated, unless one layer has more: 128 MB in float32."""

KERNEL = mo.MatrixAxes(output=-1, input=-2)
"""Stored (layers, in, out), or (in, out)."""

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


def _multi_normalize(axes: mo.MatrixAxes) -> optax.GradientTransformation:
    return mo.multi_normalize(mo.normalize_rows(axes), mo.normalize_columns(axes))


def _swan_quintic(context: Context) -> optax.GradientTransformation:
    # with the polynomial and the precision of Muon, so that both multiply the same matrices
    quintic = mo.muon_quintic(5, precision="default")
    return mo.swan(RATE, axes=context.axes, alpha=1.0, orthogonalizer=quintic)


_RATE = optax.scale_by_learning_rate(RATE)
OWN: Mapping[str, Optimizer] = {
    "sinkgd-tol": Optimizer(
        "SinkGD, tolerance 1e-3",
        lambda context: mo.sinkgd(RATE, axes=context.axes, tol=1e-3, alpha=1.0),
        {},
    ),
    "multi-normalize": Optimizer(
        "multi_normalize", lambda context: optax.chain(_multi_normalize(context.axes), _RATE), {}
    ),
    "literal": Optimizer(
        "literal loop", lambda context: optax.chain(literal_sinkhorn(context.axes, 5), _RATE), {}
    ),
    "swan-quintic": Optimizer("SWAN, Muon's quintic", _swan_quintic, {}),
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


@dataclass(frozen=True)
class Matrices:
    """Weights that optimizers update in turns."""

    name: str
    """Of the preset or the kind of shape."""
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

    def turns(self, names: Sequence[str]) -> dict[str, Turn]:
        """Turns that each update the same weights once, with gradients that exist already.

        The weights' memory, which is donated, goes from turn to turn; each optimizer has its own
        state.
        """
        weights, gradients = self.gaussian(1), self.gradient()

        def turn_of(optimizer: optax.GradientTransformation) -> Turn:
            state = jax.jit(optimizer.init)(weights)

            def step(params: Tree, state: Any, gradients: Tree) -> tuple[Tree, Any]:
                updates, state = optimizer.update(gradients, state, params)
                return optax.apply_updates(params, updates), state

            compiled = jax.jit(step, donate_argnums=(0, 1))

            def turn() -> None:
                nonlocal state, weights
                weights, state = jax.block_until_ready(compiled(weights, state, gradients))

            return turn

        return {name: turn_of(build(name, self.axes)) for name in names}

    def timed(self, names: Sequence[str], seconds: float, console: Console) -> dict[str, Any]:
        """The times of these optimizers' updates, and their ratios to the reference's."""
        what = f"{self.name}, {self.elements / 1e6:.1f} M weights"
        times = take_turns(what, self.turns(names), within(seconds), console)
        reference = times[REFERENCE]
        milliseconds = 1e3 * spread(reference).median
        console.print(f"{what}, {len(reference)} rounds; AdamW takes {milliseconds:.2f} ms")
        about = {"name": self.name, "shapes": self.shapes, "elements": self.elements}
        return {**about, "competitors": competitors(times, TITLES)}


def layer_shapes(preset: PresetName, layers: int) -> dict[str, Shape]:
    """The matrices of some of a preset's layers, stacked."""
    model = PRESETS[preset].setup.model
    d, f = model.hidden, model.mlp
    attention = dict.fromkeys(("query", "key", "value", "out"), (layers, d, d))
    return {**attention, "gate": (layers, d, f), "up": (layers, d, f), "down": (layers, f, d)}


def fitting_layers(preset: PresetName) -> int:
    """How many of a preset's layers have no more weights than `WEIGHTS`; at least one."""
    each = sum(math.prod(shape) for shape in layer_shapes(preset, 1).values())
    return min(PRESETS[preset].setup.model.layers, max(1, WEIGHTS // each))
