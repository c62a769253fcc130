"""The memory that training needs: counted from shapes, planned by XLA, and measured on a device."""

import dataclasses
import functools
import math
import zlib
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import multinorm_optax as mo
from examples.llama.config import Experiment, InputError, Setup
from examples.llama.model import LLAMA_RULES, abstract_llama
from examples.llama.optimizers import MATRIX
from examples.llama.schedule import make_optimizer
from examples.llama.step import TrainState, initial_state, make_train_step

GIB = 2**30


@dataclass(frozen=True)
class Kept:
    """What remains in memory from step to step."""

    parameters: int
    """Weights of the model."""
    matrix_parameters: int
    """Weights in the matrices of the layers."""
    weight_bytes: int
    state_bytes: int
    """The optimizer's state with its counts of steps."""
    matrix_state_bytes: int
    """The state of the layers' matrices."""

    @property
    def total_bytes(self) -> int:
        """Weights and state."""
        return self.weight_bytes + self.state_bytes


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


def with_model(experiment: Experiment, **changes: Any) -> Experiment:
    """The same experiment with other options of the model."""
    model = dataclasses.replace(experiment.setup.model, **changes)
    return dataclasses.replace(experiment, setup=dataclasses.replace(experiment.setup, model=model))


def random_rows(setup: Setup, row_length: int | None = None) -> np.ndarray:
    """A batch of random tokens; its rows predict as many as the sequence length says by default."""
    shape = setup.data.batch_size, row_length or setup.data.sequence_length + 1
    return np.random.default_rng(0).integers(setup.model.vocabulary, size=shape, dtype=np.int32)


class CompiledStep:
    """The train step of a resolved experiment, compiled for this backend; nothing is allocated.

    Args:
        experiment: its batch size and microbatches are those of the step.
        row_length: tokens in a row.
        layerwise: whether it is the layer-wise step.
    """

    def __init__(self, experiment: Experiment, row_length: int, *, layerwise: bool = False):
        """Compile."""
        start = perf_counter()
        self._build = functools.partial(initial_state, experiment, layerwise=layerwise)
        self._rows = random_rows(experiment.setup, row_length)
        step = jax.jit(make_train_step(experiment, layerwise=layerwise), donate_argnums=0)
        self._compiled = step.lower(jax.eval_shape(self._build), self._rows).compile()
        self._seconds = perf_counter() - start

    def plan(self) -> dict[str, Any]:
        """XLA's memory plan, in bytes: temporary_bytes are there during the step only.

        Outputs in the place of donated arguments, weights and state, are alias_bytes.
        """
        plan = self._compiled.memory_analysis()
        if plan is None:
            raise InputError(
                f"XLA's {jax.default_backend()} backend does not say how much memory it plans to "
                f"use; --no-compile leaves the step out"
            )
        return {
            "temporary_bytes": plan.temp_size_in_bytes,
            "argument_bytes": plan.argument_size_in_bytes,
            "output_bytes": plan.output_size_in_bytes,
            "alias_bytes": plan.alias_size_in_bytes,
            "compile_seconds": round(self._seconds, 1),
        }

    def run(self) -> dict[str, Any]:
        """Draw weights, make one real step on random tokens, and read the device's memory.

        The peaks are those of the process: nothing else may have run in it. They are None on a
        backend that reports none, such as the CPU.
        """
        params = jax.tree_util.tree_map_with_path(_draw, jax.eval_shape(self._build).params)
        # nothing but the state is computed, as XLA drops what is not returned
        state = jax.jit(lambda: self._build().optimizer_state)()
        before = jax.block_until_ready(TrainState(jnp.int32(0), params, state))
        drawn = peak_bytes()
        loss = float(self._compiled(before, self._rows)[1])
        if not math.isfinite(loss):
            raise InputError(f"the loss of the step is {loss}; choose another --precision")
        return {"loss": loss, "peak_bytes_before": drawn, "peak_bytes": peak_bytes()}


def _draw(path: jax.tree_util.KeyPath, like: jax.ShapeDtypeStruct) -> jax.Array:
    """Normal numbers, or ones for a norm's gains.

    They are drawn slice by slice, as a full stack of float32 would not fit beside the weights.
    """
    name = jax.tree_util.keystr(path)
    if "scale" in name:
        return jnp.ones(like.shape, like.dtype)

    def drawn(key: jax.Array) -> jax.Array:
        return (0.02 * jax.random.normal(key, like.shape[1:])).astype(like.dtype)

    keys = jax.random.split(jax.random.key(zlib.crc32(name.encode())), like.shape[0])
    return jax.jit(functools.partial(jax.lax.map, drawn))(keys)


def peak_bytes() -> int | None:
    """The most memory that the first device has had in use in this process, as it reports it."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
