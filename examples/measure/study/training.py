"""One run: the trainer's loop; rates, length and seed are arguments of one compiled step."""

import dataclasses
from time import perf_counter
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from examples.llama.config import Experiment, OptimizerConfig, Setup
from examples.llama.loss import make_validate
from examples.llama.model import abstract_llama, init_llama
from examples.llama.optimizers import Builder
from examples.llama.presets import resolved
from examples.llama.schedule import make_optimizer, peak_rates
from examples.llama.step import TrainState, mean_loss_and_gradients
from examples.llama.text.corpus import Corpus
from examples.llama.text.tokens import TokenText
from examples.llama.train import Compiled, DivergedError, Task, Validated, fit
from examples.measure.study.plan import Cell
from examples.measure.study.runs import Run, Trial

Tokens: TypeAlias = Corpus | TokenText
"""A text as token ids."""


class Trainer:
    """Trains with one optimizer in one cell."""

    def __init__(self, cell: Cell, name: str, corpus: Tokens, build: Builder | None = None):
        """Prepare; compilation waits for the first run.

        `build` builds another optimizer with the options of the one named.
        """
        experiment = resolved(Experiment(OptimizerConfig(name), cell.setup))
        config, setup, data = experiment.optimizer, cell.setup, cell.setup.data
        definition, _ = abstract_llama(setup.model)
        self._experiment, self._corpus, self._definition = experiment, corpus, definition
        self._validate = make_validate(
            definition, corpus.validation_data(data)[0], data.batch_size // data.microbatches
        )

        def optimizer(peaks: dict[str, Any], steps: Any) -> optax.GradientTransformation:
            warm_up: Any = jnp.maximum(1, jnp.round(steps / 10))
            scheduled: Setup = dataclasses.replace(setup, steps=steps, warm_up_steps=warm_up)
            return make_optimizer(dataclasses.replace(config, **peaks), scheduled, build)

        def start(seed: jax.Array) -> TrainState:
            params = init_llama(setup.model, seed)
            return TrainState(jnp.int32(0), params, optimizer({}, setup.steps).init(params))

        def step(
            state: TrainState, rows: jax.Array, peaks: Any, steps: jax.Array
        ) -> tuple[TrainState, jax.Array]:
            loss, gradients = mean_loss_and_gradients(
                definition, state.params, rows, data.microbatches
            )
            updates, optimizer_state = optimizer(peaks, steps).update(
                gradients, state.optimizer_state, state.params
            )
            params = optax.apply_updates(state.params, updates)
            return TrainState(state.step + 1, params, optimizer_state), loss

        self._start, self._step = jax.jit(start), jax.jit(step, donate_argnums=0)

    def run(self, trial: Trial, environment: int) -> Run:
        """Train and validate; the seed decides initial weights and order of the text."""
        config, setup = self._experiment.optimizer, self._experiment.setup
        data = dataclasses.replace(setup.data, data_seed=trial.seed)
        setup = dataclasses.replace(setup, data=data, steps=trial.steps, validate_every=trial.steps)
        each = zip(peak_rates(config), trial.rates.each, strict=True)
        peaks = {name: jnp.float32(rate) for name, rate in each}
        task = Task(
            Experiment(config, setup),
            self._definition,
            self._corpus.training_batches(data),
            lambda state, rows: self._step(state, rows, peaks, jnp.int32(trial.steps)),
            self._validate,
        )
        begin, loss, diverged_at = perf_counter(), None, None
        try:
            for event in fit(task, self._start(trial.seed), iter(task.batches)):
                if isinstance(event, Compiled):
                    begin = perf_counter()
                elif isinstance(event, Validated):
                    loss = round(event.validation.loss, 6)
        except DivergedError as error:
            diverged_at = error.step
        return Run(trial, loss, diverged_at, round(perf_counter() - begin, 2), environment)
