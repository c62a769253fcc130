"""The training loop that every command shares, as a generator of what happened."""

import dataclasses
import functools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.llama.config import Experiment, InputError, ModelConfig, OptimizerConfig
from examples.llama.corpus import Corpus
from examples.llama.data import training_batches, validation_rows
from examples.llama.evaluate import Validation, make_validate, predicted, token_losses
from examples.llama.model import Definition, Params, abstract_llama, init_llama
from examples.llama.optimizers import make_optimizer, peak_rates


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
        params = init_llama(self.experiment.setup.model, self.experiment.setup.seed)
        return TrainState(jnp.zeros((), jnp.int32), params, self.optimizer.init(params))


def mean_loss_and_gradients(
    definition: Definition, params: Params, rows_BxS: jax.Array, microbatches: int
) -> tuple[jax.Array, Params]:
    """The mean loss over all predicted tokens of a batch, and its gradients.

    With several microbatches they are computed one after another and their gradients added up in
    float32, a sum that lives inside this function. Each token counts alike, wherever the padding
    is: the result is that of the whole batch up to rounding.
    """
    count = jnp.maximum(1, predicted(rows_BxS).sum())

    def part(params: Params, rows: jax.Array) -> jax.Array:
        return token_losses(definition, params, rows).sum() / count

    gradient_of_part = jax.value_and_grad(part)
    if microbatches == 1:
        return gradient_of_part(params, rows_BxS)

    def add(total: Any, rows: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient_of_part(params, rows)), None

    zero = (jnp.zeros(()), jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), params))
    # every M-th row: parts of contiguous rows would lie on some of the devices of a mesh each
    parts_MxbxS = rows_BxS.reshape(-1, microbatches, rows_BxS.shape[1]).swapaxes(0, 1)
    (loss, gradients), _ = jax.lax.scan(add, zero, parts_MxbxS)
    return loss, jax.tree.map(lambda total, w: total.astype(w.dtype), gradients, params)


@functools.cache
def _compiled_step(
    model: ModelConfig, microbatches: int, steps: int, optimizer: OptimizerConfig
) -> Callable[..., tuple[TrainState, jax.Array]]:
    """The train step without its peak rates, which are an argument: tries of rates share it."""
    definition, _ = abstract_llama(model)

    def train_step(
        state: TrainState, rows_BxS: jax.Array, peaks: dict[str, jax.Array]
    ) -> tuple[TrainState, jax.Array]:
        transformation = make_optimizer(dataclasses.replace(optimizer, **peaks), steps)
        loss, gradients = mean_loss_and_gradients(definition, state.params, rows_BxS, microbatches)
        updates, optimizer_state = transformation.update(
            gradients, state.optimizer_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, optimizer_state), loss

    return jax.jit(train_step, donate_argnums=0)


def make_train_step(
    experiment: Experiment,
) -> Callable[[TrainState, np.ndarray], tuple[TrainState, jax.Array]]:
    """The step (state, rows) -> (state, loss) of a settled experiment; the state is donated."""
    setup, optimizer = experiment.setup, experiment.optimizer
    peaks = peak_rates(optimizer)
    unrated = dataclasses.replace(optimizer, **dict.fromkeys(peaks))
    step = _compiled_step(setup.model, setup.data.microbatches, setup.steps, unrated)
    arrays = {name: jnp.float32(peak) for name, peak in peaks.items()}
    return lambda state, rows_BxS: step(state, rows_BxS, arrays)


def prepare(experiment: Experiment, corpus: Corpus) -> Task:
    """Build the parts of a settled experiment; nothing is computed yet."""
    setup = experiment.setup
    if setup.model.vocabulary < 256:
        raise InputError(
            f"--vocabulary {setup.model.vocabulary} is too small: tokens are bytes, 0 to 255"
        )
    definition, _ = abstract_llama(setup.model)
    return Task(
        experiment=experiment,
        definition=definition,
        optimizer=make_optimizer(experiment.optimizer, setup.steps),
        batches=training_batches(corpus.train, setup.data),
        train_step=make_train_step(experiment),
        validate=make_validate(
            definition,
            validation_rows(corpus.validation, setup.data),
            setup.data.batch_size // setup.data.microbatches,
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
