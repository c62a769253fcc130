"""Gradients of the example's LLaMA at several moments of a short training.

The model, the text, the train step and the optimizer are those of `examples.llama`; only the sizes
are smaller, so that a few dozen steps take moments.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import jax
import numpy as np
from rich.console import Console

import multinorm_optax as mo
from examples.llama.config import (
    CorpusConfig,
    DataConfig,
    Experiment,
    ModelConfig,
    OptimizerConfig,
    Setup,
)
from examples.llama.model import LLAMA_RULES, Definition, Params, abstract_llama
from examples.llama.presets import resolve
from examples.llama.step import initial_state, make_train_step, mean_loss_and_gradients
from examples.llama.text.corpus import load_corpus

_SMALL = ModelConfig(hidden=64, mlp=160, heads=4, layers=3)
_SHORT = DataConfig(batch_size=8, sequence_length=64)
_SINKGD = OptimizerConfig("sinkgd")


@dataclass(frozen=True)
class Training:
    """What is trained, and when its gradients are kept."""

    model: ModelConfig = _SMALL
    data: DataConfig = _SHORT
    optimizer: OptimizerConfig = _SINKGD
    moments: Sequence[int] = (0, 20, 80)
    """Steps after which the gradient of the next batch is kept."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)

    @property
    def experiment(self) -> Experiment:
        """As the example's trainer takes it."""
        setup = Setup(model=self.model, data=self.data, steps=max(self.moments))
        return Experiment(resolve(self.optimizer), setup)


@dataclass(frozen=True)
class Moment:
    """The gradients of all matrices of the layers at one step."""

    step: int
    loss: float
    """Of the batch that the gradients belong to, in nats per byte."""
    gradients: dict[str, np.ndarray]
    """By name, such as `attention/query`: (layers, m, n) with rows as output features."""


@partial(jax.jit, static_argnames="definition")
def _loss_and_gradients(
    definition: Definition, params: Params, rows: jax.Array
) -> tuple[jax.Array, Params]:
    return mean_loss_and_gradients(definition, params, rows, 1)


def _matrices(gradients: Params) -> dict[str, np.ndarray]:
    """Those that the library's rules for this model call matrices."""
    leaves = jax.tree.leaves(gradients)
    found = zip(leaves, mo.resolve_axes(LLAMA_RULES, gradients), strict=True)
    return {
        path.removeprefix("layers/").removesuffix("/kernel"): np.moveaxis(
            np.asarray(leaf, np.float64), axes.output[0], 1
        )
        for leaf, (path, axes) in found
        if isinstance(axes, mo.MatrixAxes)  # none of this model is fused
    }


def record(training: Training = Training()) -> list[Moment]:
    """Train, and keep the gradients of the batches that come at the chosen steps."""
    experiment = training.experiment
    definition, _ = abstract_llama(training.model)
    corpus = load_corpus(training.corpus, training.model.vocabulary, Console(file=io.StringIO()))
    step = make_train_step(experiment)
    state = initial_state(experiment)
    print(
        f"Compiling the gradient and the step of a LLaMA of {training.model.layers} layers, and"
        f" training it for {max(training.moments)} steps"
    )
    moments = []
    for count, rows in enumerate(corpus.training_batches(training.data)):
        if count in training.moments:
            loss, gradients = _loss_and_gradients(definition, state.params, rows)
            moments.append(Moment(count, float(loss), _matrices(gradients)))
        if count == max(training.moments):
            break
        state, _ = step(state, rows)
    return moments


def imbalance(gradient: np.ndarray) -> tuple[float, float]:
    """How unequal rows are, and columns: the 90th over the 10th percentile of their RMS."""
    spreads = []
    for axis in (1, 0):
        rms = np.sqrt(np.mean(gradient**2, axis=axis))
        low, high = np.quantile(rms[rms > 0], [0.1, 0.9])
        spreads.append(float(high / low))
    return spreads[0], spreads[1]
