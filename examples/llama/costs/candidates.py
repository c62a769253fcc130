"""What can be measured side by side: every optimizer, and the variants of the learning study."""

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


CANDIDATES: Mapping[str, Candidate] = {
    name: Candidate(recipe.title, OptimizerConfig(name)) for name, recipe in RECIPES.items()
} | {name: Candidate(variant.title, variant.optimizer) for name, variant in VARIANTS.items()}
"""By the name that `--optimizers` takes."""


def choose(names: Sequence[str], preset: PresetName) -> dict[str, Candidate]:
    """The candidates of these names, settled for a preset, each once; an error for other names."""
    if unknown := [name for name in names if name not in CANDIDATES]:
        raise InputError(
            f"--optimizers: {', '.join(unknown)} is none of {', '.join(sorted(CANDIDATES))}"
        )
    return {
        name: Candidate(CANDIDATES[name].title, settle(CANDIDATES[name].optimizer, preset))
        for name in names
    }
