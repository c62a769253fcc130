"""What `examples.benchmark` prints."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from examples.benchmark.competitors import REFERENCE, TITLES
from examples.benchmark.memory import Needed
from examples.benchmark.shapes import Shaped
from examples.benchmark.step import Timed
from examples.benchmark.targets import Comparison
from examples.llama.costs.rounds import ratios, spread

NOTES = (
    "Ratios of times are taken within each round, so that what slows the machine for a while slows "
    "both sides; shown are the median over the rounds and, in brackets, the quartiles.",
    "SinkGD has L = 5 sweeps where nothing else is said; multi_normalize and the loop written "
    "plainly do the same. Weights and gradients are normal random numbers; of each preset as many "
    "layers are updated as fit into --megabytes.",
)
"""What a reader of the times has to know."""


def _table(title: str, heads: Sequence[str]) -> Table:
    # narrow: the widest one is to fit into a terminal of 80 columns
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("")
    for head in heads:
        table.add_column(head, justify="right")
    return table


def _verdict(reached: bool | None) -> str:
    return {True: "yes", False: "no", None: ""}[reached]


def _short(ratio: float) -> str:
    """A ratio in four letters, or a few more from a thousand on."""
    return f"{ratio:.{2 if ratio < 9.995 else 1 if ratio < 99.95 else 0}f}"


def times_table(group: Timed) -> Table:
    """The times of one group on one preset."""
    layers = "1 layer" if group.layers == 1 else f"{group.layers} layers"
    rounds = len(group.seconds[REFERENCE])
    table = _table(
        f"{group.preset}: {layers}, {group.elements / 1e6:.1f} M weights, {rounds} rounds",
        ("ms", f"ratio to {TITLES[REFERENCE]}"),
    )
    for name, seconds in group.seconds.items():
        ratio = ratios(seconds, group.seconds[REFERENCE])
        table.add_row(TITLES[name], f"{1e3 * spread(seconds).median:.2f}", str(ratio))
    return table


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """What was measured, beside what is wanted."""
    presets = list(dict.fromkeys(preset for each in comparisons for preset in each.ratios))
    table = _table("Ratios of times", [*presets, "mean", "target", "met"])
    for each in comparisons:
        cells = [_short(each.ratios[p].median) if p in each.ratios else "" for p in presets]
        target = "" if each.target is None else str(each.target)
        table.add_row(each.title, *cells, _short(each.mean), target, _verdict(each.reached))
    return table


def shapes_table(measured: Sequence[Shaped]) -> Table:
    """The times for each shape."""
    table = _table("SinkGD on one leaf, ns for each weight", ("AdamW", "SinkGD", "ratio"))
    for one in measured:
        nanoseconds = [
            1e9 * each.median / one.elements for each in (one.adamw_seconds, one.seconds)
        ]
        table.add_row(one.case.title, *(f"{each:.3f}" for each in nanoseconds), str(one.ratio))
    return table


def memory_table(measured: Sequence[Needed]) -> Table:
    """The temporary memory of a train step with each optimizer."""
    table = _table(
        "Memory of a train step besides weights and state",
        ("MiB", "ratio to SGD", "target", "met"),
    )
    for one in measured:
        target = "" if one.target is None else str(one.target)
        mebibytes = one.temporary_bytes / 2**20
        table.add_row(
            one.title, f"{mebibytes:,.1f}", f"{one.ratio:.4f}", target, _verdict(one.reached)
        )
    return table
