"""The training loop that every command shares, as a generator of what happened."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from time import perf_counter

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.llama.config import Experiment
from examples.llama.loss import Validate, Validation, make_validate
from examples.llama.mesh import ONE_DEVICE, Placement
from examples.llama.model import Definition, Params, abstract_llama
from examples.llama.processes import Agreement
from examples.llama.schedule import make_optimizer
from examples.llama.step import TrainState, initial_state, make_train_step
from examples.llama.text.corpus import Corpus


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
    """A state worth keeping: its weights and their loss are finite, and nothing is under way."""

    number: int
    state: TrainState


@dataclass(frozen=True)
class Compiled:
    """The train step is compiled; nothing happened before."""

    seconds: float


Event = Compiled | Step | Validated | Savepoint


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
    validate: Validate
    placement: Placement = ONE_DEVICE
    layerwise: bool = False

    def initial_state(self) -> TrainState:
        """The weights that the seed draws, and the optimizer's state for them."""
        return self.placement.create(self._build_state)

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of `initial_state()`; nothing is computed."""
        return self.placement.abstract(self._build_state)

    def validates_after(self, number: int) -> bool:
        """Whether the weights after so many steps are validated."""
        setup = self.experiment.setup
        return number > 0 and (number == setup.steps or number % setup.validate_every == 0)

    def _build_state(self) -> TrainState:
        return initial_state(self.experiment, layerwise=self.layerwise)


def prepare(
    experiment: Experiment,
    corpus: Corpus,
    placement: Placement = ONE_DEVICE,
    *,
    layerwise: bool = False,
) -> Task:
    """Build the parts of a resolved experiment; nothing is computed yet.

    Raises:
        InputError: the text does not suffice, the mesh does not divide batch or heads, or the
            experiment has no layer-wise step but is to be trained with it.
    """
    setup = experiment.setup
    placement.check(setup)
    definition, _ = abstract_llama(setup.model)
    return Task(
        experiment=experiment,
        definition=definition,
        optimizer=make_optimizer(experiment.optimizer, setup),
        batches=corpus.training_batches(setup.data),
        train_step=make_train_step(experiment, placement, layerwise=layerwise),
        validate=make_validate(
            definition,
            corpus.validation_rows(setup.data),
            setup.data.batch_size // setup.data.microbatches,
            corpus.validation_bytes_per_token(setup.data),
            placement,
        ),
        placement=placement,
        layerwise=layerwise,
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
    stop: Agreement,
    compiled: bool,
) -> Generator[Compiled | Step, None, tuple[TrainState, int]]:
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
    while number < last and not (number > first and stop.soon()):
        rows = next(batches)
        start = perf_counter()
        state, loss = task.train_step(state, rows)
        number += 1
        if not compiled:
            compiled = True
            yield Compiled(perf_counter() - start)
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
        should_stop: asked after every step; once true it has to stay true, and ends the training
            with a savepoint. Of several processes, any can stop all.

    Yields:
        `Compiled` once the first step is under way; a `Step` for each step, in order; `Validated`
        and `Savepoint` when due. A savepoint's state may be used until the generator goes on.

    Raises:
        DivergedError: the loss, the validation loss or the weights are not finite.
    """
    steps, validate_every = task.experiment.setup.steps, task.experiment.setup.validate_every
    number, stop = int(state.step), Agreement(should_stop)
    first = number
    while number < steps:
        pauses = [steps, _next_multiple(number, validate_every)]
        if save_every is not None:
            pauses.append(_next_multiple(number, save_every))
        begun = number > first
        state, number = yield from _segment(task, state, batches, number, min(pauses), stop, begun)
        if not bool(_all_finite(state.params)):
            raise DivergedError(number, "a weight after the update")
        if task.validates_after(number):
            validation = task.validate(state.params)
            if not np.isfinite(validation.loss):
                raise DivergedError(number, "the validation loss")
            yield Validated(number, validation)
        stopped = stop.now()
        if save_every is not None and (stopped or number == steps or number % save_every == 0):
            # weights can be finite, and yet so large that nothing goes on from them
            if not task.validates_after(number) and not np.isfinite(
                task.validate(state.params, batches=1).loss
            ):
                raise DivergedError(number, "the loss after the update")
            yield Savepoint(number, state)
        if stopped:
            return
