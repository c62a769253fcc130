"""Train one LLaMA with one optimizer: `python -m examples.llama.train --optimizer sinkgd`."""

import dataclasses
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

import multinorm_optax as mo
from examples.llama.checkpoint import Checkpoints
from examples.llama.command import run_command
from examples.llama.config import CorpusConfig, Experiment, RunConfig, as_json
from examples.llama.corpus import Corpus, load_corpus
from examples.llama.environment import machine, versions
from examples.llama.evaluate import Validation
from examples.llama.generate import generate
from examples.llama.loop import (
    DivergedError,
    Savepoint,
    Step,
    Task,
    TrainState,
    Validated,
    fit,
    prepare,
)
from examples.llama.optimizers import MATRIX, RECIPES, scheduled_rates, settle
from examples.llama.plot import plot_run
from examples.llama.progress import Reporter
from examples.llama.records import read_lines
from examples.llama.run_folder import MetricsLog, RunFolder
from examples.llama.stop import StopSignals

DIVERGED = 1
"""Exit code of a run whose loss or weights are no longer finite."""


@dataclass(frozen=True)
class Command:
    """Train a small LLaMA on the Python standard library's source, and measure it.

    The same command goes on with a run that was stopped, and shows the result of a finished one.
    Everything is written to one folder: config.json, metrics.jsonl, checkpoints, summary.json and
    loss.png.
    """

    experiment: Experiment = field(default_factory=Experiment)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    run: RunConfig = field(default_factory=RunConfig)
    run_dir: Path | None = None
    """The run's folder; by default runs/ and the optimizer's name, below the current folder."""
    fresh: bool = False
    """Start over: a folder that is there is moved aside to a name with a number, never deleted."""


def train(
    experiment: Experiment, corpus: Corpus, folder: RunFolder, run: RunConfig, console: Console
) -> int:
    """Train or go on training in `folder`; return the exit code, 0 when the run is finished.

    Raises:
        ConfigMismatchError: the folder holds something else.
    """
    experiment = dataclasses.replace(
        experiment, optimizer=settle(experiment.optimizer, experiment.setup.preset)
    )
    folder.claim(as_json(experiment) | {"corpus": corpus.name})
    finished = folder.result()
    if finished is not None:
        console.print(f"{folder.path} is finished: {_validation(finished)}", soft_wrap=True)
        return 0
    task = prepare(experiment, corpus)
    batches = iter(task.batches)
    with (
        StopSignals(console) as signals,
        Checkpoints(folder.checkpoints, run.keep) as checkpoints,
    ):
        state = task.initial_state()
        if (newest := checkpoints.latest) is not None:
            state = checkpoints.restore(newest, state, batches)
            console.print(f"Going on in {folder.path} after step {newest}", soft_wrap=True)
        lines = folder.cut_back(newest or 0)
        recorder = _Recorder(experiment, lines[-1]["elapsed_seconds"] if lines else 0.0)
        bar = Reporter(
            console,
            experiment.optimizer.name,
            experiment.setup.steps,
            newest or 0,
            experiment.setup.data.tokens_per_step,
            run.log_every,
        )
        try:
            with bar, MetricsLog(folder.metrics) as log:
                for event in fit(
                    task,
                    state,
                    batches,
                    save_every=run.save_every,
                    should_stop=lambda: signals.received is not None,
                ):
                    match event:
                        case Step():
                            log.write(recorder.step(event))
                            bar.step(event)
                        case Validated():
                            log.write(recorder.validation(event))
                            bar.validation(event.number, event.validation)
                        case Savepoint():
                            checkpoints.save(event.number, event.state, batches)
                            state = event.state
        except DivergedError as error:
            console.print(_diverged_message(error, checkpoints.latest, folder), soft_wrap=True)
            return DIVERGED
        last = checkpoints.latest
    if last != experiment.setup.steps:
        console.print(
            f"Stopped after step {last}, saved in {folder.path}; the same command goes on",
            soft_wrap=True,
        )
        return signals.exit_code
    _conclude(task, state, folder, console)
    return 0


