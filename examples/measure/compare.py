"""Compare optimizers on the same weights and batches: `python -m examples.measure.compare`."""

from examples.llama.run.stop import end_quietly

if __name__ == "__main__":
    end_quietly()

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.llama.config import (
    CorpusConfig,
    Experiment,
    OptimizerConfig,
    OptimizerName,
    RunConfig,
    Setup,
    as_json,
)
from examples.llama.loss import Validation
from examples.llama.optimizers import BASE_OPTIMIZERS, OPTIMIZERS
from examples.llama.presets import resolve
from examples.llama.run.command import run_command
from examples.llama.run.folder import RunFolder, read_metrics
from examples.llama.run.lock import LockedFolder
from examples.llama.run.plot import Curve
from examples.llama.schedule import rates_text
from examples.llama.text.corpus import Corpus, load_corpus
from examples.llama.train import DIVERGED, train
from examples.measure.pictures import plot_curves
from examples.measure.results import write_results
from examples.measure.tables import Table, unique

REFERENCE = "adamw"
"""Tokens and speed are compared with this optimizer's."""

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
    """Start over: a folder that is there is moved aside to a name with a number, never deleted."""


@dataclass(frozen=True)
class Entry:
    """One optimizer's part in the comparison."""

    experiment: Experiment
    curve: Curve
    """Tokens and validation loss."""
    summary: Mapping[str, Any] | None
    """The run's summary; None when it diverged."""


def read_entry(experiment: Experiment, folder: RunFolder) -> Entry:
    """Read what a run left in its folder."""
    points = [line for line in read_metrics(folder.metrics) if "validation_loss" in line]
    curve = [line["tokens"] for line in points], [line["validation_loss"] for line in points]
    return Entry(experiment, curve, folder.result(experiment.setup.steps))


def tokens_to_reach(target: float, curve: Curve) -> float | None:
    """Where a curve of (tokens, loss) first falls to `target`, by linear interpolation.

    None if it never does. If its first point is below already, that point's tokens: nothing is
    known of the way there.
    """
    before: tuple[float, float] | None = None
    for tokens, loss in zip(*curve, strict=True):
        if loss <= target:
            if before is None or before[1] == loss:
                return tokens
            share = (before[1] - target) / (before[1] - loss)
            return before[0] + share * (tokens - before[0])
        before = (tokens, loss)
    return None


def compare(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The rows of the comparison; what cannot be known is None."""
    base = next((e.summary for e in entries if e.experiment.optimizer.name == REFERENCE), None)
    rows = []
    for entry in entries:
        options = as_json(entry.experiment.optimizer)
        row = {"optimizer": options.pop("name"), **options, "diverged": entry.summary is None}
        rows.append(row)
        if entry.summary is None:
            continue
        results = ("train_loss", "validation_loss", "perplexity", "bits_per_byte", "tokens")
        costs = ("state_bytes", "state_bytes_matrices", "parameter_bytes", "tokens_per_second")
        row |= {key: entry.summary[key] for key in results + costs}
        row["tokens_to_reach_reference"] = row["speed_ratio"] = None
        if base is not None:
            row["tokens_to_reach_reference"] = tokens_to_reach(base["validation_loss"], entry.curve)
            speeds = row["tokens_per_second"], base["tokens_per_second"]
            row["speed_ratio"] = None if None in speeds else speeds[0] / speeds[1]
    return rows


def _learning(row: Mapping[str, Any]) -> list[str]:
    if row["diverged"]:
        return [rates_text(row), "diverged", "", "", ""]
    reached, loss = row["tokens_to_reach_reference"], row["validation_loss"]
    return [
        rates_text(row),
        f"{loss:.4f}",
        f"{Validation(loss).perplexity:.3f}",
        f"{row['bits_per_byte']:.4f}",
        "not reached"
        if reached is None
        else f"{reached / 1e6:.2f} M ({reached / row['tokens']:.0%})",
    ]


def _cost(row: Mapping[str, Any]) -> list[str]:
    speed, ratio = row["tokens_per_second"], row["speed_ratio"]
    state = [f"{row[key] / 2**20:.2f} MiB" for key in ("state_bytes", "state_bytes_matrices")]
    speed_text = "unknown" if speed is None else f"{speed:,.0f}"
    return [*state, speed_text + ("" if ratio is None else f" ({ratio:.2f})")]


def make_tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """What was learned, and what it cost; a line for each optimizer."""
    reference, titles = (
        OPTIMIZERS[REFERENCE].title,
        [OPTIMIZERS[r["optimizer"]].title for r in rows],
    )
    learning = ["peak rates: matrices / rest", "loss, nats", "perplexity", "bits per byte"]
    learning.append(f"tokens to the loss of {reference}")
    cost = ["optimizer state", "of the matrices", f"tokens/s (ratio to {reference})"]
    pairs = list(zip(titles, rows, strict=True))
    return [
        Table(
            ["", *learning],
            [[title, *_learning(row)] for title, row in pairs],
            "Same initial weights, same batches, one seed",
        ),
        Table(["", *cost], [[title, *_cost(row)] for title, row in pairs if not row["diverged"]]),
    ]


def run(command: Command, console: Console) -> int:
    """Train what is not trained yet, then compare; return the exit code."""
    corpus = load_corpus(command.corpus, command.setup.model.vocabulary, console)
    folder = LockedFolder(command.run_dir)
    aside = folder.lock(fresh=command.fresh)
    try:
        if aside is not None:
            console.print(f"Moved {folder.path} aside to {aside}", soft_wrap=True)
        return _run(command, corpus, console)
    finally:
        folder.unlock()


def _run(command: Command, corpus: Corpus, console: Console) -> int:
    entries = []
    for name in unique(command.optimizers):
        optimizer = resolve(OptimizerConfig(name), command.setup.preset)
        experiment, folder = Experiment(optimizer, command.setup), RunFolder(command.run_dir / name)
        console.rule(OPTIMIZERS[name].title)
        code = train(experiment, corpus, folder, command.run, console, command.corpus)
        if code not in (0, DIVERGED):
            return code
        entries.append(read_entry(experiment, folder))
    rows = compare(entries)
    console.print(*make_tables(rows), sep="\n")
    runs = {entry.experiment.optimizer.name: entry.summary for entry in entries}
    curves = {
        OPTIMIZERS[name].title: entry.curve
        for (name, summary), entry in zip(runs.items(), entries, strict=True)
        if summary is not None
    }
    results, picture = command.run_dir / "compare.json", command.run_dir / "compare.png"
    if curves:
        tokens = command.setup.steps * command.setup.data.tokens_per_step
        plot_curves(picture, f"Validation loss over {tokens / 1e6:.2f} M tokens", curves)
    write_results(results, {"rows": rows, "runs": runs})
    written = f"Written: {results}" + (f", {picture}" if curves else "")
    console.print(_NOTE, written, sep="\n", soft_wrap=True)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command("examples.measure.compare", Command, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
