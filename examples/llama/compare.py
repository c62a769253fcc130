"""Compare optimizers on the same weights and batches: `python -m examples.llama.compare`."""

from examples.llama.run.stop import end_quietly

if __name__ == "__main__":
    end_quietly()

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from examples.llama.config import (
    CorpusConfig,
    Experiment,
    OptimizerConfig,
    OptimizerName,
    RunConfig,
    Setup,
)
from examples.llama.loss import Validation
from examples.llama.optimizers import BASE_OPTIMIZERS, OPTIMIZERS
from examples.llama.presets import resolve
from examples.llama.run.command import run_command
from examples.llama.run.folder import RunFolder, read_metrics
from examples.llama.run.lock import LockedFolder
from examples.llama.run.options import as_json
from examples.llama.run.plot import Curve, plot_comparison
from examples.llama.run.records import write_json
from examples.llama.schedule import rates_text
from examples.llama.text.corpus import Corpus, load_corpus
from examples.llama.train import DIVERGED, train

REFERENCE: OptimizerName = "adamw"
"""Tokens and speed are compared with this optimizer's."""


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

    name: OptimizerName
    settings: dict[str, Any]
    """Its options, rates included."""
    curve: Curve
    """Tokens and validation loss."""
    summary: dict[str, Any] | None
    """The run's summary; None when it diverged."""

    @property
    def loss(self) -> float | None:
        """The final validation loss."""
        return None if self.summary is None else self.summary["validation_loss"]


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


def read_entry(name: OptimizerName, experiment: Experiment, folder: RunFolder) -> Entry:
    """Read what a run left in its folder."""
    points = [line for line in read_metrics(folder.metrics) if "validation_loss" in line]
    curve = [line["tokens"] for line in points], [line["validation_loss"] for line in points]
    settings = {key: value for key, value in as_json(experiment.optimizer).items() if key != "name"}
    return Entry(name, settings, curve, folder.result(experiment.setup.steps))


def compare(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The rows of the comparison; what cannot be known is None."""
    reference = next((entry for entry in entries if entry.name == REFERENCE), None)
    base = reference.summary if reference is not None else None
    rows = []
    for entry in entries:
        row: dict[str, Any] = {"optimizer": entry.name, **entry.settings, "diverged": True}
        if entry.summary is not None:
            kept = ("train_loss", "validation_loss", "perplexity", "bits_per_byte", "tokens")
            cost = ("state_bytes", "state_bytes_matrices", "parameter_bytes", "tokens_per_second")
            row |= {key: entry.summary[key] for key in kept + cost} | {"diverged": False}
            row["tokens_to_reach_reference"] = row["speed_ratio"] = None
            if base is not None:
                reached = tokens_to_reach(base["validation_loss"], entry.curve)
                row["tokens_to_reach_reference"] = reached
                speeds = row["tokens_per_second"], base["tokens_per_second"]
                row["speed_ratio"] = None if None in speeds else speeds[0] / speeds[1]
        rows.append(row)
    return rows


def _bytes(count: int) -> str:
    return f"{count / 2**20:.2f} MiB"


def _reached(row: dict[str, Any]) -> str:
    reached = row["tokens_to_reach_reference"]
    if reached is None:
        return "not reached"
    return f"{reached / 1e6:.2f} M ({reached / row['tokens']:.0%})"


def _speed(row: dict[str, Any]) -> str:
    if row["tokens_per_second"] is None:
        return "unknown"
    ratio = "" if row["speed_ratio"] is None else f" ({row['speed_ratio']:.2f})"
    return f"{row['tokens_per_second']:,.0f}{ratio}"


_REFERENCE = OPTIMIZERS[REFERENCE].title
_LINES: Mapping[str, Callable[[dict[str, Any]], str]] = {
    "validation loss, nats": lambda row: f"{row['validation_loss']:.4f}",
    "perplexity": lambda row: f"{Validation(row['validation_loss']).perplexity:.3f}",
    "bits per byte": lambda row: f"{row['bits_per_byte']:.4f}",
    f"tokens to the loss of {_REFERENCE}": _reached,
    "optimizer state": lambda row: _bytes(row["state_bytes"]),
    "  of the matrices": lambda row: _bytes(row["state_bytes_matrices"]),
    f"tokens/s (ratio to {_REFERENCE})": _speed,
}
"""The lines of the table: what each says, and how it is read off a row of the comparison."""


_SIDE_BY_SIDE = 4
"""Optimizers in a table: more do not fit into a terminal."""


def make_tables(rows: Sequence[dict[str, Any]]) -> list[Table]:
    """Lay the rows out for a terminal, a column for each optimizer."""
    starts = range(0, len(rows), _SIDE_BY_SIDE)
    return [_make_table(rows[start : start + _SIDE_BY_SIDE]) for start in starts]


def _make_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Same initial weights, same batches, one seed", title_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(OPTIMIZERS[row["optimizer"]].title, justify="right")
    table.add_row("peak rates: matrices / rest", *map(rates_text, rows))
    for title, text in _LINES.items():
        table.add_row(title, *("diverged" if row["diverged"] else text(row) for row in rows))
    return table


def run(command: Command, console: Console) -> int:
    """Train what is not trained yet, then compare; return the exit code."""
    experiments = {
        name: Experiment(resolve(OptimizerConfig(name), command.setup.preset), command.setup)
        for name in command.optimizers
    }
    corpus = load_corpus(command.corpus, command.setup.model.vocabulary, console)
    whole = LockedFolder(command.run_dir)
    aside = whole.lock(fresh=command.fresh)
    try:
        if aside is not None:
            console.print(f"Moved {whole.path} aside to {aside}", soft_wrap=True)
        return _run(command, experiments, corpus, console)
    finally:
        whole.unlock()


def _run(
    command: Command,
    experiments: Mapping[OptimizerName, Experiment],
    corpus: Corpus,
    console: Console,
) -> int:
    folders = {name: RunFolder(command.run_dir / name) for name in experiments}
    for name, experiment in experiments.items():
        console.rule(OPTIMIZERS[name].title)
        code = train(experiment, corpus, folders[name], command.run, console, command.corpus)
        if code not in (0, DIVERGED):
            return code
    entries = [read_entry(name, experiments[name], folders[name]) for name in experiments]
    rows = compare(entries)
    console.print(*make_tables(rows), sep="\n")
    curves = {OPTIMIZERS[entry.name].title: entry.curve for entry in entries if entry.summary}
    tokens = command.setup.steps * command.setup.data.tokens_per_step
    picture = command.run_dir / "compare.png"
    if curves:
        plot_comparison(picture, f"Validation loss over {tokens / 1e6:.2f} M tokens", curves)
    results = command.run_dir / "compare.json"
    write_json(results, {"rows": rows, "runs": {e.name: e.summary for e in entries}})
    console.print(
        "Rates are each optimizer's default; a difference that is small against the spread between "
        "seeds means nothing. The speed is this machine's.",
        f"Written: {results}" + (f", {picture}" if curves else ""),
        sep="\n",
    )
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command("examples.llama.compare", Command, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
