"""What determines a training run: frozen dataclasses, from which the command line is made."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

OptimizerName = Literal["sinkgd", "swan", "adamw", "adamw2", "sgd"]
"""The optimizers to choose from; `examples.llama.optimizers.RECIPES` has an entry for each."""


class InputError(ValueError):
    """The command cannot be carried out as given; the message says what to change."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the LLaMA; the defaults have 0.86 M parameters and train on a CPU."""

    hidden: int = 128
    """Width of the residual stream."""
    mlp: int = 344
    """Width inside the SwiGLU block."""
    heads: int = 4
    """Attention heads; they share the hidden width, and each needs an even part of it."""
    layers: int = 4
    """Decoder layers."""
    vocabulary: int = 256
    """Number of tokens; 256 for bytes."""
    rope_base: float = 10_000.0
    """Base of the rotary positions' frequencies."""
    remat: bool = True
    """Recompute each layer in the backward pass instead of storing what is inside it.
    On a CPU this is faster too, because memory traffic costs more than arithmetic."""

    def __post_init__(self) -> None:
        """Refuse shapes that no model can have."""
        if self.hidden % (2 * self.heads):
            raise InputError(
                f"hidden width {self.hidden} cannot be split into {self.heads} heads of an even "
                f"width (rotary positions turn pairs of features); choose --hidden as a multiple "
                f"of {2 * self.heads}, or other --heads"
            )


@dataclass(frozen=True)
class DataConfig:
    """How text becomes batches."""

    batch_size: int = 16
    """Rows in a batch."""
    sequence_length: int = 256
    """Tokens that a row predicts."""
    data_seed: int = 0
    """Seed of the order of the rows. The order depends on nothing else, so all optimizers see the
    same batches."""
    validation_rows: int = 512
    """Rows of validation text, spread evenly over the validation files; 0 takes all of them."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens predicted in one step."""
        return self.batch_size * self.sequence_length


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer. Options left out take the optimizer's own default; one that has no meaning for
    the optimizer is an error."""

    name: Annotated[OptimizerName, tyro.conf.arg(name="optimizer")] = "sinkgd"
    """sinkgd and swan: stateless on the matrices of the layers, Adam on the rest (embedding, head,
    norms). adamw: one rate for every parameter. adamw2: AdamW with two rates, as sinkgd has.
    sgd: plain gradient descent."""
    learning_rate: float | None = None
    """Peak rate of the matrices; for sinkgd and swan the size of a weight's step, root mean square.
    For adamw and sgd the rate of every parameter."""
    rest_learning_rate: float | None = None
    """Peak rate of the rest: embedding, head and norms (sinkgd, swan, adamw2)."""
    num_iters: int | None = None
    """Sweeps of row and column normalization (sinkgd)."""
    momentum: float | None = None
    """Decay of a running sum of the matrices' gradients, kept before they are normalized, which
    costs one buffer; 0 is off (sinkgd, swan; for sgd, of all gradients)."""
    weight_decay: float | None = None
    """Decoupled weight decay of the matrices (not sgd)."""
    b2: float | None = None
    """Decay of Adam's average of squared gradients (not sgd)."""
    clip_norm: float | None = None
    """Clip the gradients of the parameters under Adam to this global norm, 0 is off (not sgd)."""


@dataclass(frozen=True)
class Setup:
    """What is trained, on what and for how long, whatever the optimizer."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    steps: int = 300
    """Optimizer steps. Rates rise linearly over the first tenth, then fall as a cosine to a tenth
    of the peak at the last."""
    seed: int = 0
    """Seed of the initial weights."""
    validate_every: int = 25
    """Steps between validations; the last step is always validated."""

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        for name in ("steps", "validate_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, but must be at least 1")


@dataclass(frozen=True)
class Experiment:
    """Everything that determines a run's result, together with the corpus."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    setup: Setup = field(default_factory=Setup)


@dataclass(frozen=True)
class CorpusConfig:
    """Where the text comes from. The default needs no download: the Python standard library."""

    corpus_root: Path | None = None
    """Folder whose *.py files are the text; by default the standard library of this Python."""
    cache: Path | None = None
    """Folder for the text as one array; by default multinorm_optax in the user's cache folder
    ($XDG_CACHE_HOME or ~/.cache)."""


@dataclass(frozen=True)
class RunConfig:
    """How a run is watched and saved; none of it changes the result."""

    save_every: int = 100
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints kept, the newest ones."""
    log_every: int = 10
    """Steps between lines where the output is not a terminal."""


def as_json(config: Any) -> dict[str, Any]:
    """Return a configuration as what JSON can hold."""
    return dataclasses.asdict(config)
