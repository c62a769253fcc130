"""One run: a plain loop over the example's model, loss, optimizers and batches."""

import dataclasses
from time import perf_counter
from typing import Any, Protocol

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.llama.config import DataConfig, OptimizerConfig, Setup
from examples.llama.loss import make_validate
from examples.llama.model import Params, abstract_llama, init_llama
from examples.llama.optimizers import Builder
from examples.llama.presets import resolve
from examples.llama.schedule import make_optimizer, peak_rates
from examples.llama.step import mean_loss_and_gradients
from examples.measure.study.plan import Cell
from examples.measure.study.results import Run, Trial


class Tokens(Protocol):
    """A text as token ids."""

    @property
    def name(self) -> str:
        """Two texts of one name give the same rows."""

    def training_batches(self, config: DataConfig) -> grain.IterDataset:
        """Endless batches (B, S), in an order that the data seed determines."""

    def validation_data(self, config: DataConfig) -> tuple[np.ndarray, float | None]:
        """The fixed validation rows (R, S), and bytes per token if they are known."""


class Trainer:
    """Trains with one optimizer in one cell.

    Rates, length and seed are arguments of one compiled step.
    """

    def __init__(self, cell: Cell, name: str, corpus: Tokens, build: Builder | None = None):
        """Prepare; compilation waits for the first run.

        Args:
            cell: model and batch size.
            name: the optimizer of the table.
            corpus: the text.
            build: builds another optimizer with its options.
        """
        setup = cell.setup
        config = resolve(OptimizerConfig(name), setup.preset)
        definition, _ = abstract_llama(setup.model)
        self._setup, self._corpus = setup, corpus
        self._names = list(peak_rates(config))
        self._validate = make_validate(
            definition,
            corpus.validation_data(setup.data)[0],
            setup.data.batch_size // setup.data.microbatches,
        )

        def optimizer(peaks: dict[str, Any], steps: Any) -> optax.GradientTransformation:
            warm_up: Any = jnp.maximum(1, jnp.round(steps / 10))
            scheduled: Setup = dataclasses.replace(setup, steps=steps, warm_up_steps=warm_up)
            return make_optimizer(dataclasses.replace(config, **peaks), scheduled, build)

        def start(seed: jax.Array) -> tuple[Params, optax.OptState]:
            params = init_llama(setup.model, seed)
            return params, optimizer({}, setup.steps).init(params)

        def step(
            params: Params, state: optax.OptState, rows: jax.Array, peaks: Any, steps: jax.Array
        ) -> tuple[Params, optax.OptState, jax.Array]:
            loss, gradients = mean_loss_and_gradients(
                definition, params, rows, setup.data.microbatches
            )
            updates, state = optimizer(peaks, steps).update(gradients, state, params)
            return optax.apply_updates(params, updates), state, loss

        self._start = jax.jit(start)
        self._step = jax.jit(step, donate_argnums=(0, 1))
        self._compiled = False

    def run(self, trial: Trial, environment: int) -> Run:
        """Train and validate; the seed decides initial weights and order of the text."""
        if not self._compiled:  # one step without a record, so that no run's time includes it
            self._compiled = True
            self._train(trial, 1)
        begin = perf_counter()
        loss, diverged_at = self._train(trial, trial.steps)
        seconds = round(perf_counter() - begin, 2)
        return Run(trial, loss, diverged_at, seconds, environment)

    def _train(self, trial: Trial, last: int) -> tuple[float | None, int | None]:
        """The loss after some of a trial's steps, or else the step at which it diverged."""
        data = dataclasses.replace(self._setup.data, data_seed=trial.seed)
        batches = iter(self._corpus.training_batches(data))
        params, state = self._start(trial.seed)
        each = zip(self._names, trial.rates.each, strict=True)
        peaks = {name: jnp.float32(rate) for name, rate in each}
        pending = None
        for number in range(1, last + 1):
            params, state, loss = self._step(
                params, state, next(batches), peaks, jnp.int32(trial.steps)
            )
            # the step before is read once this one is under way
            if pending is not None and not np.isfinite(float(pending)):
                return None, number - 1
            pending = loss
        result = float(self._validate(params).loss)
        return (round(result, 6), None) if np.isfinite(result) else (None, last)
