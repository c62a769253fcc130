"""The deepest model of a layer's shape whose training fits into an accelerator's memory."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from examples.llama.config import Experiment, PresetName
from examples.llama.costs.footprint import GIB, compiled, kept
from examples.llama.figures import figures_table

_START = (8, 16)
"""Layers of the first two steps that are compiled."""


@dataclass(frozen=True)
class Largest:
    """The deepest model that fits."""

    preset: PresetName
    """Where the shape of the layers comes from."""
    optimizer: str
    title: str
    """The optimizer in words."""
    card_gib: int
    layers: int
    """0 if not even one layer fits."""
    parameters: int
    total_bytes: int
    """Weights, state and what the compiled step needs besides, at that depth."""

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        return vars(self)


def deepest(total: Callable[[int], int], limit: int) -> int:
    """The largest number of layers whose total is within the limit; 0 if that of one is not.

    Totals are close to a line, which says where to look; what is returned was asked about, and so
    was one layer more.

    Args:
        total: bytes by the number of layers; they grow with it.
        limit: bytes.
    """
    first, second = _START
    slope = (total(second) - total(first)) / (second - first)
    layers = max(1, second + int((limit - total(second)) // slope))
    while layers > 0 and total(layers) > limit:
        layers -= 1
    while total(layers + 1) <= limit:
        layers += 1
    return layers


def totals(experiment: Experiment, row_length: int, *, layerwise: bool) -> Callable[[int], int]:
    """Bytes that training a resolved experiment needs, by the number of its layers."""
    known: dict[int, int] = {}

    def total(layers: int) -> int:
        if layers not in known:
            deep = with_layers(experiment, layers)
            temporary = compiled(deep, row_length, layerwise=layerwise).temporary_bytes
            known[layers] = kept(deep).total_bytes + temporary
        return known[layers]

    return total


def with_layers(experiment: Experiment, layers: int) -> Experiment:
    """The same with another number of layers."""
    model = dataclasses.replace(experiment.setup.model, layers=layers)
    return dataclasses.replace(experiment, setup=dataclasses.replace(experiment.setup, model=model))


def make_table(found: Sequence[Largest]) -> Table:
    """Lay out the models of one layer's shape for a terminal."""
    cards = sorted({one.card_gib for one in found})
    lines = []
    for title in dict.fromkeys(one.title for one in found):
        cells = [
            one for card in cards for one in found if (one.title, one.card_gib) == (title, card)
        ]
        lines.append([title, *(f"{one.parameters / 1e9:.2f} B ({one.layers})" for one in cells)])
    heads = [f"layers of {found[0].preset}", *(f"in {card} GiB" for card in cards)]
    return figures_table(heads, lines)


def parameters_of(experiment: Experiment, layers: int) -> int:
    """Weights of the model with so many layers; none without layers."""
    return kept(with_layers(experiment, layers)).parameters if layers else 0


def largest(
    preset: PresetName,
    names: tuple[str, str],
    experiment: Experiment,
    row_length: int,
    cards_gib: Sequence[int],
    *,
    layerwise: bool,
) -> list[Largest]:
    """The deepest model for each accelerator.

    Args:
        preset: where the experiment's layers come from.
        names: the optimizer's name and title.
        experiment: resolved; its number of layers does not matter.
        row_length: tokens in a row.
        cards_gib: the accelerators' memory.
        layerwise: whether steps are layer-wise.
    """
    total = totals(experiment, row_length, layerwise=layerwise)
    found = []
    for card in cards_gib:
        layers = deepest(total, card * GIB)
        parameters = parameters_of(experiment, layers)
        bytes_needed = total(layers) if layers else 0
        found.append(Largest(preset, *names, card, layers, parameters, bytes_needed))
    return found
