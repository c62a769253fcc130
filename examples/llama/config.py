"""What determines a training run: frozen dataclasses, from which the command line is made."""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import tyro

from examples.llama.optimizers import OPTIMIZERS
from examples.llama.run.options import (
    Checked,
    Count,
    Decay,
    InputError,
    Natural,
    NotNegative,
    Positive,
)

if TYPE_CHECKING:
    OptimizerName: TypeAlias = str
else:
    OptimizerName = Literal[tuple(OPTIMIZERS)]
"""The optimizers to choose from: the names in the table `examples.llama.optimizers.OPTIMIZERS`."""

PresetName = Literal["cpu", "60m", "130m", "350m", "1b", "7b"]
"""The presets to choose from; `examples.llama.presets.PRESETS` has an entry for each."""

Precision = Literal["float32", "mixed", "bfloat16-weights", "bfloat16"]
"""See `ModelConfig.precision`; the loss is float32 in all."""


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The shape of the LLaMA; the defaults have 0.86 M parameters and train on a CPU."""

    hidden: Count = 128
    """Width of the residual stream."""
    mlp: Count = 344
    """Width inside the SwiGLU block."""
    heads: Count = 4
    """Attention heads; they share the hidden width, and each needs an even part of it."""
    layers: Count = 4
    """Decoder layers."""
    vocabulary: Count = 256
    """Number of tokens; 256 for bytes."""
    rope_base: Positive = 10_000.0
    """Base of the rotary positions' frequencies."""
    precision: Precision = "float32"
    """float32: everything. mixed: float32 weights, gradients and optimizer state, bfloat16
    arithmetic. bfloat16-weights: weights and gradients in bfloat16 too, optimizer state in float32.
    bfloat16: everything, as in the papers; Adam's second moment can then grow but not shrink, as a
    decrease of 0.1 % is rounded away."""
    remat: bool = True
    """Recompute each layer in the backward pass instead of storing its activations: about a third
    more arithmetic. On a CPU this is faster too, because memory traffic costs more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % (2 * self.heads):
            raise InputError(
                f"hidden width {self.hidden} cannot be split into {self.heads} heads of an even "
                f"width (rotary positions turn pairs of features); choose --hidden as a multiple "
                f"of {2 * self.heads}, or other --heads"
            )


@dataclass(frozen=True)
class DataConfig(Checked):
    """How text becomes batches."""

    batch_size: Count = 16
    """Rows in a batch."""
    microbatches: Count = 1
    """Parts in which a batch is computed, to save memory. Their gradients are added up before the
    optimizer sees them, so the result is the whole batch's up to rounding."""
    sequence_length: Count = 256
    """Tokens that a row predicts (--text python), or tokens of a row that holds one document."""
    data_seed: Natural = 0
    """Seed of the order of the rows. The order depends on nothing else, so all optimizers see the
    same batches."""
    validation_rows: Natural = 512
    """Rows of validation text, spread evenly over the validation files (--text python) or the first
    of the validation files; 0 takes all of them."""
    shuffle_window: Count = 10_000
    """Documents among which the next one is drawn; not for --text python and token shards, whose
    rows are shuffled as a whole."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.microbatches:
            raise InputError(
                f"a batch of {self.batch_size} rows cannot be divided into {self.microbatches} "
                f"equal parts; choose --batch-size as a multiple of --microbatches"
            )

    @property
    def tokens_per_step(self) -> int:
        """Tokens in one step; padding counts."""
        return self.batch_size * self.sequence_length


_ONE_RATE = [name for name, one in OPTIMIZERS.items() if "rest_learning_rate" not in one.defaults]
_CHOICES = (
    "; ".join(f"{name}: {one.summary or one.title}" for name, one in OPTIMIZERS.items())
    + f". One rate for every parameter: {', '.join(_ONE_RATE)}; the others have two."
)


@dataclass(frozen=True)
class OptimizerConfig(Checked):
    """The optimizer. Options left out take the optimizer's own defaults; --optimizer NAME --help
    shows them. An option that has no meaning for the optimizer, None there, is an error."""

    name: Annotated[OptimizerName, tyro.conf.arg(name="optimizer", help=_CHOICES)] = "sinkgd"
    learning_rate: Positive | None = None
    """Peak rate of the matrices; for sinkgd and swan the size of a weight's step, root mean square.
    For adamw the rate of every parameter, for adalomo relative to the weights' root mean square."""
    rest_learning_rate: Positive | None = None
    """Peak rate of the rest: embedding, head and norms."""
    rest: Literal["adam", "sinkhorn"] | None = None
    """What trains embedding and head: Adam, or the stateless alternation that ends with tokens of
    root mean square 1; norms stay with Adam (sinkgd)."""
    num_iters: Natural | None = None
    """Sweeps of row and column normalization; for swan those before it whitens, 0 normalizes only
    rows (sinkgd, swan)."""
    operator_norm: bool | None = None
    """Whether the matrices' directions are scaled to operator norm sqrt(rows / columns), so that a
    rate suits every width (sinkgd)."""
    orthogonalizer: Literal["paper", "exact"] | None = None
    """How gradients are whitened: by the coupled iteration of the paper, or to rounding by Polar
    Express (swan)."""
    momentum: Decay | None = None
    """Decay of a running sum of the matrices' gradients, kept before they are normalized, which
    costs one buffer; 0 is off (for sgd, of all gradients)."""
    nesterov: bool | None = None
    """Whether the momentum looks ahead."""
    weight_decay: NotNegative | None = None
    """Decoupled weight decay of the matrices."""
    b2: Decay | None = None
    """Decay of Adam's average of squared gradients, or of Lion's momentum."""
    clip_norm: NotNegative | None = None
    """Clip the gradients of the parameters under Adam to this global norm, 0 is off (for adamw
    all gradients)."""
    rank: Count | None = None
    """Dimensions of the subspace."""
    error_feedback: bool | None = None
    """Whether to keep what the subspace leaves out, one float32 number per weight (ldadam)."""
    update_proj_gap: Count | None = None
    """Steps between two choices of the subspace (galore)."""
    value_blocks: Literal["neuron", "whole"] | None = None
    """What shares a second moment in the matrices of attention's values: the weights of an output
    neuron, or all, which is advised for less than 10 000 to 20 000 steps (adam-mini)."""


