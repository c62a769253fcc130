"""What can be measured side by side: every optimizer, and variants of some."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from examples.llama.config import InputError, OptimizerConfig, PresetName
from examples.llama.optimizers import OPTIMIZERS
from examples.llama.presets import resolve


@dataclass(frozen=True)
class Candidate:
    """An optimizer with its options."""

    title: str
    """Display name."""
    optimizer: OptimizerConfig
    """Options left out are the optimizer's defaults."""
    layerwise: bool = False
    """Whether its step is the layer-wise one."""


_PLAIN = ("sgd-plain", "ldadam-plain")

CANDIDATES: Mapping[str, Candidate] = {
    name: Candidate(one.title, OptimizerConfig(name))
    for name, one in OPTIMIZERS.items()
    if name not in _PLAIN
}
"""By the name that `--optimizers` takes."""


FOR_MEMORY: Mapping[str, Candidate] = {
    **CANDIDATES,
    **{name: Candidate(OPTIMIZERS[name].title, OptimizerConfig(name)) for name in _PLAIN},
    **{
        f"{name}-layerwise": Candidate(f"{one.title}, layer-wise", one.optimizer, layerwise=True)
        for name, one in CANDIDATES.items()
        if OPTIMIZERS[name].layerwise
    },
}
"""With them what differs in memory: SGD and LDAdam that keep less, and the layer-wise steps."""


def choose(
    names: Sequence[str], preset: PresetName, known: Mapping[str, Candidate] = CANDIDATES
) -> dict[str, Candidate]:
    """The candidates of these names, resolved for a preset, each once; an error for other names."""
    if unknown := [name for name in names if name not in known]:
        there = sorted(known, key=lambda name: (known[name].layerwise, name))
        raise InputError(f"--optimizers: {', '.join(unknown)} is none of {', '.join(there)}")
    return {
        name: dataclasses.replace(known[name], optimizer=resolve(known[name].optimizer, preset))
        for name in names
    }
