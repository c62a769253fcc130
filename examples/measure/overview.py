"""The tables of the READMEs, from the recorded results: `python -m examples.measure.overview`.

In a page, a table stands between the lines `<!-- NAME -->` and `<!-- /NAME -->`.
"""

import functools
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from rich.console import Console

from examples.llama.optimizers import OPTIMIZERS
from examples.llama.run.command import run_command
from examples.llama.run.files import write_atomically
from examples.measure import bench, collectives, compilation, throughput
from examples.measure.candidates import CANDIDATES, tabulate
from examples.measure.results import RECORDED, recorded
from examples.measure.study.findings import findings, findings_table
from examples.measure.study.plan import CELLS
from examples.measure.study.runs import RunsFile
from examples.measure.study.search import Search, mean_loss
from examples.measure.tables import Table, pivot, table
from examples.measure.timing import REFERENCE

PAGES = (RECORDED.parent / "README.md", RECORDED.parent.parent.parent / "README.md")

_IMPLEMENTED_HERE = ("sinkgd", "swan", "adam-mini", "ldadam")

LIMITS: Mapping[str, str] = {
    "sinkgd": "normalize vectors: norms and biases stay with Adam",
    "sinkgd-tokens": "learn a token from a batch in which most tokens' gradients are noise",
    "swan": "work on parts of a matrix: devices exchange whole ones",
    "muon": "as SWAN",
    "adamw": "save memory",
    "adam-mini": "find heads in a shape: blocks have to be given",
    "ldadam": "save memory in bfloat16: its error buffer is float32",
    "ldadam-plain": "get back what the subspace leaves out",
    "galore": "layer-wise steps; follow gradients that leave its subspace",
    "lion": "do without momentum",
    "adalomo": "use rates of the usual unit: its are relative",
    "sgd": "use one rate for layers of different scale",
}
"""What each optimizer cannot do, in the order of the table."""


_BRIEF = ("sinkgd", "swan", "muon", "adamw", "adam-mini", "ldadam-plain")
_BRIEF_TIME = ("adamw", "adam-mini", "sinkgd", "sinkgd-operator", "ldadam", "muon", "swan")
_BRIEF_LOSS = (
    "swan-sweeps",
    "swan",
    "muon",
    "sinkgd-operator",
    "adamw2",
    "sinkgd-tokens",
    "sinkgd",
    "adamw",
)
"""The optimizers of the project's README."""


def _memory(*names: str) -> list[dict[str, Any]]:
    rows = recorded("memory.json")["rows"]
    return [row for name in names for row in rows if row["optimizer"] == name]


def _state(name: str) -> list[str]:
    """Bytes per weight: of the matrices alone, and of each preset's full model."""
    rows = _memory(name)
    alone = sorted(f"{row['matrix_state_per_weight']:.2f}" for row in rows)
    every = " / ".join(f"{row['state_per_weight']:.2f}" for row in rows)
    return [" to ".join(dict.fromkeys((alone[0], alone[-1]))), every]


def _time(name: str) -> str:
    """The time of an update of the 60m preset's matrices over AdamW's."""
    if name == REFERENCE:
        return "1"
    step, baselines = recorded("benchmark.json")["step"], recorded("baselines.json")["baselines"]
    found = bench.compare([*step["groups"], *baselines["groups"]]).get((name, REFERENCE), {})
    if "60m" not in found:
        return ""
    ratio = found["60m"].median
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def optimizers() -> Table:
    """State, time and limits of each optimizer; those of this library in bold."""
    heads = (
        "optimizer",
        "state of a matrix weight, bytes",
        "of any weight: 60M / 130M / 350M / 1.3B / 7B",
        "update, time over AdamW's",
        "what it cannot do",
    )
    rows = []
    for name, limits in LIMITS.items():
        entry = OPTIMIZERS[name]
        bold = "**" * ((entry.variant_of or name) in _IMPLEMENTED_HERE)
        rows.append([f"{bold}{entry.title}{bold}", *_state(name), _time(name), limits])
    return Table(heads, rows)


def _title(name: str) -> str:
    return OPTIMIZERS[name].title


def _brief(name: str) -> str:
    return "AdamW" if name == "adamw" else _title(name)


def memory() -> Table:
    """GiB of weights and state in bfloat16 (what papers print) / with state in float32."""

    def cell(row: dict[str, Any]) -> str:
        papers = f" ({row['published_gib']:.2f})" if row["published_gib"] else ""
        both = row["weights_and_state_gib"], row["weights_and_float32_state_gib"]
        return f"{both[0]:.2f}{papers} / {both[1]:.2f}"

    return pivot("GiB", _memory(*LIMITS), lambda row: row["title"], lambda r: r["preset"], cell)


def brief_memory() -> Table:
    """GiB of weights and optimizer state in bfloat16, for a phone."""
    presets = {"60m": "60M", "350m": "350M", "1b": "1.3B", "7b": "7B"}
    return pivot(
        "GiB",
        [row for row in _memory(*_BRIEF) if row["preset"] in presets],
        lambda row: _brief(row["optimizer"]),
        lambda row: presets[row["preset"]],
        lambda row: f"{row['weights_and_state_gib']:.2f}",
    )


