"""Train one LLaMA with one optimizer: `python -m examples.llama.train --optimizer sinkgd`."""

from examples.llama.interrupt import end_quietly

if __name__ == "__main__":
    end_quietly()

import contextlib
import dataclasses
import itertools
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from examples.llama.checkpoint import Checkpoints, Identity, SaveError
from examples.llama.command import NOT_SAVED, run_command
from examples.llama.conclusion import conclude
from examples.llama.config import CorpusConfig, Experiment, RunConfig, as_json
from examples.llama.loop import (
    Compiled,
    DivergedError,
    Savepoint,
    Task,
    Validated,
    fit,
    prepare,
)
from examples.llama.loss import Validation
from examples.llama.mesh import place
from examples.llama.presets import resolve
from examples.llama.processes import (
    DistributedConfig,
    from_main_process,
    is_main_process,
    join_processes,
    leave,
    leaving_together,
)
from examples.llama.progress import header
from examples.llama.records import write_json
from examples.llama.run_folder import RunFolder
from examples.llama.step import check_layerwise
from examples.llama.stop import StopSignals
from examples.llama.text.corpus import Corpus, load_corpus
from examples.llama.watch import watching

DIVERGED = 1
"""Exit code of a run whose loss or weights are no longer finite."""


@dataclass(frozen=True)
class Command:
    """Train a LLaMA, and measure it: on the Python standard library's source, or on C4.

    The same command goes on with a run that was stopped or killed, and shows the result of a
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
    """Train or go on training in `folder`; return the exit code, 0 when the run is finished.

    `source`, where the corpus came from, is kept for the commands that use the trained model. With
    `fresh` the folder is moved aside first, if it is there.

    Raises:
        ConfigMismatchError: the folder holds something else.
        InputError: another process trains in the folder, or the experiment has no layer-wise step,
            but is to be trained with it.
    """
    experiment = resolved(experiment)
    if run.layerwise:
        check_layerwise(experiment)
    config = identity(experiment, corpus, layerwise=run.layerwise)
    with _held(folder, fresh, console):
        claimed, finished = from_main_process(lambda: _claim(folder, config, source, run))
        if finished is not None:
            result = Validation.from_json(finished)
            console.print(f"{folder.path} is finished: {result}", soft_wrap=True)
            return 0
        try:
            return _train(experiment, corpus, folder, run, Identity(**claimed), console)
        except DivergedError as error:
            console.print(_diverged_message(error, folder), soft_wrap=True)
            return DIVERGED
        except SaveError as error:
            console.print(f"Stopped: {error}", soft_wrap=True)
            return leave(NOT_SAVED)


@contextlib.contextmanager
def _held(folder: RunFolder, fresh: bool, console: Console) -> Iterator[None]:
    """Let no other process write to the folder."""
    aside = from_main_process(lambda: str(folder.lock(fresh=fresh) or ""))
    try:
        if aside:
            console.print(f"Moved {folder.path} aside to {aside}", soft_wrap=True)
        yield
    finally:
        folder.unlock()


def _claim(
    folder: RunFolder, config: dict[str, Any], source: CorpusConfig, run: RunConfig
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    claimed = folder.claim(config, accept_changed_text=run.accept_changed_text)
    write_json(folder.source, as_json(source))
    return dataclasses.asdict(claimed), folder.result(config["setup"]["steps"])


def identity(experiment: Experiment, corpus: Corpus, *, layerwise: bool = False) -> dict[str, Any]:
    """Everything that determines result and state of a resolved experiment, as config.json has it.

    The length of the schedule is always there: the number of steps alone may grow later.
    `layerwise` is there if it is true: the optimizer's state has another form then.
    """
    config = as_json(experiment)
    config["setup"]["schedule_steps"] = experiment.setup.length_of_schedule
    config["setup"]["warm_up_steps"] = experiment.setup.warm_up
    del config["setup"]["data"]["workers"]  # the rows are the same with any number of them
    config |= {"corpus": corpus.name, "tokenizer": corpus.tokenizer.name}
    return config | ({"layerwise": True} if layerwise else {})


def resolved(experiment: Experiment) -> Experiment:
    """The experiment with all of its optimizer's options."""
    return dataclasses.replace(
        experiment, optimizer=resolve(experiment.optimizer, experiment.setup.preset)
    )


