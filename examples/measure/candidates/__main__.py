"""`python -m examples.measure.candidates`: final losses of the candidates on the study's models."""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import optax
from rich.console import Console

from examples.llama import optimizers
from examples.llama.config import CorpusConfig
from examples.llama.optimizers import Context
from examples.llama.run.command import run_command
from examples.llama.run.environment import machine, versions
from examples.llama.text.corpus import load_corpus
from examples.measure.candidates.search import due_trials, tabulate
from examples.measure.candidates.table import CANDIDATES, CENTERS
from examples.measure.study.plan import CELLS
from examples.measure.study.runs import Run, RunsFile, Trial, refuse_unknown
from examples.measure.study.training import Trainer


@dataclass(frozen=True)
class Command:
    """Search the matrices' rate of each candidate by factors of two, and repeat the best one.

    The search goes on while its best rate lies at an end. Embedding, head and norms have the rate
    that was best in the study. The same command goes on with what was stopped; started twice, two
    processes share the runs.
    """

    cells: tuple[str, ...] = tuple(CENTERS)
    """Model and batch sizes, in this order."""
    candidates: tuple[str, ...] = tuple(CANDIDATES)
    """In this order."""
    results: Path = Path("runs/candidates/candidates.jsonl")
    """The file of all runs."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    show: bool = False
    """Train nothing; show what the results file holds."""

    def __post_init__(self) -> None:
        """Refuse names that do not exist."""
        refuse_unknown("--cells", self.cells, CENTERS)
        refuse_unknown("--candidates", self.candidates, CANDIDATES)


def _build(name: str, context: Context) -> optax.GradientTransformation:
    candidate = CANDIDATES[name]
    momentum = {"momentum": candidate.momentum, "nesterov": candidate.momentum > 0}
    options = {**context.options, **momentum}
    return optimizers.auxiliary_adam(candidate.direction, replace(context, options=options))


def carry_out(command: Command, file: RunsFile, console: Console) -> None:
    """Make all runs that are due."""
    vocabulary = CELLS[command.cells[0]].setup.model.vocabulary
    corpus = load_corpus(command.corpus, vocabulary, console)
    for cell in command.cells:
        file.check_text(cell, corpus.name)
    environment = file.environment({"corpus": corpus.name, **versions(), **machine()})

    @functools.lru_cache(maxsize=1)
    def trainer(cell: str, name: str) -> Trainer:
        return Trainer(CELLS[cell], "swan", corpus, functools.partial(_build, name))

    def due(runs: Sequence[Run]) -> list[Trial]:
        return [t for cell in command.cells for t in due_trials(cell, command.candidates, runs)]

    def make(trial: Trial) -> Run:
        run = trainer(trial.cell, trial.optimizer).run(trial, environment)
        console.print(
            f"{trial.cell}, {CANDIDATES[trial.optimizer].title}, {trial.rates}, seed "
            f"{trial.seed}: {run.score:.4f}, {run.seconds:.0f} s",
            soft_wrap=True,
            highlight=False,
        )
        return run

    file.carry_out(due, make)


def run(command: Command, console: Console) -> int:
    """Carry out what is missing, then report; return the exit code."""
    file = RunsFile(command.results)
    make = functools.partial(carry_out, command, file, console)
    if not command.show and (code := file.until_stopped(make, console)):
        return code
    runs = file.runs()
    for cell in command.cells:
        console.print(tabulate(cell, command.candidates, runs), "")
    return 0


main = functools.partial(run_command, "examples.measure.candidates", Command, run)
"""Run the command line with these arguments; return the exit code."""

if __name__ == "__main__":
    sys.exit(main(None))
