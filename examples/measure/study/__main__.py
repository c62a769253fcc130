"""The learning study: `python -m examples.measure.study`."""

import functools
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from examples.llama.config import CorpusConfig, InputError
from examples.llama.optimizers import OPTIMIZERS
from examples.llama.run.command import run_command
from examples.llama.run.environment import machine, versions
from examples.llama.run.files import write_atomically
from examples.llama.run.options import Checked, NotNegative, check_names
from examples.llama.text.corpus import load_corpus
from examples.llama.text.shards import shard_tokens
from examples.measure.results import check_results
from examples.measure.study.findings import findings, findings_table, progress_table
from examples.measure.study.pictures import PICTURES, plot
from examples.measure.study.plan import CELLS, CPU_CELLS, SPACES
from examples.measure.study.runs import Run, RunsFile, Trial
from examples.measure.study.search import due_trials, left, seconds_per_step
from examples.measure.study.training import Tokens, Trainer
from examples.measure.tables import Table, unique


@dataclass(frozen=True)
class Command(Checked):
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
    budget: NotNegative | None = None
    """Minutes; no run is begun that is expected to end later."""
    show: bool = False
    """Train nothing; show what the results file holds."""
    estimate: bool = False
    """Train nothing; say how many runs are left, and how long they take."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.show and not self.results.exists():
            raise InputError(f"{self.results} does not exist; --show shows a file that is there")
        check_names("--cells", self.cells, CELLS)
        check_names("--optimizers", self.optimizers, SPACES)
        shards = [cell for cell in self.cells if CELLS[cell].shards]
        if shards and self.tokens is None and not (self.show or self.estimate):
            raise InputError(f"--cells {' '.join(shards)} trains on token shards; give --tokens")


def duration(seconds: float) -> str:
    """Seconds, minutes, or hours and minutes."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def read_text(command: Command, cell: str, file: RunsFile, console: Console) -> Tokens:
    """The text that a cell trains on, which has to be that of the cell's runs."""
    vocabulary = CELLS[cell].setup.model.vocabulary
    corpus: Tokens
    if CELLS[cell].shards:
        assert command.tokens is not None  # the command refuses it
        corpus = shard_tokens(command.tokens, vocabulary)
    else:
        corpus = load_corpus(command.corpus, vocabulary, console)
    file.check_text(cell, corpus.name)
    return corpus


def carry_out(command: Command, file: RunsFile, console: Console) -> None:
    """Make all runs that are due, until none is left or the time is used up."""
    deadline = time.monotonic() + 60 * (float("inf") if command.budget is None else command.budget)
    # what cannot be read is an error now, not in an hour
    texts = {cell: read_text(command, cell, file, console) for cell in command.cells}

    @functools.cache
    def trainer(cell: str, optimizer: str) -> Trainer:
        return Trainer(CELLS[cell], optimizer, texts[cell])

    def make(trial: Trial) -> Run | None:
        each = seconds_per_step(trial.cell, trial.optimizer, file.runs())
        if time.monotonic() + each * trial.steps > deadline:
            console.print("The next run would end after --budget.")
            return None
        about = {"corpus": texts[trial.cell].name, **versions(), **machine()}
        run = trainer(trial.cell, trial.optimizer).run(trial, file.environment(about))
        result = f"diverged at step {run.diverged_at}" if run.loss is None else f"{run.loss:.4f}"
        rest = left(command.cells, command.optimizers, [*file.runs(), run])
        console.print(
            f"{trial.cell}, {OPTIMIZERS[trial.optimizer].title}, {trial.rates}, box {trial.box} "
            f"point {trial.point}, seed {trial.seed}, {trial.steps} steps: {result}, "
            f"{run.seconds:.0f} s; {rest.runs} runs left, about {duration(rest.seconds)}",
            soft_wrap=True,
            highlight=False,
        )
        return run

    due = functools.partial(due_trials, command.cells, command.optimizers)
    file.carry_out(due, make, deadline)


def report(command: Command, runs: list[Run], console: Console) -> None:
    """Print progress and findings; write tables and pictures of the findings."""
    for cell in command.cells:
        if any(run.trial.cell == cell for run in runs):
            console.print(progress_table(cell, command.optimizers, runs), "")
    found = {cell: rows for cell in command.cells if (rows := findings(cell, runs))}
    if not found:
        console.print("No optimizer has all of its points and repetitions yet.")
        return
    tables = [findings_table(cell, rows) for cell, rows in found.items()]
    console.print(*tables, sep="\n\n")
    written = [command.results.with_suffix(".md")]
    text = "\n".join(f"**{one.title}**\n\n{one.markdown()}\n" for one in tables)
    write_atomically(written[0], lambda file: file.write(text.encode()))
    for name in PICTURES:
        written.append(command.results.with_name(f"{command.results.stem}_{name}.png"))
        plot(name, written[-1], found)
    console.print(f"Written: {', '.join(map(str, written))}", soft_wrap=True)


def run(command: Command, console: Console) -> int:
    """Carry out what is missing, then report; return the exit code."""
    file = RunsFile(command.results)
    command = replace(
        command, cells=tuple(unique(command.cells)), optimizers=tuple(unique(command.optimizers))
    )
    if command.estimate:
        parts = {CELLS[cell].title: (cell,) for cell in command.cells} | {"all": command.cells}
        rest = {n: left(part, command.optimizers, file.runs()) for n, part in parts.items()}
        rows = [[name, str(one.runs), duration(one.seconds)] for name, one in rest.items()]
        console.print(Table(["", "runs", "time"], rows, "Left"))
        console.print("at most, if no box moves; where nothing was timed, from the plan's guess")
        return 0
    check_results(command.results, ".md")
    make = functools.partial(carry_out, command, file, console)
    if not command.show and (code := file.until_stopped(make, console)):
        return code
    report(command, file.runs(), console)
    return 0


main = functools.partial(run_command, "examples.measure.study", Command, run)
"""Run the command line with these arguments; return the exit code."""

if __name__ == "__main__":
    sys.exit(main(None))