def _train(
    experiment: Experiment,
    corpus: Corpus,
    folder: RunFolder,
    run: RunConfig,
    identity: Identity,
    console: Console,
) -> int:
    placement = place(run.mesh)
    if placement.mesh is None and jax.device_count() > 1:
        devices = jax.device_count()
        console.print(f"Training on one of {devices} devices; --mesh {devices} 1 1 takes all")
    task = prepare(experiment, corpus, placement, layerwise=run.layerwise)

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    say(header(experiment, placement, folder.path))
    signals = StopSignals(console)
    with (
        Checkpoints(folder.checkpoints, identity, run.keep) as checkpoints,
        _iterating(task) as batches,
    ):
        restored = checkpoints.restore_newest(task.abstract_state(), batches, say)
        done, mark = 0, {}
        if restored is None:
            state = task.initial_state()
            if folder.metrics.exists():
                say(f"{folder.checkpoints} has no checkpoint: starting at the beginning")
        else:
            state, saved = restored
            done, mark = saved["step"], saved["metrics"]
            say(f"Going on in {folder.path} after step {done}")
        elapsed, whole = from_main_process(lambda: folder.cut_back(done, mark, say))
        again = not whole and task.validates_after(done)
        validated = Validated(done, task.validate(state.params)) if again else None
        events = fit(
            task,
            state,
            batches,
            save_every=run.save_every,
            should_stop=lambda: signals.received is not None,
        )
        if done < experiment.setup.steps:
            say("Compiling the train step ...")
        # Ctrl-C ends the process at once until there is something to be saved
        for compiled in itertools.islice(events, 1):
            assert isinstance(compiled, Compiled)
            say(f"Compiled in {compiled.seconds:.1f} s")
        last = done
        with (
            signals,
            watching(experiment, folder, run, identity.config, done, elapsed, console) as watch,
        ):
            if validated is not None:
                watch(validated)
            for event in events:
                if isinstance(event, Savepoint):
                    checkpoints.save(event.number, event.state, batches, watch.sync())
                    state, last = event.state, event.number
                elif not isinstance(event, Compiled):
                    watch(event)
    if last != experiment.setup.steps:
        console.print(
            f"Stopped after step {last}, saved in {folder.path}; the same command goes on",
            soft_wrap=True,
        )
        # another process may have been the one that got the signal
        return signals.exit_code or 128 + signal.SIGTERM
    conclude(task, state, corpus, folder, console)
    return 0


@contextlib.contextmanager
def _iterating(task: Task) -> Iterator[Any]:
    batches = iter(task.batches)
    try:
        yield batches
    finally:
        # documents have threads and processes that read ahead; not all of grain's iterators close
        getattr(batches, "close", lambda: None)()


def _diverged_message(error: DivergedError, folder: RunFolder) -> str:
    with Checkpoints(folder.checkpoints, writable=False) as checkpoints:
        steps = checkpoints.steps()
    kept = (
        f"the last good checkpoint, of step {steps[0]}, is kept in {folder.checkpoints}"
        if steps
        else f"there is no checkpoint before it in {folder.checkpoints}"
    )
    return (
        f"Stopped: {error}; {kept}. Try a smaller rate, with --fresh to start over in the same "
        f"folder or with another --run-dir."
    )


def run(command: Command, console: Console) -> int:
    """Train in the command's folder; return the exit code."""
    join_processes(command.distributed)
    if not is_main_process():
        console = Console(quiet=True)
    experiment = resolved(command.experiment)
    folder = RunFolder(command.run_dir or Path("runs") / experiment.optimizer.name)
    corpus = load_corpus(command.corpus, experiment.setup.model.vocabulary, console)
    with leaving_together():
        return train(
            experiment, corpus, folder, command.run, console, command.corpus, fresh=command.fresh
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command("examples.llama.train", Command, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
