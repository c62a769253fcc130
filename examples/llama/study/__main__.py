"""The learning study: `python -m examples.llama.study`."""

import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from rich.console import Console

from examples.llama.command import run_command
from examples.llama.config import CorpusConfig, InputError, ModelConfig
from examples.llama.loop import DivergedError, Step, Validated, fit, prepare
from examples.llama.optimizers import peak_rates
from examples.llama.progress import Reporter
from examples.llama.records import write_atomically, write_json
from examples.llama.study.costs import measure_costs, read_costs
from examples.llama.study.file import Run, StudyFile
from examples.llama.study.plan import CELLS, VARIANTS
from examples.llama.study.plot import plot_curves, plot_losses
from examples.llama.study.report import findings
from examples.llama.study.schedule import Due, due_runs, experiment_of
from examples.llama.study.tables import as_markdown, as_rich, tabulate
from examples.llama.text.corpus import Corpus, load_corpus


@dataclass(frozen=True)
class Command:
    """Tune every optimizer with the same number of tries, repeat the best on three seeds.

    Two model sizes and two batch sizes; hours on a CPU. Every run is written to the results file as
    soon as it is done, and the same command goes on with a study that was stopped.
    """

    cells: tuple[str, ...] = tuple(CELLS)
    """Model and batch sizes."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Optimizers."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    results: Path = Path("runs/study/study.json")
    """The file of all runs; pictures are written beside it."""
    show: bool = False
    """Train nothing; show what the results file holds."""
    costs: bool = False
    """Train nothing; measure seconds per step, optimizer state and peak memory, for the tables. The
    machine should have nothing else to do."""

    def __post_init__(self) -> None:
        """Refuse names that are none."""
        for option, chosen, known in (
            ("--cells", self.cells, CELLS),
            ("--variants", self.variants, VARIANTS),
        ):
            if unknown := set(chosen) - set(known):
                raise InputError(f"{option}: {', '.join(unknown)} is none of {', '.join(known)}")


def carry_out(due: Due, corpus: Corpus, environment: int, console: Console) -> Run:
    """Train."""
    experiment = experiment_of(due)
    setup = experiment.setup
    console.print(f"{due.cell}, {VARIANTS[due.variant].title}, {due.rates}, seed {due.seed}")
    tokens = setup.data.tokens_per_step
    curve: list[tuple[int, float]] = []
    diverged_at_step = None
    start = perf_counter()
    try:
        task = prepare(experiment, corpus)
        with Reporter(console, due.variant, setup.steps, 0, tokens, setup.steps + 1) as bar:
            for event in fit(task, task.initial_state(), iter(task.batches)):
                match event:
                    case Step():
                        bar.step(event)
                    case Validated():
                        curve.append((event.number * tokens, round(event.validation.loss, 6)))
    except DivergedError as error:
        diverged_at_step = error.step
        console.print(f"  diverged: {error}")
    loss = None if diverged_at_step is not None else curve[-1][1]
    seconds = round(perf_counter() - start, 1)
    console.print(f"  validation loss {loss}, {seconds} s")
    rates = peak_rates(experiment.optimizer)
    return Run(
        due.cell,
        due.variant,
        rates["learning_rate"],
        rates.get("rest_learning_rate"),
        due.seed,
        loss,
        curve if due.seed else [],
        diverged_at_step,
        seconds,
        environment,
    )


def run(command: Command, console: Console) -> int:
    """Carry out what is missing, then report; return the exit code."""
    if command.costs:
        measure_costs(command.cells, command.variants, command.results, console)
    corpus = load_corpus(command.corpus, ModelConfig().vocabulary, console)
    file = StudyFile(command.results, corpus.name)
    if not (command.show or command.costs):
        file.check(command.cells, command.variants)
        environment = file.environment()
        for due in due_runs(file, command.cells, command.variants):
            file.add(carry_out(due, corpus, environment, console))
    report(command, file, console)
    return 0


def report(command: Command, file: StudyFile, console: Console) -> None:
    """Print the tables of what is complete, and draw it beside the results file."""
    found = {cell: rows for cell in command.cells if (rows := findings(file, cell))}
    if not found:
        raise InputError(f"{command.results} has no optimizer with all of its runs yet")
    costs = read_costs(command.results)
    tables = [tabulate(cell, rows, costs.get(cell, {})) for cell, rows in found.items()]
    for table in tables:
        console.print(as_rich(table))
    text = command.results.with_suffix(".md")
    markdown = "\n".join(as_markdown(table) for table in tables)
    write_atomically(text, lambda file: file.write(markdown.encode()))
    pictures = [command.results.with_name(f"study_{kind}.png") for kind in ("losses", "curves")]
    plot_losses(pictures[0], found)
    plot_curves(pictures[1], found)
    summary = command.results.with_name("study_summary.json")
    write_json(summary, [one.as_json() for rows in found.values() for one in rows])
    written = ", ".join(map(str, (command.results, text, summary, *pictures)))
    console.print(f"Written: {written}", soft_wrap=True)


def _run_or_stop(command: Command, console: Console) -> int:
    try:
        return run(command, console)
    except KeyboardInterrupt:
        console.print(f"Stopped; the same command goes on after the runs in {command.results}")
        return 128 + signal.SIGINT


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command("examples.llama.study", Command, _run_or_stop, arguments)


if __name__ == "__main__":
    sys.exit(main())
