"""The training loop that every command shares, as a generator of what happened."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.llama.config import Experiment, InputError
from examples.llama.corpus import Corpus
from examples.llama.data import training_batches, validation_rows
from examples.llama.evaluate import Definition, Validation, make_validate, token_losses
from examples.llama.model import Params, init_llama
from examples.llama.optimizers import make_optimizer


class TrainState(NamedTuple):
    """What a step changes."""

    step: jax.Array
    params: Params
    optimizer_state: optax.OptState


@dataclass(frozen=True)
class Step:
    """A step's metrics, read after the next step was dispatched."""

    number: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Validated:
    """The weights after `number` steps, on the validation text."""

    number: int
    validation: Validation


@dataclass(frozen=True)
class Savepoint:
    """A state worth keeping: its loss and its weights are finite, and nothing is under way."""

    number: int
    state: TrainState


Event = Step | Validated | Savepoint


class DivergedError(Exception):
    """The loss or the weights are no longer finite."""

    def __init__(self, step: int, what: str):
        """Remember the step."""
        super().__init__(f"{what} of step {step} is not finite")
        self.step = step


@dataclass(frozen=True)
class Task:
    """An experiment made ready to run."""

    experiment: Experiment
    definition: Definition
    optimizer: optax.GradientTransformation
    batches: grain.IterDataset
    train_step: Callable[[TrainState, np.ndarray], tuple[TrainState, jax.Array]]
    validate: Callable[[Params], Validation]

    def initial_state(self) -> TrainState:
        """The weights that the seed draws, and the optimizer's state for them."""
        _, params = init_llama(self.experiment.setup.model, self.experiment.setup.seed)
        return TrainState(jnp.zeros((), jnp.int32), params, self.optimizer.init(params))


def prepare(experiment: Experiment, corpus: Corpus) -> Task:
    """Build the parts of a settled experiment; nothing is computed yet."""
    setup = experiment.setup
    if setup.model.vocabulary < 256:
        raise InputError(
            f"--vocabulary {setup.model.vocabulary} is too small: tokens are bytes, 0 to 255"
        )
    data = setup.data
    definition, _ = init_llama(setup.model, setup.seed)
    optimizer = make_optimizer(experiment.optimizer, setup.steps)

    def train_step(state: TrainState, rows_BxS: jax.Array) -> tuple[TrainState, jax.Array]:
        def mean_loss(params: Params) -> jax.Array:
            return token_losses(definition, params, rows_BxS).mean()

        loss, gradients = jax.value_and_grad(mean_loss)(state.params)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, optimizer_state), loss

    return Task(
        experiment=experiment,
        definition=definition,
        optimizer=optimizer,
        batches=training_batches(corpus.train, data),
        train_step=jax.jit(train_step, donate_argnums=0),
        validate=make_validate(
            definition, validation_rows(corpus.validation, data), data.batch_size
        ),
    )


@jax.jit
def _all_finite(params: Params) -> jax.Array:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()


def _segment(
    task: Task,
    state: TrainState,
    batches: Iterator[np.ndarray],
    first: int,
    last: int,
    should_stop: Callable[[], bool],
) -> Generator[Step, None, tuple[TrainState, int]]:
    """Run steps `first` + 1 to `last`; return the state and the last step run."""
    clock = perf_counter()

    def read(number: int, loss: jax.Array) -> Step:
        nonlocal clock
        value = float(loss)
        seconds, clock = perf_counter() - clock, perf_counter()
        if not np.isfinite(value):
            raise DivergedError(number, "the loss")
        return Step(number, value, seconds)

    number, pending = first, None
    while number < last and not (number > first and should_stop()):
        state, loss = task.train_step(state, next(batches))
        number += 1
        if pending is not None:
            yield read(*pending)
        pending = (number, loss)
    if pending is not None:
        yield read(*pending)
    return state, number


def _next_multiple(number: int, interval: int) -> int:
    return (number // interval + 1) * interval


def fit(
    task: Task,
    state: TrainState,
    batches: Iterator[np.ndarray],
    *,
    save_every: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Train from `state` to the experiment's last step, or until `should_stop()` after a step.

    The steps between two validations or savepoints are dispatched one ahead of the metrics read, so
    that the device never waits for the host. Before a savepoint the loop waits instead: what is
    saved is known to be finite.

    Args:
        task: the experiment.
        state: where to begin; donated, use the states of the savepoints afterwards.
        batches: iterator over `task.batches`, at the position that belongs to `state`.
        save_every: steps between savepoints; None for no savepoint at all.
        should_stop: asked after every step; true ends the training with a savepoint.

    Yields:
        A `Step` for each step, in order; `Validated` and `Savepoint` when due. A savepoint's state
        may be used until the generator goes on.

    Raises:
        DivergedError: the loss, the validation loss or the weights are not finite.
    """
    steps, validate_every = task.experiment.setup.steps, task.experiment.setup.validate_every
    number = int(state.step)
    while number < steps:
        pauses = [steps, _next_multiple(number, validate_every)]
        if save_every is not None:
            pauses.append(_next_multiple(number, save_every))
        state, number = yield from _segment(task, state, batches, number, min(pauses), should_stop)
        if not bool(_all_finite(state.params)):
            raise DivergedError(number, "a weight after the update")
        if number == steps or number % validate_every == 0:
            validation = task.validate(state.params)
            if not np.isfinite(validation.loss):
                raise DivergedError(number, "the validation loss")
            yield Validated(number, validation)
        stopped = should_stop()
        if save_every is not None and (stopped or number == steps or number % save_every == 0):
            yield Savepoint(number, state)
        if stopped:
            return
