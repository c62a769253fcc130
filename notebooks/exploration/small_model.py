"""A model of the next byte, small enough to train in a moment with several optimizers and rates."""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from rich.console import Console

import multinorm_optax as mo
from examples.llama.config import CorpusConfig
from examples.llama.text.corpus import load_corpus
from exploration.pictures import legend, line_style, new_figure, style
from exploration.timing import milliseconds

CONTEXT, WIDTH, HIDDEN, VOCABULARY = 8, 16, 128, 256

MakeOptimizer = Callable[[Any], optax.GradientTransformation]
"""From a learning rate, which may be traced, to an optimizer."""
Params = dict[str, dict[str, jax.Array]]


def init_model(seed: int = 0) -> Params:
    """An embedding, two hidden kernels (in, out) with biases, and a head, in flax's names."""
    keys = jax.random.split(jax.random.key(seed), 4)

    def kernel(key: jax.Array, size: int, width: int) -> jax.Array:
        return jax.random.normal(key, (size, width)) / jnp.sqrt(size)

    return {
        "embed": {"embedding": 0.3 * jax.random.normal(keys[0], (VOCABULARY, WIDTH))},
        "first": {"kernel": kernel(keys[1], CONTEXT * WIDTH, HIDDEN), "bias": jnp.zeros(HIDDEN)},
        "second": {"kernel": kernel(keys[2], HIDDEN, HIDDEN), "bias": jnp.zeros(HIDDEN)},
        "head": {"kernel": kernel(keys[3], HIDDEN, VOCABULARY)},
    }


def loss(params: Params, windows: jax.Array) -> jax.Array:
    """Cross-entropy of the last byte of each window (B, CONTEXT + 1), in nats."""
    x = params["embed"]["embedding"][windows[:, :-1]].reshape(len(windows), -1)
    for name in ("first", "second"):
        x = jax.nn.silu(x @ params[name]["kernel"] + params[name]["bias"])
    logits = x @ params["head"]["kernel"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, -1]).mean()


def batches(steps: int, size: int = 128, config: CorpusConfig | None = None) -> jax.Array:
    """Windows of the standard library's source: (steps, size, CONTEXT + 1)."""
    corpus: Any = load_corpus(config or CorpusConfig(), VOCABULARY, Console(file=io.StringIO()))
    (train,) = corpus.train.values()
    starts = np.random.default_rng(0).integers(0, len(train) - CONTEXT, (steps, size, 1))
    return jnp.int32(train[starts + np.arange(CONTEXT + 1)])


@partial(jax.jit, static_argnames="make")
def train(make: MakeOptimizer, rates: jax.Array, windows: jax.Array) -> jax.Array:
    """The loss of every step (rates, steps) of one training for each rate."""

    def with_rate(rate: jax.Array) -> jax.Array:
        optimizer = make(rate)

        def step(carry: Any, batch: jax.Array) -> tuple[Any, jax.Array]:
            params, state = carry
            value, gradients = jax.value_and_grad(loss)(params, batch)
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), value

        params = init_model()
        return jax.lax.scan(step, (params, optimizer.init(params)), windows)[1]

    return jax.lax.map(with_rate, rates)


class Trainings:
    """One training for each optimizer and each rate, and a picture of them."""

    def __init__(
        self,
        optimizers: Mapping[str, MakeOptimizer],
        rates: Sequence[float],
        windows: jax.Array,
    ):
        """Train them all."""
        self.rates = list(rates)
        self.optimizers = dict(optimizers)
        self.losses = {}
        for name, make in optimizers.items():
            print(f"{name}: compiling, and {len(windows)} steps at {len(self.rates)} rates")
            self.losses[name] = np.asarray(train(make, jnp.float32(self.rates), windows))

    def summary(self) -> str:
        """A table: the state of each optimizer, the time of its update, and its lowest loss."""
        params = init_model()
        rows = [f"{'':20}{'state':>11}{'of the weights':>16}{'update':>10}{'lowest loss':>13}"]
        for name, make in self.optimizers.items():
            optimizer = make(self.rates[0])
            audited = mo.audit(params, optimizer)
            share = audited.state_bytes / audited.parameter_bytes
            cost = milliseconds(optimizer.update, params, optimizer.init(params), params)
            rows.append(
                f"{name:20}{audited.state_bytes / 2**10:7.2f} KiB{share:16.2f}{cost:7.2f} ms"
                f"{self._final(name).min():13.3f}"
            )
        return "\n".join(rows)

    def _final(self, name: str) -> np.ndarray:
        """The mean loss of the last 30 steps, at each rate; infinite for a run that diverged."""
        return np.nan_to_num(self.losses[name][:, -30:].mean(axis=1), nan=np.inf)

    def picture(self, rate: float) -> Figure:
        """Losses at one rate, and the final loss at every rate."""
        figure, (left, right) = new_figure(1, 2, height=4)
        style(left, f"training with rate {rate:g}", "step", "loss (nats per byte)")
        style(right, "loss of the last 30 steps, by rate", "learning rate", "loss (nats per byte)")
        for index, (name, losses) in enumerate(self.losses.items()):
            curve = losses[self.rates.index(rate)]
            smooth = np.convolve(curve, np.full(15, 1 / 15), "valid")
            steps = np.arange(len(smooth)) + 8
            left.plot(steps, smooth, linewidth=2, label=name, **line_style(index))
            right.semilogx(
                self.rates, self._final(name), marker="o", label=name, **line_style(index)
            )
        right.axvline(rate, color="0.6", linestyle=":", zorder=0)
        for axes in (left, right):
            axes.set_ylim(2, 4.2)
        legend(left)
        return figure
