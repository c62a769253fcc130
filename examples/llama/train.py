"""Train one LLaMA with one optimizer: `python -m examples.llama.train --optimizer sinkgd`."""

import contextlib
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from examples.llama.checkpoint import Checkpoints, Identity, SaveError, saved_steps
from examples.llama.config import CorpusConfig, Experiment, RunConfig
from examples.llama.loss import Validate, Validation, make_validate
from examples.llama.mesh import ONE_DEVICE, Placement, place
from examples.llama.model import Definition, Params, abstract_llama
from examples.llama.presets import check_rates, resolved
from examples.llama.run.command import NOT_SAVED, run_command
from examples.llama.run.conclusion import conclude
from examples.llama.run.folder import RunFolder, config_of, identity_of
from examples.llama.run.options import as_json
from examples.llama.run.processes import (
    Agreement,
    DistributedConfig,
    check_alike,
    from_main_process,
    is_main_process,
    join_processes,
    leave,
    leaving_together,
)
from examples.llama.run.recording import Recording, Step, Validated, header, write_kept
from examples.llama.run.stop import StopSignals
from examples.llama.run.tracking import check_packages
from examples.llama.step import (
    TrainState,
    TrainStep,
    check_layerwise,
    initial_state,
    make_train_step,
)
from examples.llama.text.corpus import Corpus, load_corpus

DIVERGED = 1
"""Exit code of a run whose loss or weights are no longer finite."""

STEPS_AHEAD = 4
"""Steps dispatched to an accelerator before the loss of the first one is read."""


@dataclass(frozen=True)
class Compiled:
    """The train step is compiled, and the first step is under way; the first event of all."""

    seconds: float


@dataclass(frozen=True)
class Savepoint:
    """A state worth keeping: its weights and their loss are finite, and no step is under way."""

    number: int
    state: TrainState


Event = Compiled | Step | Validated | Savepoint


class DivergedError(Exception):
    """The loss or the weights are no longer finite."""

    def __init__(self, step: int, what: str):
        super().__init__(f"{what} of step {step} is not finite")
        self.step = step


@dataclass(frozen=True)
class Task:
    """An experiment made ready to run."""

    experiment: Experiment
    definition: Definition
    batches: grain.IterDataset
    train_step: TrainStep
    validate: Validate
    placement: Placement = ONE_DEVICE
    layerwise: bool = False

    def initial_state(self) -> TrainState:
        """The weights that the seed draws, and the optimizer's state for them."""
        return self.placement.create(self._build_state)

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of `initial_state()`; nothing is computed."""
        return self.placement.abstract(self._build_state)

    def _build_state(self) -> TrainState:
        return initial_state(self.experiment, layerwise=self.layerwise)


def prepare(
    experiment: Experiment,
    corpus: Corpus,
    placement: Placement = ONE_DEVICE,
    *,
    layerwise: bool = False,
) -> Task:
    """Build the parts of a resolved experiment; the validation text is read, no weight is drawn."""
    setup = experiment.setup
    placement.check(setup)
    definition, _ = abstract_llama(setup.model)
    rows, bytes_per_token = corpus.validation_data(setup.data)
    return Task(
        experiment=experiment,
        definition=definition,
        batches=corpus.training_batches(setup.data),
        train_step=make_train_step(experiment, placement, layerwise=layerwise),
        validate=make_validate(
            definition,
            rows,
            setup.data.batch_size // setup.data.microbatches,
            bytes_per_token,
            placement,
        ),
        placement=placement,
        layerwise=layerwise,
    )


@jax.jit
def _all_finite(params: Params) -> jax.Array:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()


def _steps_ahead(placement: Placement) -> int:
    # devices of a CPU share its cores: steps in flight gain nothing, and those of a mesh, which
    # wait for each other, can block each other
    if jax.default_backend() == "cpu":
        return 1 if placement.mesh is None else 0
    return STEPS_AHEAD


def fit(
    task: Task,
    state: TrainState,
    batches: Iterator[np.ndarray],
    *,
    save_every: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Train from `state` to the experiment's last step, or until `should_stop()` after a step.

    While a step runs, the next batch travels to the devices, and the losses of earlier steps are
    read: accelerators never wait for the host, except where the loop pauses to validate or to save.

    Args:
        task: the experiment.
        state: where to begin; donated, use the states of the savepoints afterwards.
        batches: iterator over `task.batches`, at the position that belongs to `state`. At a
            savepoint it is at the position of that state.
        save_every: steps between savepoints; None for no savepoint at all.
        should_stop: asked after every step; once true it has to stay true, and ends the training
            with a savepoint. With several processes, any one of them can stop all.

    Yields:
        `Compiled` once the first step is under way; a `Step` for each step, in order; `Validated`
        and `Savepoint` when due. A savepoint's state may be used until the next event.

    Raises:
        DivergedError: the loss, the validation loss or the weights are not finite.
    """
    steps, ahead = task.experiment.setup.steps, _steps_ahead(task.placement)
    # in a single process stop.soon() and stop.now() are should_stop()
    stop = Agreement(should_stop, max(1, ahead))
    done, compiled = int(state.step), False
    unread: deque[tuple[int, jax.Array]] = deque()  # losses of steps under way, oldest first
    clock = perf_counter()

    def read_losses(leave: int = 0) -> Iterator[Step]:
        """Read losses, the oldest first, but leave so many unread."""
        nonlocal clock
        while len(unread) > leave:
            step, loss = unread[0]
            value = float(loss)
            unread.popleft()
            seconds, clock = perf_counter() - clock, perf_counter()
            if not np.isfinite(value):
                raise DivergedError(step, "the loss")
            yield Step(step, value, seconds)

    while done < steps:
        try:
            rows = task.placement.put_rows(next(batches))
        except Exception:
            yield from read_losses()
            raise
        yield from read_losses(leave=ahead)
        start = perf_counter()
        state, loss = task.train_step(state, rows)
        done += 1
        unread.append((done, loss))
        if not compiled:
            compiled = True
            yield Compiled(perf_counter() - start)
            clock = perf_counter()

        validate_now = done == steps or done % task.experiment.setup.validate_every == 0
        save_now = save_every is not None and (done == steps or done % save_every == 0)
        if not (validate_now or save_now or stop.soon()):
            continue
        yield from read_losses()
        if not bool(_all_finite(state.params)):
            raise DivergedError(done, "a weight after the update")
        if validate_now:
            validation = task.validate(state.params)
            if not np.isfinite(validation.loss):
                raise DivergedError(done, "the validation loss")
            yield Validated(done, validation)
        stopped = stop.now()
        if save_now or (stopped and save_every is not None):
            # weights can be finite, and yet so large that training from them fails
            if not validate_now and not np.isfinite(task.validate(state.params, batches=1).loss):
                raise DivergedError(done, "the loss after the update")
            yield Savepoint(done, state)
        if stopped:
            return
        clock = perf_counter()


