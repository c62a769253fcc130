"""What can be measured side by side: every optimizer, and variants of some."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from examples.llama.config import InputError, OptimizerConfig, PresetName
from examples.llama.optimizers import RECIPES, settle


@dataclass(frozen=True)
class Candidate:
    """An optimizer with its options."""

    title: str
    """Display name."""
    optimizer: OptimizerConfig
    """Options left out are the optimizer's defaults."""
    layerwise: bool = False
    """Whether its step is the layer-wise one."""


CANDIDATES: Mapping[str, Candidate] = {
    **{name: Candidate(recipe.title, OptimizerConfig(name)) for name, recipe in RECIPES.items()},
    "sinkgd": Candidate("SinkGD, L = 5", OptimizerConfig("sinkgd")),
    "sinkgd-1": Candidate("SinkGD, L = 1", OptimizerConfig("sinkgd", num_iters=1)),
    "sinkgd-2": Candidate("SinkGD, L = 2", OptimizerConfig("sinkgd", num_iters=2)),
    "sinkgd-operator": Candidate(
        "SinkGD, L = 2, operator norm set",
        OptimizerConfig("sinkgd", num_iters=2, operator_norm=True),
    ),
    "sinkgd-momentum": Candidate(
        "SinkGD, L = 5, momentum", OptimizerConfig("sinkgd", momentum=0.95, nesterov=True)
    ),
    "sinkgd-tokens": Candidate(
        "SinkGD, L = 5, stateless embedding and head", OptimizerConfig("sinkgd", rest="sinkhorn")
    ),
    "swan-exact": Candidate(
        "SWAN, polar factor to rounding", OptimizerConfig("swan", orthogonalizer="exact")
    ),
    "sgd": Candidate("SGD with momentum", OptimizerConfig("sgd")),
}
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
