"""What takes turns when optimizers are timed: whole train steps, and updates alone."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from examples.llama.config import Experiment, InputError, Setup
from examples.llama.costs.footprint import GIB, kept
from examples.llama.model import Params, abstract_llama, init_llama
from examples.llama.schedule import make_optimizer
from examples.llama.step import initial_state, make_train_step, mean_loss_and_gradients

Turn = Callable[[], None]
"""Does its work and returns when it is done."""


def device_memory() -> int:
    """Bytes of memory of the first device; on a CPU, of the machine."""
    statistics = jax.devices()[0].memory_stats() or {}
    return statistics.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory(experiments: Mapping[str, Experiment]) -> None:
    """Refuse what cannot fit: to take turns, all weights and states are in memory together."""
    each = {name: kept(experiment) for name, experiment in experiments.items()}
    needed = sum(one.total_bytes for one in each.values())
    needed += max(one.weight_bytes for one in each.values())  # a gradient
    if needed > device_memory():
        raise InputError(
            f"{len(each)} optimizers take turns, each with weights and a state of its own: at "
            f"least {needed / GIB:.1f} GiB together, but there are {device_memory() / GIB:.1f}; "
            f"choose fewer --optimizers or a smaller model"
        )


def random_rows(setup: Setup) -> np.ndarray:
    """A batch whose rows predict as many tokens as the sequence length says."""
    shape = (setup.data.batch_size, setup.data.sequence_length + 1)
    return np.random.default_rng(0).integers(setup.model.vocabulary, size=shape, dtype=np.int32)


def step_turn(experiment: Experiment) -> Turn:
    """A turn is one whole train step, with a state of its own."""
    setup = experiment.setup
    state = initial_state(experiment)
    step, rows_BxS = make_train_step(experiment), random_rows(setup)

    def turn() -> None:
        nonlocal state
        state = jax.block_until_ready(step(state, rows_BxS))[0]

    return turn


def gradients_of(setup: Setup) -> Params:
    """The gradients of the initial weights."""
    definition, _ = abstract_llama(setup.model)

    @jax.jit
    def gradients(params: Params, rows_BxS: jax.Array) -> Params:
        return mean_loss_and_gradients(definition, params, rows_BxS, setup.data.microbatches)[1]

    return gradients(init_llama(setup.model, setup.seed), random_rows(setup))


def update_turn(experiment: Experiment, gradients: Params) -> Turn:
    """A turn is one update of the weights, with gradients that are there already."""
    setup = experiment.setup
    optimizer = make_optimizer(experiment.optimizer, setup)
    params = init_llama(setup.model, setup.seed)
    now = params, optimizer.init(params)

    def update(now: tuple[Params, Any], gradients: Params) -> tuple[Params, Any]:
        updates, state = optimizer.update(gradients, now[1], now[0])
        return optax.apply_updates(now[0], updates), state

    compiled = jax.jit(update, donate_argnums=0)

    def turn() -> None:
        nonlocal now
        now = jax.block_until_ready(compiled(now, gradients))

    return turn
