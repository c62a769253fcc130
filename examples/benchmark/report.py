"""What `examples.benchmark` prints."""

from collections.abc import Sequence

from rich.table import Table

from examples.benchmark.competitors import REFERENCE, TITLES
from examples.benchmark.memory import Needed
from examples.benchmark.shapes import Shaped
from examples.benchmark.step import Timed
from examples.benchmark.targets import Comparison
from examples.llama.costs.rounds import ratios, spread
from examples.llama.figures import figures_table

NOTES = (
    "Ratios of times are taken within each round, so that what slows the machine for a while slows "
    "both sides; shown are the median over the rounds and, in brackets, the quartiles.",
    "SinkGD has L = 5 sweeps where nothing else is said; multi_normalize and the loop written "
    "plainly do the same. Weights and gradients are normal random numbers; of each preset as many "
    "layers are updated as fit into --megabytes.",
)
"""What a reader of the times has to know."""


def _verdict(reached: bool | None) -> str:
    return {True: "yes", False: "no", None: ""}[reached]


def _short(ratio: float) -> str:
    """A ratio in four letters, or a few more from a thousand on."""
    return f"{ratio:.{2 if ratio < 9.995 else 1 if ratio < 99.95 else 0}f}"


def times_table(group: Timed) -> Table:
    """The times of one group on one preset."""
    layers = "1 layer" if group.layers == 1 else f"{group.layers} layers"
    rounds = len(group.seconds[REFERENCE])
    lines = []
    for name, seconds in group.seconds.items():
        ratio = ratios(seconds, group.seconds[REFERENCE])
        lines.append([TITLES[name], f"{1e3 * spread(seconds).median:.2f}", str(ratio)])
    title = f"{group.preset}: {layers}, {group.elements / 1e6:.1f} M weights, {rounds} rounds"
    return figures_table(["", "ms", f"ratio to {TITLES[REFERENCE]}"], lines, title=title)


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """What was measured, beside what is wanted."""
    presets = list(dict.fromkeys(preset for each in comparisons for preset in each.ratios))
    lines = []
    for each in comparisons:
        cells = [_short(each.ratios[p].median) if p in each.ratios else "" for p in presets]
        target = "" if each.target is None else str(each.target)
        lines.append([each.title, *cells, _short(each.mean), target, _verdict(each.reached)])
    return figures_table(["", *presets, "mean", "target", "met"], lines, title="Ratios of times")


def shapes_table(measured: Sequence[Shaped]) -> Table:
    """The times for each shape."""
    lines = []
    for one in measured:
        nanoseconds = [
            1e9 * each.median / one.elements for each in (one.adamw_seconds, one.seconds)
        ]
        lines.append([one.case.title, *(f"{each:.3f}" for each in nanoseconds), str(one.ratio)])
    title = "SinkGD on one leaf, ns for each weight"
    return figures_table(["", "AdamW", "SinkGD", "ratio"], lines, title=title)


def memory_table(measured: Sequence[Needed]) -> Table:
    """The temporary memory of a train step with each optimizer."""
    lines = []
    for one in measured:
        target = "" if one.target is None else str(one.target)
        mebibytes = one.temporary_bytes / 2**20
        lines.append(
            [one.title, f"{mebibytes:,.1f}", f"{one.ratio:.4f}", target, _verdict(one.reached)]
        )
    title = "Memory of a train step besides weights and state"
    return figures_table(["", "MiB", "ratio to SGD", "target", "met"], lines, title=title)
