"""The learning study: `python -m examples.measure.study`."""

import signal
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console

from examples.llama.config import CorpusConfig, InputError
from examples.llama.optimizers import OPTIMIZERS
from examples.llama.run.command import run_command
from examples.llama.run.environment import machine, versions
from examples.llama.run.records import write_atomically
from examples.llama.text.corpus import load_corpus
from examples.llama.text.shards import shard_tokens
from examples.measure.study.due import Left, due_trials, left, seconds_per_step
from examples.measure.study.findings import findings
from examples.measure.study.pictures import PICTURES, plot
from examples.measure.study.plan import CELLS, CPU_CELLS, SPACES
from examples.measure.study.results import ResultsFile, Run, Trial
from examples.measure.study.tables import duration, tabulate, tabulate_left, tabulate_progress
from examples.measure.study.training import Tokens, Trainer

_WAIT = 5.0
"""Seconds between two looks at what other processes have finished."""


@dataclass(frozen=True)
class Command:
    """Search the rates of every optimizer with equally many points, repeat the best on three seeds.

    Hours on a CPU, minutes on a GPU. Every run is written as soon as it is done. The same command
    goes on with a study that was stopped; started twice, two processes share the runs.
    """

    cells: tuple[str, ...] = CPU_CELLS
    """Model and batch sizes, in this order."""
    optimizers: tuple[str, ...] = tuple(SPACES)
    """Optimizers, in this order."""
    results: Path = Path("runs/study/study.jsonl")
    """The file of all runs; tables and pictures are written beside it."""
    tokens: Path | None = None
    """Folder with token shards, *_train_*.bin and *_val_*.bin, for the cells that train on them."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    budget: float | None = None
    """Minutes; no run is begun that is expected to end later."""
    show: bool = False
    """Train nothing; show what the results file holds."""
    estimate: bool = False
    """Train nothing; say how many runs are left, and how long they take."""

    def __post_init__(self) -> None:
        """Refuse names that do not exist, and text that is missing."""
        for option, chosen, known in (
            ("--cells", self.cells, CELLS),
            ("--optimizers", self.optimizers, SPACES),
        ):
            if unknown := set(chosen) - set(known):
                raise InputError(f"{option}: {', '.join(unknown)} is none of {', '.join(known)}")
        shards = [cell for cell in self.cells if CELLS[cell].shards]
        if shards and self.tokens is None and not (self.show or self.estimate):
            raise InputError(f"--cells {' '.join(shards)} trains on token shards; give --tokens")


class Study:
    """A study that goes on from its results file."""

    def __init__(self, command: Command, console: Console):
        """Read nothing yet."""
        self._command, self._console = command, console
        self._file = ResultsFile(command.results)
        self._corpora: dict[str, tuple[Tokens, int]] = {}
        self._trainers: dict[tuple[str, str], Trainer] = {}
        minutes = float("inf") if command.budget is None else command.budget
        self._deadline = time.monotonic() + 60 * minutes

    def carry_out(self) -> None:
        """Make all runs that are due, until none is left or the time is used up."""
        due = partial(due_trials, self._command.cells, self._command.optimizers)
        for cell in self._command.cells:
            self._corpus(cell)  # what cannot be read is an error now, not in an hour
        while claim := self._file.claim(due):
            if isinstance(claim, bool):
                time.sleep(_WAIT)  # the rest depends on runs of other processes
                continue
            run = None
            try:
                if self._is_late(claim.trial):
                    self._console.print("The next run would end after --budget.")
                    return
                run = self._run(claim.trial)
            finally:
                self._file.finish(claim, run)
            self._tell(run)

    def _is_late(self, trial: Trial) -> bool:
        each = seconds_per_step(trial.cell, trial.optimizer, self._file.runs())
        return time.monotonic() + each * trial.steps > self._deadline

    def _corpus(self, cell: str) -> tuple[Tokens, int]:
        if cell not in self._corpora:
            command, vocabulary = self._command, CELLS[cell].setup.model.vocabulary
            corpus: Tokens
            if CELLS[cell].shards:
                assert command.tokens is not None  # the command refuses it
                corpus = shard_tokens(command.tokens, vocabulary)
            else:
                corpus = load_corpus(command.corpus, vocabulary, self._console)
            self._check_text(cell, corpus)
            found = {"corpus": corpus.name, **versions(), **machine()}
            self._corpora[cell] = corpus, self._file.environment(found)
        return self._corpora[cell]

    def _check_text(self, cell: str, corpus: Tokens) -> None:
        texts = [each["corpus"] for each in self._file.environments()]
        used = {texts[run.environment] for run in self._file.runs() if run.trial.cell == cell}
        if other := used - {corpus.name}:
            raise InputError(
                f"{self._file.path}: the runs of {cell} are of the text {', '.join(other)}, this "
                f"would be {corpus.name}; losses do not compare; choose other --results"
            )

    def _run(self, trial: Trial) -> Run:
        corpus, environment = self._corpus(trial.cell)
        key = trial.cell, trial.optimizer
        if key not in self._trainers:
            self._trainers[key] = Trainer(CELLS[trial.cell], trial.optimizer, corpus)
        return self._trainers[key].run(trial, environment)

    def _tell(self, run: Run) -> None:
        trial, rest = run.trial, self.left()
        result = f"diverged at step {run.diverged_at}" if run.loss is None else f"{run.loss:.4f}"
        self._console.print(
            f"{trial.cell}, {OPTIMIZERS[trial.optimizer].title}, {trial.rates}, box {trial.box} "
            f"point {trial.point}, seed {trial.seed}, {trial.steps} steps: {result}, "
            f"{run.seconds:.0f} s; {sum(one.runs for one in rest)} runs left, about "
            f"{duration(sum(one.seconds for one in rest))}",
            soft_wrap=True,
            highlight=False,
        )

    def left(self) -> list[Left]:
        """What every optimizer still needs in every cell."""
        runs, command = self._file.runs(), self._command
        return [left(cell, name, runs) for cell in command.cells for name in command.optimizers]

    def report(self) -> None:
        """Print progress and findings; write tables and pictures of the findings."""
        runs, command = self._file.runs(), self._command
        for cell in command.cells:
            if any(run.trial.cell == cell for run in runs):
                self._console.print(tabulate_progress(cell, command.optimizers, runs), "")
        found = {cell: rows for cell in command.cells if (rows := findings(cell, runs))}
        if not found:
            self._console.print("No optimizer has all of its points and repetitions yet.")
            return
        tables = [tabulate(cell, rows) for cell, rows in found.items()]
        self._console.print(*tables, sep="\n\n")
        written = [command.results.with_suffix(".md")]
        text = "\n".join(f"**{one.title}**\n\n{one.markdown()}\n" for one in tables)
        write_atomically(written[0], lambda file: file.write(text.encode()))
        for name in PICTURES:
            written.append(command.results.with_name(f"{command.results.stem}_{name}.png"))
            plot(name, written[-1], found)
        self._console.print(f"Written: {', '.join(map(str, written))}", soft_wrap=True)


def run(command: Command, console: Console) -> int:
    """Carry out what is missing, then report; return the exit code."""
    study = Study(command, console)
    if command.estimate:
        console.print(tabulate_left(study.left()))
        return 0
    try:
        if not command.show:
            study.carry_out()
    except KeyboardInterrupt:
        console.print(f"Stopped; the same command goes on after the runs in {command.results}")
        return 128 + signal.SIGINT
    study.report()
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command("examples.measure.study", Command, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
