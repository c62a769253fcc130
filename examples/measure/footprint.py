"""The memory that training needs: counted from shapes, planned by XLA, and measured on a device."""

import bisect
import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import multinorm_optax as mo
from examples.llama.config import Experiment, InputError, Setup
from examples.llama.model import LLAMA_RULES, abstract_llama
from examples.llama.optimizers import MATRIX
from examples.llama.presets import PRESETS
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


def random_rows(setup: Setup) -> np.ndarray:
    """A batch of random tokens, in rows as long as those of the preset's text."""
    # where text is contiguous, a row has one token more than it predicts
    length = setup.data.sequence_length + (PRESETS[setup.preset].corpus.text == "python")
    if length < 2:
        raise InputError(f"--sequence-length {length} leaves nothing to predict; choose 2 or more")
    shape = setup.data.batch_size, length
    return np.random.default_rng(0).integers(setup.model.vocabulary, size=shape, dtype=np.int32)


class CompiledStep:
    """The train step of a resolved experiment, compiled for this backend; nothing is allocated."""

    def __init__(self, experiment: Experiment, *, layerwise: bool = False):
        start = perf_counter()
        self._build = functools.partial(initial_state, experiment, layerwise=layerwise)
        self._rows = random_rows(experiment.setup)
        step = jax.jit(make_train_step(experiment, layerwise=layerwise), donate_argnums=0)
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        arguments = jax.tree.map(
            lambda each: jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=device),
            (jax.eval_shape(self._build), self._rows),
        )
        self._compiled = step.lower(*arguments).compile()
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
        """Make one real step of weights that are all 0, and read the device's memory.

        The peaks are those of the process: nothing else may have run in it. They are None on a
        backend that reports none, such as the CPU.
        """
        # drawing weights has a peak of its own, which is not the step's
        params = optax.tree.zeros_like(jax.eval_shape(self._build).params)
        # nothing but the state is computed, as XLA drops what is not returned
        state = jax.jit(lambda: self._build().optimizer_state)()
        before = jax.block_until_ready(TrainState(jnp.int32(0), params, state))
        drawn = device_memory("peak_bytes_in_use")
        loss = float(self._compiled(before, self._rows)[1])
        if not math.isfinite(loss):
            raise InputError(f"the loss of the step is {loss}; choose another --precision")
        peak = device_memory("peak_bytes_in_use")
        return {"loss": loss, "peak_bytes_before": drawn, "peak_bytes": peak}


def device_memory(what: str) -> int | None:
    """The limit or the peak of the first device's memory in this process, if it reports that."""
    return (jax.local_devices()[0].memory_stats() or {}).get(what)


def deepest(
    experiment: Experiment, cards_gib: Sequence[int], *, layerwise: bool
) -> list[dict[str, int]]:
    """The most layers with which weights, state and compiled step fit, for each size of memory.

    They lie between none and as many as would fit without a step, and are found by halving, with a
    compilation of seconds for each number that is asked about.
    """

    @functools.cache
    def total(layers: int) -> int:
        deep = with_model(experiment, layers=layers)
        plan = CompiledStep(deep, layerwise=layerwise).plan()
        return kept(deep).total_bytes + plan["temporary_bytes"]

    two, one = (kept(with_model(experiment, layers=n)).total_bytes for n in (2, 1))
    found = []
    for card in cards_gib:
        most = card * GIB // (two - one)
        layers = bisect.bisect_right(range(1, most + 1), card * GIB, key=total)
        parameters = kept(with_model(experiment, layers=layers)).parameters if layers else 0
        size = {"layers": layers, "parameters": parameters}
        found.append({"card_gib": card, **size, "total_bytes": total(layers) if layers else 0})
    return found