def train(
    experiment: Experiment,
    corpus: Corpus,
    folder: RunFolder,
    run: RunConfig,
    console: Console,
    source: CorpusConfig = CorpusConfig(),
    *,
    fresh: bool = False,
) -> int:
    """Train or continue training in `folder`; return the exit code, 0 when the run is finished.

    `source`, where the corpus came from, is kept for the commands that use the trained model. With
    `fresh` the folder is moved aside first, if it is there.

    Raises:
        ConfigMismatchError: the folder holds something else.
        InputError: another process trains in the folder, or the experiment does not fit the corpus,
            the devices or a layer-wise step that is asked for.
    """

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    # with one process check_alike does nothing, from_main_process(f) is f(), leave(code) is code
    experiment = resolved(experiment)
    config = config_of(experiment, corpus, layerwise=run.layerwise)
    where = {"fresh": fresh, "run_dir": str(folder.path.absolute())}
    check_alike({**config, **as_json(run), **where})
    if run.layerwise:
        check_layerwise(experiment)

    def prepared() -> Task:
        return prepare(experiment, corpus, place(run.mesh), layerwise=run.layerwise)

    # a new run that cannot work is refused before its folder is made; in a folder that is there, a
    # difference from its run is what to hear of first
    task = prepared() if fresh or not folder.config.exists() else None

    def agree() -> tuple[dict[str, Any], bool, dict[str, Any] | None]:
        agreed = folder.agreed(config, source, accept_changed_text=run.accept_changed_text)
        return agreed, folder.config.exists(), folder.result(experiment.setup.steps)

    def claim() -> None:
        from_main_process(lambda: folder.claim(agreed, source))

    try:
        if aside := from_main_process(lambda: str(folder.lock(fresh=fresh) or "")):
            say(f"Moved {folder.path} aside to {aside}")
        agreed, exists, finished = from_main_process(agree)
        if finished is not None:
            claim()
            say(f"{folder.path} is finished: {Validation.from_json(finished)}")
            return 0
        task = task or prepared()
        if not exists:
            claim()
        # a folder that exists is claimed once its checkpoint is read: a command that is refused
        # leaves it as it was
        return _train(task, corpus, folder, run, identity_of(agreed), claim, console)
    except DivergedError as error:
        steps = saved_steps(folder.checkpoints)
        kept = (
            f"the last good checkpoint, of step {steps[0]}, is kept"
            if steps
            else "no checkpoint is"
        )
        say(
            f"Stopped: {error}; {kept} in {folder.checkpoints}. Try a smaller rate, with --fresh "
            f"to start over in the same folder or with another --run-dir."
        )
        return DIVERGED
    except SaveError as error:
        say(f"Stopped: {error}")
        return leave(NOT_SAVED)
    finally:
        folder.unlock()


