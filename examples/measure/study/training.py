"""One run: a plain loop over the example's model, loss, optimizers and batches."""

import dataclasses
from time import perf_counter
from typing import Any, Protocol

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.llama.config import DataConfig, Setup
from examples.llama.loss import make_validate
from examples.llama.model import Params, abstract_llama, init_llama
from examples.llama.presets import resolve
from examples.llama.schedule import make_optimizer, peak_rates
from examples.llama.step import mean_loss_and_gradients
from examples.measure.study.plan import Cell, Entry
from examples.measure.study.results import Run, Trial


class Tokens(Protocol):
    """A text as token ids."""

    @property
    def name(self) -> str:
        """Two texts of one name give the same rows."""

    def training_batches(self, config: DataConfig) -> grain.IterDataset:
        """Endless batches (B, S), in an order that the data seed determines."""

    def validation_rows(self, config: DataConfig) -> np.ndarray:
        """The fixed validation rows (R, S)."""


class Trainer:
    """Trains with one optimizer in one cell.

    Rates, length and seed are arguments of one compiled step.
    """

    def __init__(self, cell: Cell, entry: Entry, corpus: Tokens):
        """Prepare; compilation waits for the first run."""
        setup = cell.setup
        config = resolve(entry.optimizer, setup.preset)
        definition, _ = abstract_llama(setup.model)
        self._setup, self._corpus = setup, corpus
        self._names = list(peak_rates(config))
        self._validate = make_validate(
            definition,
            corpus.validation_rows(setup.data),
            setup.data.batch_size // setup.data.microbatches,
        )

        def optimizer(peaks: dict[str, Any], steps: Any) -> optax.GradientTransformation:
            warm_up: Any = jnp.maximum(1, jnp.round(steps / 10))
            scheduled: Setup = dataclasses.replace(setup, steps=steps, warm_up_steps=warm_up)
            return make_optimizer(dataclasses.replace(config, **peaks), scheduled)

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

    def _compile(self, trial: Trial) -> None:
        """One step whose result is dropped, so that no run's time includes compilation."""
        params, state = self._start(0)
        rows = next(iter(self._corpus.training_batches(self._setup.data)))
        params, *_ = self._step(params, state, rows, self._peaks(trial), jnp.int32(trial.steps))
        self._validate(params)
        self._compiled = True

    def _peaks(self, trial: Trial) -> dict[str, jax.Array]:
        each = zip(self._names, trial.rates.each, strict=True)
        return {name: jnp.float32(rate) for name, rate in each}

    def run(self, trial: Trial, environment: int) -> Run:
        """Train and validate.

        Args:
            trial: rates, seed and length; the seed decides initial weights and order of the text.
            environment: number of the environment, for the record.
        """
        if not self._compiled:
            self._compile(trial)
        data = dataclasses.replace(self._setup.data, data_seed=trial.seed)
        batches = iter(self._corpus.training_batches(data))
        begin = perf_counter()
        params, state = self._start(trial.seed)
        peaks, steps = self._peaks(trial), jnp.int32(trial.steps)
        pending, diverged_at = None, None
        for number in range(1, trial.steps + 1):
            params, state, loss = self._step(params, state, next(batches), peaks, steps)
            # the step before is read once this one is under way
            if pending is not None and not np.isfinite(float(pending)):
                diverged_at = number - 1
                break
            pending = loss
        if diverged_at is None:
            loss = self._validate(params).loss
            if np.isfinite(loss):
                seconds = round(perf_counter() - begin, 2)
                return Run(trial, round(loss, 6), None, seconds, environment)
            diverged_at = trial.steps
        return Run(trial, None, diverged_at, round(perf_counter() - begin, 2), environment)
