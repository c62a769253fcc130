"""Tables of measured figures, made from the repository's result files when the site is built.

In a page, the directive `results` with the name of a table; a page never carries a copied figure
that a new measurement would make stale.
"""

from collections.abc import Callable

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from examples.measure import bench, orthogonalizers, overview
from examples.measure.results import RECORDED, recorded
from examples.measure.tables import Table, pivot, table
from examples.measure.timing import REFERENCE


def memory() -> Table:
    """GiB of weights and state, and of temporary memory, of the two largest presets."""
    rows = recorded("memory.json")["rows"]
    return pivot(
        "optimizer",
        [row for row in rows if row["preset"] in ("350m", "1b", "7b")],
        lambda row: row["title"],
        lambda row: row["preset"],
        lambda row: f"{row['weights_and_state_gib']:.2f} + {row['temporary_bytes'] / 2**30:.2f}",
    )


def largest() -> Table:
    """The largest models of the 7b preset's layers that fit."""
    return pivot(
        "step",
        recorded("memory_largest.json")["largest"],
        lambda row: row["title"],
        lambda row: f"{row['card_gib']} GiB",
        lambda row: f"{row['parameters'] / 1e9:.1f} B ({row['layers']} layers)",
    )


def update_time() -> Table:
    """Ratios of times of an update to AdamW's, by preset."""
    titles = {
        "sinkgd": "SinkGD",
        "sinkgd-1": "SinkGD, 1 sweep",
        "sinkgd-tol": "SinkGD, tolerance 1e-3",
        "literal": "SinkGD as the paper writes it",
        "swan": "SWAN",
        "swan-quintic": "SWAN, Muon's quintic",
        "muon": "Muon",
        "sgd-plain": "SGD",
    }
    found = bench.compare(recorded("benchmark.json")["step"]["groups"])
    cells = [
        (title, preset, ratio.median)
        for name, title in titles.items()
        for preset, ratio in found[name, REFERENCE].items()
    ]
    return pivot(
        "time over AdamW's",
        cells,
        lambda cell: cell[0],
        lambda cell: cell[1],
        lambda cell: f"{cell[2]:.3g}",
    )


def traffic() -> Table:
    """What each device sends for one update."""
    return table(
        recorded("collectives.json")["rows"],
        {
            "optimizer": lambda row: row["title"].split(",")[0],
            "mesh axes": lambda row: row["axis_type"],
            "MiB sent by each device": lambda row: f"{row['sent_bytes'] / 2**20:,.0f}",
        },
    )


def singular_values() -> Table:
    """What becomes of each singular direction, for every orthogonalizer and arithmetic."""
    return orthogonalizers.make_table(recorded("orthogonalizers.json")["orthogonalizers"]["rows"])


TABLES: dict[str, Callable[[], Table]] = {
    "study": overview.TABLES["study"],
    "study-small-1k": overview.TABLES["study-small-1k"],
    "study-large-8k": overview.TABLES["study-large-8k"],
    "candidates": overview.TABLES["candidates"],
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
        for path in RECORDED.glob("*.json*"):
            self.env.note_dependency(path)
        holder = nodes.container()
        lines = TABLES[self.arguments[0]]().markdown(figures="---:").splitlines()
        self.state.nested_parse(StringList(lines, self.get_source_info()[0]), 0, holder)
        return holder.children


def setup(app: Sphinx) -> ExtensionMetadata:
    """Registers the directive."""
    app.add_directive("results", Results)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
