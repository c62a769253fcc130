"""Compare optimizers on the same weights and batches: `python -m examples.measure.compare`."""

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.llama.config import (
    CorpusConfig,
    Experiment,
    InputError,
    OptimizerConfig,
    OptimizerName,
    RunConfig,
    Setup,
)
from examples.llama.loss import Validation
from examples.llama.optimizers import BASE_OPTIMIZERS, OPTIMIZERS
from examples.llama.presets import check_rates, has_rates, resolved
from examples.llama.run.command import run_command
from examples.llama.run.folder import RunFolder, read_metrics
from examples.llama.run.options import check_names
from examples.llama.run.plot import show_from, style
from examples.llama.run.tracking import check_packages
from examples.llama.schedule import make_optimizer, peak_rates
from examples.llama.step import check_layerwise
from examples.llama.text.corpus import load_corpus
from examples.llama.train import DIVERGED, train
from examples.measure.pictures import look, panels
from examples.measure.results import write_results
from examples.measure.study.findings import tokens_to_reach
from examples.measure.study.points import Rates
from examples.measure.tables import Table, table, unique
from examples.measure.timing import REFERENCE

_NOTE = (
    "Rates are each optimizer's default; a difference that is small against the spread between "
    "seeds means nothing. The speed is this machine's."
)


@dataclass(frozen=True)
class Command:
    """Train the same LLaMA with several optimizers, one after another, and compare them.

    All of them start from the same weights and see the same batches. The same command goes on with
    a comparison that was stopped. compare.json, compare.png and one folder per optimizer are
    written to one folder.
    """

    optimizers: tuple[OptimizerName, ...] = BASE_OPTIMIZERS
    """What to compare, each at its default rates."""
    setup: Setup = field(default_factory=Setup)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    run: RunConfig = field(default_factory=RunConfig)
    run_dir: Path = Path("runs/compare")
    """Folder of the comparison."""
    fresh: bool = False
    """Start over: runs that are there are moved aside to names with a number, never deleted."""


Runs = Mapping[str, Mapping[str, Any]]
"""By optimizer: its title and rates, its curve of tokens and validation losses, and the run's
summary; None where it diverged."""


def run_of(experiment: Experiment, folder: RunFolder) -> dict[str, Any]:
    """What a run left in its folder."""
    lines = [line for line in read_metrics(folder.metrics) if "validation_loss" in line]
    summary = folder.result(experiment.setup.steps)
    if summary and not lines:
        raise InputError(
            f"{folder.metrics} has no validation of a finished run; put back a whole copy of it, "
            f"or add --fresh to start over"
        )
    return {
        "title": OPTIMIZERS[experiment.optimizer.name].title,
        "rates": str(Rates(*peak_rates(experiment.optimizer).values())),
        "curve": [(line["tokens"], line["validation_loss"]) for line in lines],
        "summary": summary,
    }


def make_tables(runs: Runs) -> list[Table]:
    """What was learned, and what it cost; a line for each optimizer, and "-" where it diverged."""
    base = runs.get(REFERENCE, {}).get("summary")

    def of(write: Callable[[Mapping[str, Any]], str]) -> Callable[[Mapping[str, Any]], str]:
        """A column of the summaries."""
        return lambda run: write(run["summary"]) if run["summary"] else "-"

    def mebibytes(key: str) -> Callable[[Mapping[str, Any]], str]:
        return of(lambda summary: f"{summary[key] / 2**20:.2f} MiB")

    def tokens(run: Mapping[str, Any]) -> str:
        if not (base and run["summary"]):
            return "-"
        reached = tokens_to_reach(base["validation_loss"], run["curve"])
        if reached is None:
            return "not reached"
        most = "at most " if reached == run["curve"][0][0] else ""
        return f"{most}{reached / 1e6:.2f} M ({reached / run['summary']['tokens']:.0%})"

    def speed(summary: Mapping[str, Any]) -> str:
        own, other = summary["tokens_per_second"], base and base["tokens_per_second"]
        if own is None:
            return "unknown"
        return f"{own:,.0f}" + (f" ({own / other:.2f})" if other else "")

    return [
        table(
            runs.values(),
            {
                "": lambda run: run["title"],
                "peak rates: matrices / rest": lambda run: run["rates"],
                "loss, nats": of(lambda summary: f"{summary['validation_loss']:.4f}"),
                "perplexity": of(
                    lambda summary: f"{Validation(summary['validation_loss']).perplexity:.3f}"
                ),
                "bits per byte": of(lambda summary: f"{summary['bits_per_byte']:.4f}"),
                f"tokens to the loss of {OPTIMIZERS[REFERENCE].title}": tokens,
            },
            "Same initial weights, same batches, one seed",
        ),
        table(
            runs.values(),
            {
                "": lambda run: run["title"],
                "optimizer state": mebibytes("state_bytes"),
                "of the matrices": mebibytes("state_bytes_matrices"),
                f"tokens/s (ratio to {OPTIMIZERS[REFERENCE].title})": of(speed),
            },
        ),
    ]


def draw(path: Path, title: str, runs: Runs) -> None:
    """Draw the validation losses against tokens, of the runs that did not diverge."""
    curves = []
    with panels(path, title, [4.0]) as (axes,):
        style(axes, "million tokens", "validation loss (nats per token)")
        for index, run in enumerate(run for run in runs.values() if run["summary"]):
            tokens, losses = zip(*run["curve"], strict=True)
            curves.append(([count / 1e6 for count in tokens], losses))
            label = f"{run['title']}: {losses[-1]:.3f}"
            axes.plot(*curves[-1], marker="o", markersize=3.5, label=label, **look(index))
        if curves:
            show_from(axes, curves, 0.15)


def run(command: Command, console: Console) -> int:
    """Train what is not trained yet, then compare; return the exit code."""
    check_names("--optimizers", command.optimizers, OPTIMIZERS)
    setup, runs = command.setup, {}
    names = unique(command.optimizers)
    if command.optimizers == BASE_OPTIMIZERS:
        names = [name for name in names if has_rates(name, setup.preset)]
        if left_out := [name for name in BASE_OPTIMIZERS if name not in names]:
            console.print(f"Without {', '.join(left_out)}: --preset {setup.preset} has no rates")
    experiments = {name: resolved(Experiment(OptimizerConfig(name), setup)) for name in names}
    # what does not work is an error now, not after the runs before it
    check_packages(command.run.track)
    for name, experiment in experiments.items():
        check_rates(Experiment(OptimizerConfig(name), setup))
        if command.run.layerwise:
            check_layerwise(experiment)
        make_optimizer(experiment.optimizer, setup)
    corpus = load_corpus(command.corpus, setup.model.vocabulary, console)
    for name, experiment in experiments.items():
        folder = RunFolder(command.run_dir / name)
        console.rule(OPTIMIZERS[name].title)
        code = train(
            experiment, corpus, folder, command.run, console, command.corpus, fresh=command.fresh
        )
        if code not in (0, DIVERGED):
            return code
        runs[name] = run_of(experiment, folder)
    console.print(*make_tables(runs), _NOTE, sep="\n", soft_wrap=True)
    results = folder.path.with_name("compare.json")
    tokens = setup.steps * setup.data.tokens_per_step
    draw(results.with_suffix(".png"), f"Validation loss over {tokens / 1e6:.2f} M tokens", runs)
    write_results(results, {"runs": runs}, console, picture=True)
    return 0


main = functools.partial(run_command, "examples.measure.compare", Command, run)
"""Run the command line with these arguments; return the exit code."""

if __name__ == "__main__":
    sys.exit(main(None))
