"""What training needs of memory, from shapes and from the compiled step; nothing is allocated."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import jax
import jax.numpy as jnp

import multinorm_optax as mo
from examples.llama.builders import MATRIX
from examples.llama.config import Experiment, InputError, PresetName
from examples.llama.model import abstract_llama
from examples.llama.rules import LLAMA_RULES
from examples.llama.schedule import make_optimizer
from examples.llama.step import initial_state, make_train_step

GIB = 2**30

_ADAM: Mapping[PresetName, float] = {"60m": 0.32, "130m": 0.75, "350m": 2.05, "1b": 7.48}
_STATELESS: Mapping[PresetName, float] = {"60m": 0.23, "130m": 0.43, "350m": 0.93, "1b": 2.98}
_GALORE: Mapping[PresetName, float] = {"60m": 0.24, "130m": 0.52, "350m": 1.22, "1b": 4.38}

PUBLISHED: Mapping[str, Mapping[PresetName, float]] = {
    "adamw": _ADAM,
    "adamw2": _ADAM,
    "sinkgd": _STATELESS,
    "swan": _STATELESS,
    "galore": _GALORE,
}
"""GiB of weights and optimizer state in bfloat16, as printed: the memory columns of Scetbon et al.,
arXiv 2502.06742, and Ma et al., arXiv 2412.13148. They follow from the number of weights alone: for
Adam 2 bytes times 3N, for SinkGD and SWAN 2 bytes times N + 2(N_embedding + N_head + N_norms). The
last printed digit is rounded in some and cut off in others. GaLore's column is that of Zhao et al.,
arXiv 2403.03507, Table 2, whose program projects the other side."""


@dataclass(frozen=True)
class Kept:
    """What stays in memory from step to step."""

    parameters: int
    """Weights of the model."""
    matrix_parameters: int
    """Weights in the matrices of the layers."""
    weight_bytes: int
    state_bytes: int
    """The optimizer's state, its counts of steps included."""
    matrix_state_bytes: int
    """The state that belongs to the matrices of the layers."""

    @property
    def total_bytes(self) -> int:
        """Weights and state."""
        return self.weight_bytes + self.state_bytes

    @property
    def state_per_weight(self) -> float:
        """Bytes of state per weight of the model."""
        return self.state_bytes / self.parameters

    @property
    def matrix_state_per_weight(self) -> float:
        """Bytes of state per weight of the layers' matrices, theirs alone."""
        return self.matrix_state_bytes / self.matrix_parameters


@dataclass(frozen=True)
class Compiled:
    """The memory plan of one compiled train step, in bytes, as XLA reports it."""

    temporary_bytes: int
    """What is there during the step only."""
    argument_bytes: int
    """Weights, state and rows."""
    output_bytes: int
    """Weights, state and loss after the step."""
    alias_bytes: int
    """Outputs in the place of arguments, because the state is donated."""
    compile_seconds: float


def kept(experiment: Experiment) -> Kept:
    """Count the bytes of weights and optimizer state of a resolved experiment."""
    _, params = abstract_llama(experiment.setup.model)
    optimizer = make_optimizer(experiment.optimizer, experiment.setup)
    audit = mo.audit(params, optimizer, axes=LLAMA_RULES)
    return Kept(
        parameters=audit.parameters,
        matrix_parameters=sum(math.prod(r.shape) for r in audit.rows if r.group == MATRIX),
        weight_bytes=audit.parameter_bytes,
        state_bytes=audit.state_bytes,
        matrix_state_bytes=audit.state_bytes_of(MATRIX),
    )


def kept_in_float32(experiment: Experiment) -> Kept:
    """The same with an optimizer state of float32, where the experiment's is bfloat16."""
    setup = experiment.setup
    if setup.model.precision != "bfloat16":
        return kept(experiment)
    model = dataclasses.replace(setup.model, precision="bfloat16-weights")
    return kept(dataclasses.replace(experiment, setup=dataclasses.replace(setup, model=model)))


def compiled(experiment: Experiment, row_length: int, *, layerwise: bool = False) -> Compiled:
    """Compile the train step of a resolved experiment for this backend, and read its memory plan.

    Args:
        experiment: its batch size and microbatches are those of the step.
        row_length: tokens in a row.
        layerwise: whether it is the layer-wise step.
    """
    setup = experiment.setup
    rows_BxS = jax.ShapeDtypeStruct((setup.data.batch_size, row_length), jnp.int32)
    start = perf_counter()
    step = jax.jit(make_train_step(experiment, layerwise=layerwise), donate_argnums=0)
    state = jax.eval_shape(lambda: initial_state(experiment, layerwise=layerwise))
    plan = step.lower(state, rows_BxS).compile().memory_analysis()
    if plan is None:
        raise InputError(
            f"XLA's {jax.default_backend()} backend does not say how much memory it plans to use; "
            f"--no-compile leaves the step out"
        )
    return Compiled(
        temporary_bytes=plan.temp_size_in_bytes,
        argument_bytes=plan.argument_size_in_bytes,
        output_bytes=plan.output_size_in_bytes,
        alias_bytes=plan.alias_size_in_bytes,
        compile_seconds=round(perf_counter() - start, 1),
    )
