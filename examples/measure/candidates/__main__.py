"""`python -m examples.measure.candidates`: final losses of the candidates on the study's models."""

import functools
import statistics
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
from examples.measure.candidates.table import CANDIDATES, CENTERS
from examples.measure.study.plan import CELLS
from examples.measure.study.points import Rates
from examples.measure.study.runs import Run, RunsFile, Trial
from examples.measure.study.training import Trainer
from examples.measure.tables import Table

FACTORS = (0, -1, 1)
"""The first rates of the matrices, as powers of two of the center."""
SEEDS = (1, 2)
"""At the best rate, besides the search's seed 0."""


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


def _trial(cell: str, name: str, power: int, seed: int) -> Trial:
    center = CENTERS[cell][CANDIDATES[name].like]
    rates = Rates(float(f"{center.matrices * 2.0**power:.5g}"), center.rest)
    return Trial(cell, name, 0, power, rates, seed, CELLS[cell].setup.steps)


def _of(cell: str, name: str, runs: Sequence[Run], seed: int) -> dict[int, Run]:
    """The runs of one candidate by the power of two of their rate."""
    wanted = (cell, name, seed)
    return {
        run.trial.point: run
        for run in runs
        if (run.trial.cell, run.trial.optimizer, run.trial.seed) == wanted
    }


def _search(cell: str, name: str, runs: Sequence[Run]) -> tuple[list[Trial], Run | None]:
    """The rates to try next, or else the best run, which lies between two others."""
    done = _of(cell, name, runs, 0)
    if missing := [power for power in FACTORS if power not in done]:
        return [_trial(cell, name, power, 0) for power in missing], None
    best = min(done, key=lambda power: done[power].score)
    if best == min(done):
        return [_trial(cell, name, best - 1, 0)], None
    if best == max(done):
        return [_trial(cell, name, best + 1, 0)], None
    return [], done[best]


def due_trials(cell: str, names: Sequence[str], runs: Sequence[Run]) -> list[Trial]:
    """What can be run now in a cell: every candidate's search, then the best rates' repetitions."""
    searches = [_search(cell, name, runs) for name in names]
    again = [best.trial._replace(seed=seed) for seed in SEEDS for _, best in searches if best]
    made = {run.trial.key for run in runs}
    return [
        *(trial for trials, _ in searches for trial in trials),
        *(trial for trial in again if trial.key not in made),
    ]


def tabulate(cell: str, names: Sequence[str], runs: Sequence[Run]) -> Table:
    """The candidates of one cell whose best rate was found, best first."""
    rows = []
    for name in names:
        _, best = _search(cell, name, runs)
        if best is None:
            continue
        power = best.trial.point
        seeds = [_of(cell, name, runs, seed).get(power) for seed in SEEDS]
        scores = [best.score, *(run.score for run in seeds if run)]
        full = len(scores) == 1 + len(SEEDS)
        mean = f"{statistics.fmean(scores):.3f} ± {statistics.stdev(scores):.3f}" if full else "-"
        figures = [str(len(_of(cell, name, runs, 0))), str(best.trial.rates)]
        rows.append([CANDIDATES[name].title, *figures, f"{best.score:.3f}", mean])
    heads = ["", "rates tried", "best rates", "final loss, nats: seed 0", "three seeds"]
    return Table(heads, sorted(rows, key=lambda row: row[3]), CELLS[cell].title)


def _build(name: str, context: Context) -> optax.GradientTransformation:
    candidate = CANDIDATES[name]
    momentum = {"momentum": candidate.momentum, "nesterov": candidate.momentum > 0}
    options = {**context.options, **momentum}
    return optimizers.auxiliary_adam(candidate.direction, replace(context, options=options))


def carry_out(command: Command, file: RunsFile, console: Console) -> None:
    """Make all runs that are due."""
    vocabulary = CELLS[command.cells[0]].setup.model.vocabulary
    corpus = load_corpus(command.corpus, vocabulary, console)
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
    if not command.show:
        carry_out(command, file, console)
    runs = file.runs()
    for cell in command.cells:
        console.print(tabulate(cell, command.candidates, runs), "")
    return 0


main = functools.partial(run_command, "examples.measure.candidates", Command, run)
"""Run the command line with these arguments; return the exit code."""

if __name__ == "__main__":
    sys.exit(main(None))