def largest() -> Table:
    """Memory of the 7b preset, and the largest models made of its layers."""
    found = recorded("memory_largest.json")
    rows = []
    for row in found["rows"]:
        sums = row["state_bytes"], row["weight_bytes"] + row["state_bytes"], row["temporary_bytes"]
        cells = [f"{count / 2**30:.1f}" for count in (*sums, row["total_bytes"])]
        models = [one for one in found["largest"] if one["optimizer"] == row["optimizer"]]
        cells += [f"{one['parameters'] / 1e9:.2f} B ({one['layers']} layers)" for one in models]
        rows.append([row["title"], *cells])
    cards = [f"fits {one['card_gib']} GiB" for one in models]
    return Table(("step, GiB", "state", "and weights", "temporary", "total", *cards), rows)


def step_memory() -> Table:
    """Temporary memory of a step of few tokens, over SGD's."""
    rows = recorded("memory_step.json")["rows"]
    sgd = rows[0]["temporary_bytes"]
    return table(
        rows,
        {
            "train step": lambda row: row["title"],
            "temporary MiB": lambda row: f"{row['temporary_bytes'] / 2**20:,.1f}",
            "over SGD's": lambda row: f"{row['temporary_bytes'] / sgd:.4f}",
        },
    )


def study(cell: str) -> Table:
    """The findings of the learning study in a cell."""
    return findings_table(cell, _findings(cell))


def _findings(cell: str) -> list[Search]:
    return findings(cell, RunsFile(RECORDED / "study.jsonl").runs())


def brief_loss() -> Table:
    """The final losses of some optimizers in the study, without their spread."""
    columns: dict[str, Callable[[str], str]] = {"final validation loss, nats": _title}
    for cell in ("large-8k", "small-8k", "small-1k"):
        losses = {one.optimizer: mean_loss(one.winner) for one in _findings(cell)}
        columns[CELLS[cell].title] = lambda name, losses=losses: f"{losses[name]:.2f}"  # type: ignore[misc]
    return table(_BRIEF_LOSS, columns)


def tried_candidates(cell: str) -> Table:
    """The candidates for SWAN's and SinkGD's directions in a cell."""
    runs = RunsFile(RECORDED / "candidates.jsonl").runs()
    return tabulate(cell, tuple(CANDIDATES), runs)


def _groups(file: str, section: str) -> list[dict[str, Any]]:
    return recorded(file)[section]["groups"]


TABLES: Mapping[str, Callable[[], Table]] = {
    "optimizers": optimizers,
    "memory": memory,
    "brief-memory": brief_memory,
    "brief-loss": brief_loss,
    "brief-time": lambda: table(_BRIEF_TIME, {"optimizer": _brief, "time of an update": _time}),
    "study": lambda: study("small-8k"),
    "study-small-1k": lambda: study("small-1k"),
    "study-large-8k": lambda: study("large-8k"),
    "candidates": lambda: tried_candidates("small-8k"),
    "candidates-small-1k": lambda: tried_candidates("small-1k"),
    "largest": largest,
    "throughput": lambda: throughput.make_table(recorded("throughput.json")),
    "step": lambda: bench.ratio_table(_groups("benchmark.json", "step")),
    "steep": lambda: bench.ratio_table(_groups("steep.json", "step")),
    "baselines": lambda: bench.ratio_table(_groups("baselines.json", "baselines"), {}),
    "shapes": lambda: bench.shape_table(_groups("benchmark.json", "shapes")),
    "step-memory": step_memory,
    "traffic": lambda: collectives.make_table(recorded("collectives.json")["rows"]),
    "compilation": lambda: compilation.make_table(
        recorded("compilation.json")["compilation"]["rows"]
    ),
}
"""The tables by name."""


def with_tables(page: str) -> str:
    """A page with its tables made anew."""

    def made(found: re.Match[str]) -> str:
        return f"{found[1]}{TABLES[found[2]]().markdown()}{found[4]}"

    pattern = r"(<!-- ([\w-]+) -->\n)(.*?)(\n<!-- /\2 -->)"
    return re.sub(pattern, made, page, flags=re.DOTALL)


@dataclass(frozen=True)
class Command:
    """Make the tables of the READMEs anew, from the recorded results."""


def _write(page: bytes, file: BinaryIO) -> None:
    file.write(page)


def run(command: Command, console: Console) -> int:
    """Write every page; return the exit code."""
    pages = {path: with_tables(path.read_text()).encode() for path in PAGES}
    for path, page in pages.items():
        write_atomically(path, functools.partial(_write, page))
        console.print(f"Written: {path}", soft_wrap=True)
    return 0


main = functools.partial(run_command, "examples.measure.overview", Command, run)
"""Run the command line with these arguments; return the exit code."""

if __name__ == "__main__":
    sys.exit(main(None))