def _train(
    task: Task,
    corpus: Corpus,
    folder: RunFolder,
    run: RunConfig,
    identity: Identity,
    claim: Callable[[], None],
    console: Console,
) -> int:
    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    def announce_stop(line: str) -> None:
        with contextlib.suppress(OSError):  # perhaps nobody reads any more
            console.show_cursor(True)  # which a bar hides; a second signal leaves no time for it
            say(line)

    experiment, placement = task.experiment, task.placement
    steps = experiment.setup.steps
    if placement.mesh is None and jax.device_count() > 1:
        devices = jax.device_count()
        say(f"Training on one of {devices} devices; --mesh {devices} 1 1 takes all")
    say(header(experiment, placement, folder.path))
    signals = StopSignals(announce_stop)
    with (
        contextlib.ExitStack() as closing,
        Checkpoints(folder.checkpoints, identity, run.keep) as checkpoints,
    ):
        batches = iter(task.batches)
        # documents are read ahead by a thread; not all of grain's iterators close
        closing.callback(getattr(batches, "close", lambda: None))
        restored = checkpoints.restore_newest(task.abstract_state(), batches, say)
        claim()
        last, record = 0, {}
        if restored is None:
            state = task.initial_state()
            if folder.metrics.exists():
                say(f"{folder.checkpoints} has no checkpoint: starting at the beginning")
        else:
            state, saved = restored
            last, record = saved["step"], saved["record"]
            say(f"Going on in {folder.path} after step {last}")
        events = fit(
            task,
            state,
            batches,
            save_every=run.save_every,
            should_stop=lambda: signals.received is not None,
        )
        if last < steps:
            say("Compiling the train step ...")
        # Ctrl-C ends the process at once until there is something to be saved
        compiled = next(events, None)  # here `fit` begins: it compiles, and runs the first step
        if isinstance(compiled, Compiled):
            say(f"Compiled in {compiled.seconds:.1f} s")
        with (
            signals,
            Recording(
                experiment, placement.devices, folder, run, identity, last, record, console
            ) as recording,
        ):
            for event in events:
                if isinstance(event, Savepoint):
                    from_main_process(folder.check_held)
                    state, last, record = event.state, event.number, recording.sync()
                    checkpoints.save(last, state, batches, record)
                elif not isinstance(event, Compiled):  # which was the first
                    recording.take(event)
    if last != steps:
        say(f"Stopped after step {last}, saved in {folder.path}; the same command goes on")
        # another process may have been the one that got the signal
        return 128 + (signals.received or signal.SIGTERM)
    if is_main_process():
        folder.check_held()
        write_kept(folder.metrics, record["metrics"])  # whatever became of the file meanwhile
        conclude(experiment, task.definition, state.params, corpus, folder, console)
    return 0


@dataclass(frozen=True)
class Command:
    """Train a LLaMA, and measure it: on the Python standard library's source, or on C4.

    The same command continues a run that was stopped or killed, and shows the result of a
    finished one. Everything is written to one folder: config.json, metrics.jsonl, checkpoints,
    summary.json and loss.png.
    """

    experiment: Experiment = field(default_factory=Experiment)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    run: RunConfig = field(default_factory=RunConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    run_dir: Path | None = None
    """The run's folder; by default runs/ and the optimizer's name, below the current folder."""
    fresh: bool = False
    """Start over: a folder that is there is moved aside to a name with a number, never deleted."""


def run(command: Command, console: Console) -> int:
    """Train in the command's folder; return the exit code."""
    join_processes(command.distributed)
    if not is_main_process():
        console = Console(quiet=True)
    with leaving_together():
        # a missing package would be found after the compilation otherwise
        from_main_process(lambda: check_packages(command.run.track))
        check_rates(command.experiment)
        experiment = resolved(command.experiment)
        folder = RunFolder(command.run_dir or Path("runs") / experiment.optimizer.name)
        corpus = load_corpus(command.corpus, experiment.setup.model.vocabulary, console)
        return train(
            experiment, corpus, folder, command.run, console, command.corpus, fresh=command.fresh
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command("examples.llama.train", Command, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
