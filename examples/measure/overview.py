"""The tables of the READMEs, from the recorded results: `python -m examples.measure.overview`.

In a page, a table stands between the lines `<!-- NAME -->` and `<!-- /NAME -->`.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from examples.llama.optimizers import OPTIMIZERS
from examples.measure import throughput
from examples.measure.bench import compilation, shapes, step
from examples.measure.collectives import make_table as traffic_table
from examples.measure.results import RECORDED, recorded
from examples.measure.study.findings import findings
from examples.measure.study.results import ResultsFile
from examples.measure.study.tables import tabulate
from examples.measure.tables import Table

PAGES = (RECORDED.parent / "README.md", RECORDED.parent.parent.parent / "README.md")

STUDIED = "small-8k"
"""The cell of the learning study that is complete."""
_PRESETS = ("60m", "130m", "350m", "1b", "7b")
_TIMED = "60m"
"""The preset whose matrices are updated in the README's table."""
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


def _by_preset(name: str) -> dict[str, dict[str, Any]]:
    return {
        row["preset"]: row for row in recorded("memory.json")["rows"] if row["optimizer"] == name
    }


def _state(name: str) -> list[str]:
    """Bytes per weight: of the matrices alone, and of each preset's full model."""
    rows = [_by_preset(name)[preset] for preset in _PRESETS]
    alone = sorted(f"{row['matrix_state_per_weight']:.2f}" for row in rows)
    every = " / ".join(f"{row['state_per_weight']:.2f}" for row in rows)
    return [" to ".join(dict.fromkeys((alone[0], alone[-1]))), every]


def _time(name: str) -> str:
    """The time of an update over AdamW's."""
    if name == "adamw":
        return "1"
    for section in (recorded("benchmark.json")["step"], recorded("baselines.json")["baselines"]):
        for one in section["comparisons"]:
            if (one["over"], one["under"]) == (name, "adamw") and _TIMED in one["ratios"]:
                ratio = one["ratios"][_TIMED]["median"]
                return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"
    return ""


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


def memory() -> Table:
    """GiB of weights and state in bfloat16 (what papers print) / with state in float32."""
    rows = []
    for name in LIMITS:
        cells = []
        for row in (_by_preset(name)[preset] for preset in _PRESETS):
            papers = f" ({row['published_gib']:.2f})" if row["published_gib"] else ""
            both = row["weights_and_state_gib"], row["weights_and_float32_state_gib"]
            cells.append(f"{both[0]:.2f}{papers} / {both[1]:.2f}")
        rows.append([OPTIMIZERS[name].title, *cells])
    return Table(("GiB", *_PRESETS), rows)


_BRIEF = ("sinkgd", "swan", "muon", "adamw", "adam-mini", "ldadam-plain")
"""The optimizers of the project's README."""
_NAMES = {"adamw": "AdamW", "ldadam-plain": "LDAdam"}


def brief_memory() -> Table:
    """GiB of weights and optimizer state in bfloat16, for a phone."""
    presets = {"60m": "60M", "350m": "350M", "1b": "1.3B", "7b": "7B"}
    rows = []
    for name in _BRIEF:
        found = [_by_preset(name)[preset]["weights_and_state_gib"] for preset in presets]
        title = _NAMES.get(name, OPTIMIZERS[name].title)
        rows.append([title, *(f"{gib:.2f}" for gib in found)])
    return Table(("GiB", *presets.values()), rows)


def brief_time() -> Table:
    """The time of an update over AdamW's, for a phone."""
    timed = ("adamw", "adam-mini", "sinkgd", "sinkgd-operator", "ldadam", "muon", "swan")
    rows = [[_NAMES.get(name, OPTIMIZERS[name].title), _time(name)] for name in timed]
    return Table(("optimizer", "time of an update"), rows)


def study() -> Table:
    """The findings of the learning study in its completed cell."""
    return tabulate(STUDIED, findings(STUDIED, ResultsFile(RECORDED / "study.jsonl").runs()))


def largest() -> Table:
    """Memory of the 7b preset in float32, and the largest models made of its layers."""
    found = recorded("memory_largest.json")
    rows = []
    for row in found["rows"]:
        sums = row["state_bytes"], row["weight_bytes"] + row["state_bytes"], row["temporary_bytes"]
        cells = [f"{count / 2**30:.1f}" for count in (*sums, row["total_bytes"])]
        models = [one for one in found["largest"] if one["optimizer"] == row["optimizer"]]
        cells += [f"{one['parameters'] / 1e9:.2f} B ({one['layers']} layers)" for one in models]
        rows.append([row["title"], *cells])
    heads = (
        "step, GiB",
        "state",
        "and weights",
        "temporary",
        "total",
        "fits 24 GiB",
        "fits 80 GiB",
    )
    return Table(heads, rows)


def step_memory() -> Table:
    """Temporary memory of a step of few tokens, over SGD's."""
    rows = recorded("memory_step.json")["rows"]
    lines = []
    for row in rows:
        count, ratio = row["temporary_bytes"], row["temporary_bytes"] / rows[0]["temporary_bytes"]
        lines.append([row["title"], f"{count / 2**20:,.1f}", f"{ratio:.4f}"])
    return Table(("train step", "temporary MiB", "over SGD's"), lines)


TABLES: Mapping[str, Callable[[], Table]] = {
    "optimizers": optimizers,
    "memory": memory,
    "brief-memory": brief_memory,
    "brief-time": brief_time,
    "study": study,
    "largest": largest,
    "throughput": lambda: throughput.make_table(recorded("throughput.json")["rows"]),
    "step": lambda: step.make_table(recorded("benchmark.json")["step"]),
    "steep": lambda: step.make_table(recorded("steep.json")["step"]),
    "baselines": lambda: step.make_table(recorded("baselines.json")["baselines"]),
    "shapes": lambda: shapes.make_table(recorded("benchmark.json")["shapes"]["shapes"]),
    "step-memory": step_memory,
    "traffic": lambda: traffic_table(recorded("collectives.json")["rows"]),
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


if __name__ == "__main__":
    for path in PAGES:
        Path(path).write_text(with_tables(path.read_text()))
        print(f"Written: {path}")
