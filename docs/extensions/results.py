"""Tables of measured figures, made from the repository's result files when the site is built.

In a page, the directive `results` with the name of a table; a page never carries a copied figure
that a new measurement would make stale.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from examples.measure import overview
from examples.measure.bench import orthogonalizers

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
MEMORY = "measure/results/memory.json"
LARGEST = "measure/results/memory_largest.json"
BENCHMARK = "measure/results/benchmark.json"
COLLECTIVES = "measure/results/collectives.json"
ORTHOGONALIZERS = "measure/results/orthogonalizers.json"
STUDY = "measure/results/study.jsonl"


def _load(name: str) -> Any:
    return json.loads((EXAMPLES / name).read_text())


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, *rows)]
    return [lines[0], "|---|" + "---:|" * (len(heads) - 1), *lines[1:]]


def memory() -> list[str]:
    """GiB of weights and state, and of temporary memory, of the two largest presets."""
    rows: dict[str, dict[str, Any]] = {}
    for row in _load(MEMORY)["rows"]:
        rows.setdefault(row["title"], {})[row["preset"]] = row
    presets = ("350m", "1b", "7b")
    return _table(
        ["optimizer", *presets],
        (
            [
                title,
                *(
                    f"{of[each]['weights_and_state_gib']:.2f} + {_gib(of[each])}"
                    for each in presets
                ),
            ]
            for title, of in rows.items()
        ),
    )


def _gib(row: dict[str, Any]) -> str:
    return f"{row['temporary_bytes'] / 2**30:.2f}"


def largest() -> list[str]:
    """The largest models of the 7b preset's layers that fit."""
    rows: dict[str, dict[int, Any]] = {}
    for row in _load(LARGEST)["largest"]:
        rows.setdefault(row["title"], {})[row["card_gib"]] = row
    cards = (24, 80)
    return _table(
        ["step", *(f"{card} GiB" for card in cards)],
        (
            [
                title,
                *(
                    f"{of[card]['parameters'] / 1e9:.1f} B ({of[card]['layers']} layers)"
                    for card in cards
                ),
            ]
            for title, of in rows.items()
        ),
    )


def update_time() -> list[str]:
    """Ratios of times of an update to AdamW's, by preset."""
    titles = {
        "sinkgd": "SinkGD",
        "sinkgd-1": "SinkGD, 1 sweep",
        "sinkgd-tol": "SinkGD, tolerance 1e-3",
        "literal": "SinkGD as the paper writes it",
        "swan-quintic": "SWAN",
        "muon": "Muon",
        "sgd-plain": "SGD",
    }
    ratios: dict[str, dict[str, float]] = {}
    for group in _load(BENCHMARK)["step"]["groups"]:
        for name, measured in group["competitors"].items():
            # the group without Newton-Schulz comes first, and has more rounds
            ratios.setdefault(name, {}).setdefault(group["preset"], measured["ratio"]["median"])
    presets = list(ratios["adamw"])
    return _table(
        ["time over AdamW's", *presets],
        (
            [title, *(f"{ratios[name][p]:.3g}" if p in ratios[name] else "" for p in presets)]
            for name, title in titles.items()
        ),
    )


def traffic() -> list[str]:
    """What each device sends for one update."""
    rows = _load(COLLECTIVES)["rows"]
    return _table(
        ["optimizer", "mesh axes", "MiB sent by each device"],
        (
            [row["title"].split(",")[0], row["axis_type"], f"{row['sent_bytes'] / 2**20:,.0f}"]
            for row in rows
        ),
    )


def singular_values() -> list[str]:
    """What becomes of each singular direction, for every orthogonalizer and arithmetic."""
    table = orthogonalizers.make_table(_load(ORTHOGONALIZERS)["orthogonalizers"]["rows"])
    return _table(table.heads, table.rows)


def study() -> list[str]:
    """The findings of the learning study."""
    return overview.study().markdown().splitlines()


TABLES: dict[str, Callable[[], list[str]]] = {
    "study": study,
    "memory": memory,
    "largest": largest,
    "update-time": update_time,
    "traffic": traffic,
    "singular-values": singular_values,
}


class Results(SphinxDirective):
    """A table of `TABLES` by its name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The table's nodes."""
        for name in (MEMORY, LARGEST, BENCHMARK, COLLECTIVES, ORTHOGONALIZERS, STUDY):
            self.env.note_dependency(EXAMPLES / name)
        holder = nodes.container()
        lines = TABLES[self.arguments[0]]()
        self.state.nested_parse(StringList(lines, self.get_source_info()[0]), 0, holder)
        return holder.children


def setup(app: Sphinx) -> ExtensionMetadata:
    """Registers the directive."""
    app.add_directive("results", Results)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