class _Recorder:
    """Turns events into lines of metrics.jsonl."""

    def __init__(self, experiment: Experiment, elapsed: float):
        self._tokens_per_step = experiment.setup.data.tokens_per_step
        self._rates = scheduled_rates(experiment.optimizer, experiment.setup.steps)
        self._start = perf_counter() - elapsed

    def _where(self, number: int) -> dict[str, Any]:
        return {
            "step": number,
            "tokens": number * self._tokens_per_step,
            "elapsed_seconds": round(perf_counter() - self._start, 3),
        }

    def step(self, step: Step) -> dict[str, Any]:
        """The line of a step."""
        return {
            **self._where(step.number),
            "loss": step.loss,
            **{name: float(rates[step.number - 1]) for name, rates in self._rates.items()},
            "tokens_per_second": round(self._tokens_per_step / step.seconds, 1),
        }

    def validation(self, event: Validated) -> dict[str, Any]:
        """The line of a validation."""
        return {**self._where(event.number), **event.validation.as_json()}


def _validation(record: dict[str, Any]) -> Validation:
    return Validation(record["validation_loss"])


def _diverged_message(error: DivergedError, checkpoint: int | None, folder: RunFolder) -> str:
    kept = (
        f"the last good checkpoint, of step {checkpoint}, is kept in {folder.checkpoints}"
        if checkpoint is not None
        else f"there is no checkpoint before it in {folder.checkpoints}"
    )
    return (
        f"Stopped: {error}; {kept}. Try a smaller rate, with --fresh to start over in the same "
        f"folder or with another --run-dir."
    )


def _conclude(task: Task, state: TrainState, folder: RunFolder, console: Console) -> None:
    """Sample, draw, and write the summary last, which marks the run as finished."""
    experiment = task.experiment
    recipe = RECIPES[experiment.optimizer.name]
    lines = read_lines(folder.metrics)
    steps = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "validation_loss" in line]
    result = _validation(validations[-1])
    sample = generate(task.definition, state.params, window=experiment.setup.data.sequence_length)
    plot_run(
        folder.picture,
        f"{recipe.title}: {result}",
        ([line["tokens"] for line in steps], [line["loss"] for line in steps]),
        (
            [line["tokens"] for line in validations],
            [line["validation_loss"] for line in validations],
        ),
    )
    audit = mo.audit(task.optimizer, state.params, axes=mo.LLAMA_RULES)
    last_tenth = steps[-max(1, len(steps) // 10) :]
    summary = {
        "train_loss": statistics.fmean(line["loss"] for line in last_tenth),
        **result.as_json(),
        "steps": experiment.setup.steps,
        "tokens": experiment.setup.steps * experiment.setup.data.tokens_per_step,
        "parameters": audit.parameters,
        "parameter_bytes": audit.parameter_bytes,
        "state_bytes": audit.state_bytes,
        "state_bytes_matrices": audit.state_bytes_of(MATRIX),
        "tokens_per_second": statistics.median(line["tokens_per_second"] for line in steps),
        "seconds": lines[-1]["elapsed_seconds"],
        "sample": sample,
        "config": as_json(experiment),
        "versions": versions(),
        "machine": machine(),
    }
    folder.finish(summary)
    console.print(Panel(Text(sample), title="sample", title_align="left"))
    console.print(audit.summary(), soft_wrap=True)
    console.print(
        f"{recipe.title}: {result}; {summary['tokens_per_second']:,.0f} tokens/s, "
        f"{summary['seconds']:.0f} s; see {folder.path}",
        soft_wrap=True,
    )


def run(command: Command, console: Console) -> int:
    """Train in the command's folder; return the exit code."""
    experiment = command.experiment
    folder = RunFolder(command.run_dir or Path("runs") / experiment.optimizer.name)
    settle(experiment.optimizer, experiment.setup.preset)
    corpus = load_corpus(command.corpus, console)
    if command.fresh and (aside := folder.move_aside()) is not None:
        console.print(f"Moved {folder.path} aside to {aside}", soft_wrap=True)
    return train(experiment, corpus, folder, command.run, console)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command("examples.llama.train", Command, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
