"""What can be measured side by side: every optimizer, and the variants of the learning study."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from examples.llama.config import InputError, OptimizerConfig, PresetName
from examples.llama.optimizers import RECIPES, settle
from examples.llama.study.plan import VARIANTS


@dataclass(frozen=True)
class Candidate:
    """An optimizer with its options."""

    title: str
    """How tables and pictures call it."""
    optimizer: OptimizerConfig
    """Options left out are the optimizer's defaults."""
    layerwise: bool = False
    """Whether its step is the layer-wise one."""


CANDIDATES: Mapping[str, Candidate] = {
    name: Candidate(recipe.title, OptimizerConfig(name)) for name, recipe in RECIPES.items()
} | {name: Candidate(variant.title, variant.optimizer) for name, variant in VARIANTS.items()}
"""By the name that `--optimizers` takes."""


FOR_MEMORY: Mapping[str, Candidate] = {
    **CANDIDATES,
    "sgd-plain": Candidate("SGD without momentum", OptimizerConfig("sgd", momentum=0.0)),
    "ldadam-plain": Candidate(
        "LDAdam without error feedback", OptimizerConfig("ldadam", error_feedback=False)
    ),
    **{
        f"{name}-layerwise": Candidate(f"{one.title}, layer-wise", one.optimizer, layerwise=True)
        for name, one in CANDIDATES.items()
        if one.optimizer.name != "galore"
    },
}
"""With them what differs in memory: SGD and LDAdam that keep less, and the layer-wise steps."""


def choose(
    names: Sequence[str], preset: PresetName, known: Mapping[str, Candidate] = CANDIDATES
) -> dict[str, Candidate]:
    """The candidates of these names, settled for a preset, each once; an error for other names."""
    if unknown := [name for name in names if name not in known]:
        there = sorted(known, key=lambda name: (known[name].layerwise, name))
        raise InputError(f"--optimizers: {', '.join(unknown)} is none of {', '.join(there)}")
    return {
        name: dataclasses.replace(known[name], optimizer=settle(known[name].optimizer, preset))
        for name in names
    }