@dataclass(frozen=True)
class Setup(Checked):
    """What is trained, on what and for how long, whatever the optimizer."""

    preset: PresetName = "cpu"
    """Where the defaults of all other options come from: cpu trains in minutes without a download;
    60m to 7b are the papers' models and schedules on C4, --text hub or a folder of its files. Their
    tokenizer is T5's; without its file in --tokenizer, byte pairs are learned."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    steps: Count = 300
    """Optimizer steps. A finished run continues if there are more than before, and its schedule is
    the same: --schedule-steps."""
    schedule_steps: Count | None = None
    """Steps of the schedule, by default --steps. Rates rise linearly in the warm-up, then fall as a
    cosine to a tenth of the peak, and stay there."""
    warm_up_steps: Count | None = None
    """Steps of the warm-up, by default a tenth of the schedule's, but 30 at least and half of them
    at most."""
    seed: Natural = 0
    """Seed of the initial weights."""
    validate_every: Count = 25
    """Steps between validations; the last step is always validated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        warm_up, length = self.warm_up_steps, self.length_of_schedule
        # the learning study has tracers of JAX for both, which cannot be compared
        if isinstance(warm_up, int) and isinstance(length, int) and warm_up >= max(2, length):
            raise InputError(
                f"--warm-up-steps is {warm_up}, but must be less than the {length} steps of the "
                f"schedule, --schedule-steps"
            )

    @property
    def length_of_schedule(self) -> int:
        """Steps over which the rates rise and fall."""
        return self.steps if self.schedule_steps is None else self.schedule_steps

    @property
    def warm_up(self) -> int:
        """Steps over which the rates rise.

        A peak that a run of 300 steps bears after 30 steps is too much after 4 for one of 40.
        """
        if self.warm_up_steps is not None:
            return self.warm_up_steps
        length = self.length_of_schedule
        return min(max(round(length / 10), 30), max(1, length // 2))


@dataclass(frozen=True)
class Experiment:
    """Everything that determines a run's result, together with the corpus.

    It is *resolved* once every option that its optimizer has is given a value, by
    `presets.resolved`.
    """

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    setup: Setup = field(default_factory=Setup)


@dataclass(frozen=True)
class CorpusConfig:
    """Where the text comes from. The default needs no download: the Python standard library."""

    text: str = "python"
    """python: the standard library's source. hub: C4 English, each file downloaded when it is first
    read, into the hub's own cache. Anything else: a folder with C4's own files
    (c4-train.*.json.gz and c4-validation.*.json.gz) or with token shards (*_train_*.bin and
    *_val_*.bin, as llm.c and modded-nanogpt have them)."""
    tokenizer: str = "bytes"
    """bytes: each byte a token. bpe: byte pairs, learned from the training text, as many as
    --vocabulary. Anything else: the file of a SentencePiece model (*.model) or of the tokenizers
    package (*.json)."""
    corpus_root: Path | None = None
    """Folder whose *.py files are the text; by default the standard library of this Python."""
    cache: Path | None = None
    """Folder for the text as arrays of tokens; by default multinorm_optax in the user's cache
    folder ($XDG_CACHE_HOME or ~/.cache)."""

    def absolute(self) -> "CorpusConfig":
        """The same with absolute paths, for a process in any folder."""

        def whole(path: str | Path) -> Path:
            return Path(os.path.expanduser(path)).absolute()

        return dataclasses.replace(
            self,
            text=self.text if self.text in ("python", "hub") else str(whole(self.text)),
            tokenizer=self.tokenizer
            if self.tokenizer in ("bytes", "bpe")
            else str(whole(self.tokenizer)),
            corpus_root=self.corpus_root and whole(self.corpus_root),
            cache=self.cache and whole(self.cache),
        )


Tracker = Literal["tensorboard", "wandb"]


@dataclass(frozen=True)
class RunConfig(Checked):
    """How a run is carried out, watched and saved: what changes its result by rounding at most."""

    mesh: tuple[Count, Count, Count] = (1, 1, 1)
    """Devices along the axes data, fsdp and tensor: batches are split over the first two, weights
    and optimizer state over the last two. A run can continue with another mesh."""
    layerwise: bool = False
    """Train without materializing the full gradient: each layer is updated inside the backward
    pass. This takes less memory and gives the same weights up to rounding. It does not work with
    --microbatches or --clip-norm. The optimizer's state has another form, so a run cannot change
    this option when it continues."""
    save_every: Count = 100
    """Steps between checkpoints."""
    keep: Count = 2
    """Checkpoints kept, the newest ones; one more until the next is saved."""
    log_every: Count = 10
    """Steps between lines where the output is not a terminal."""
    track: tuple[Tracker, ...] = ()
    """Where metrics go besides metrics.jsonl: tensorboard, wandb, or both. TensorBoard's files are
    written to the run's folder; Weights & Biases takes its settings from WANDB_* variables."""
    accept_changed_text: bool = False
    """Continue although the text differs from the run's: a damaged file was repaired, for example.
    config.json keeps the names of both."""
    profile: bool = False
    """Write a JAX trace of ten steps to the run's folder, for TensorBoard or Perfetto."""
