"""What a whole train step needs besides weights and state, as a ratio to SGD's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from examples.benchmark.targets import MEMORY_TARGETS, Target
from examples.llama.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, Setup
from examples.llama.costs.footprint import compiled
from examples.llama.presets import resolve

REFERENCE = "sgd"
"""It keeps nothing and makes nothing: what is there are gradients and activations."""

MODEL = ModelConfig(hidden=1024, mlp=2736, heads=16, layers=24, vocabulary=4096)
"""The layers of the preset 350m in float32, and a smaller table of tokens."""

DATA = DataConfig(batch_size=2, sequence_length=128)
"""So few tokens that activations hide nothing."""


@dataclass(frozen=True)
class Step:
    """A train step that is compiled."""

    title: str
    """How the table calls it."""
    optimizer: OptimizerConfig
    layerwise: bool = False
    """Whether each layer's gradient is used as soon as it is there."""


STEPS: Mapping[str, Step] = {
    REFERENCE: Step("SGD", OptimizerConfig("sgd", momentum=0.0)),
    "adamw": Step("AdamW", OptimizerConfig("adamw")),
    "sinkgd": Step("SinkGD", OptimizerConfig("sinkgd")),
    "sinkgd-layerwise": Step("SinkGD, layer-wise", OptimizerConfig("sinkgd"), layerwise=True),
}


@dataclass(frozen=True)
class Needed:
    """The memory of one step."""

    name: str
    temporary_bytes: int
    """What is there during the step only, as XLA plans it."""
    ratio: float
    """Of these bytes to those of SGD."""

    @property
    def title(self) -> str:
        """The step in words."""
        return STEPS[self.name].title

    @property
    def target(self) -> Target | None:
        """What is wanted of the ratio."""
        return MEMORY_TARGETS.get(self.name)

    @property
    def reached(self) -> bool | None:
        """Whether it is; None where nothing is wanted."""
        return None if self.target is None else self.target.reached([self.ratio])

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        return {
            "name": self.name,
            "title": self.title,
            "temporary_bytes": self.temporary_bytes,
            "ratio": self.ratio,
            "target": None if self.target is None else str(self.target),
            "reached": self.reached,
        }


def measure(console: Console, model: ModelConfig = MODEL, data: DataConfig = DATA) -> list[Needed]:
    """Compile every step for this backend, SGD's first; nothing is allocated."""
    found = {}
    for name, step in STEPS.items():
        with console.status(f"compiling a train step with {step.title}"):
            experiment = Experiment(resolve(step.optimizer), Setup(model=model, data=data))
            length = data.sequence_length + 1
            plan = compiled(experiment, length, layerwise=step.layerwise)
            found[name] = plan.temporary_bytes
    return [Needed(name, count, count / found[REFERENCE]) for name, count in found.items()]
