"""One step of training: gradients of a batch in parts, the optimizer, new weights."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.llama.config import Experiment, ModelConfig, OptimizerConfig, Setup
from examples.llama.loss import predicted, token_losses
from examples.llama.mesh import ONE_DEVICE, Placement
from examples.llama.model import Definition, Params, abstract_llama, init_llama
from examples.llama.optimizers import make_optimizer, peak_rates


class TrainState(NamedTuple):
    """What a step changes."""

    step: jax.Array
    params: Params
    optimizer_state: optax.OptState


def initial_state(experiment: Experiment) -> TrainState:
    """The weights that a settled experiment's seed draws, and its optimizer's state for them."""
    setup = experiment.setup
    params = init_llama(setup.model, setup.seed)
    optimizer = make_optimizer(experiment.optimizer, setup.steps)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def mean_loss_and_gradients(
    definition: Definition, params: Params, rows_BxS: jax.Array, microbatches: int
) -> tuple[jax.Array, Params]:
    """The mean loss over all predicted tokens of a batch, and its gradients.

    With several microbatches they are computed one after another and their gradients added up in
    float32, a sum that lives inside this function. Each token counts alike, wherever the padding
    is: the result is that of the whole batch up to rounding.
    """
    count = jnp.maximum(1, predicted(rows_BxS).sum())

    def part(params: Params, rows: jax.Array) -> jax.Array:
        return token_losses(definition, params, rows).sum() / count

    gradient_of_part = jax.value_and_grad(part)
    if microbatches == 1:
        return gradient_of_part(params, rows_BxS)

    def add(total: Any, rows: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient_of_part(params, rows)), None

    zero = (jnp.zeros(()), jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), params))
    # every M-th row: parts of contiguous rows would lie on some of the devices of a mesh each
    parts_MxbxS = rows_BxS.reshape(-1, microbatches, rows_BxS.shape[1]).swapaxes(0, 1)
    (loss, gradients), _ = jax.lax.scan(add, zero, parts_MxbxS)
    return loss, jax.tree.map(lambda total, w: total.astype(w.dtype), gradients, params)


@functools.cache
def _compiled_step(
    model: ModelConfig,
    microbatches: int,
    steps: int,
    optimizer: OptimizerConfig,
    placement: Placement,
) -> Callable[..., tuple[TrainState, jax.Array]]:
    """The train step without its peak rates, which are an argument: tries of rates share it."""
    definition, _ = abstract_llama(model)

    def train_step(
        state: TrainState, rows_BxS: jax.Array, peaks: dict[str, Any]
    ) -> tuple[TrainState, jax.Array]:
        transformation = make_optimizer(dataclasses.replace(optimizer, **peaks), steps)
        loss, gradients = mean_loss_and_gradients(definition, state.params, rows_BxS, microbatches)
        updates, optimizer_state = transformation.update(
            gradients, state.optimizer_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, optimizer_state), loss

    like = Experiment(optimizer, Setup(model=model, steps=steps))
    shardings = placement.shardings(lambda: initial_state(like)), placement.everywhere
    return jax.jit(train_step, donate_argnums=0, out_shardings=shardings)


def make_train_step(
    experiment: Experiment, placement: Placement = ONE_DEVICE
) -> Callable[[TrainState, np.ndarray], tuple[TrainState, jax.Array]]:
    """The step (state, rows) -> (state, loss) of a settled experiment; the state is donated."""
    setup, optimizer = experiment.setup, experiment.optimizer
    peaks = peak_rates(optimizer)
    no_rates: dict[str, Any] = dict.fromkeys(peaks)
    unrated = dataclasses.replace(optimizer, **no_rates)
    step = _compiled_step(setup.model, setup.data.microbatches, setup.steps, unrated, placement)
    arrays = {name: jnp.float32(peak) for name, peak in peaks.items()}

    def train_step(state: TrainState, rows_BxS: np.ndarray) -> tuple[TrainState, jax.Array]:
        with placement.entered():
            return step(state, placement.rows(rows_BxS), arrays)

    return train_step
