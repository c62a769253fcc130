"""The deepest model with one kind of layer whose training fits into a device's memory."""

from collections.abc import Callable
from typing import Any

from examples.llama.config import Experiment
from examples.measure.footprint import GIB, CompiledStep, kept, with_model
from examples.measure.tables import Table, unique

_FIRST, _SECOND = 8, 16
"""Layers of the first two steps that are compiled."""


def deepest(total: Callable[[int], int], limit: int) -> int:
    """The largest number of layers whose total is within the limit; 0 if one layer's is not.

    The total grows almost linearly, which says where to look. The total of the returned number of
    layers and that of one layer more are always asked for.
    """
    slope = (total(_SECOND) - total(_FIRST)) / (_SECOND - _FIRST)
    layers = max(1, _SECOND + int((limit - total(_SECOND)) // slope))
    while layers > 0 and total(layers) > limit:
        layers -= 1
    while total(layers + 1) <= limit:
        layers += 1
    return layers


def largest(
    experiment: Experiment, row_length: int, cards_gib: tuple[int, ...], *, layerwise: bool
) -> list[dict[str, Any]]:
    """The deepest model for each size of memory: weights, state and the compiled step fit."""
    known: dict[int, int] = {}

    def total(layers: int) -> int:
        if layers not in known:
            deep = with_model(experiment, layers=layers)
            plan = CompiledStep(deep, row_length, layerwise=layerwise).plan()
            known[layers] = kept(deep).total_bytes + plan["temporary_bytes"]
        return known[layers]

    found = []
    for card in cards_gib:
        layers = deepest(total, card * GIB)
        parameters = kept(with_model(experiment, layers=layers)).parameters if layers else 0
        found.append(
            {
                "card_gib": card,
                "layers": layers,
                "parameters": parameters,
                "total_bytes": total(layers) if layers else 0,
            }
        )
    return found


def largest_table(rows: list[dict[str, Any]]) -> Table:
    """The largest models of one preset's layers."""
    cards = sorted({row["card_gib"] for row in rows})
    lines = []
    for title in unique(row["title"] for row in rows):
        cells = {row["card_gib"]: row for row in rows if row["title"] == title}
        figures = [f"{cells[c]['parameters'] / 1e9:.2f} B ({cells[c]['layers']})" for c in cards]
        lines.append([title, *figures])
    heads = [f"layers of {rows[0]['preset']}", *(f"in {card} GiB" for card in cards)]
    return Table(heads, lines)
