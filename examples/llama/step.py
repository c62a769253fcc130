"""One step of training: gradients of a batch in parts, the optimizer, new weights."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import multinorm_optax as mo
from examples.llama.config import Experiment, InputError, ModelConfig
from examples.llama.loss import inputs_and_targets, losses_of_features, mean_loss, token_losses
from examples.llama.mesh import ONE_DEVICE, Placement
from examples.llama.model import (
    HEAD,
    Definition,
    Llama,
    Params,
    abstract_llama,
    apply_layer,
    init_llama,
)
from examples.llama.optimizers import OPTIMIZERS
from examples.llama.schedule import make_optimizer


class TrainState(NamedTuple):
    """What a step changes."""

    step: jax.Array
    params: Params
    optimizer_state: optax.OptState


@functools.partial(jax.jit, static_argnames=("experiment", "layerwise"))
def _initial_optimizer_state(
    params: Params, experiment: Experiment, layerwise: bool
) -> optax.OptState:
    optimizer = make_optimizer(experiment.optimizer, experiment.setup)
    if layerwise:
        return mo.layerwise_training(layerwise_model(experiment.setup.model), optimizer).init(
            params
        )
    return optimizer.init(params)


def initial_state(experiment: Experiment, *, layerwise: bool = False) -> TrainState:
    """The weights that a resolved experiment's seed draws, and its optimizer's state for them.

    The layer-wise step has a state of another form than the ordinary one.
    """
    params = init_llama(experiment.setup.model, experiment.setup.seed)
    optimizer_state = _initial_optimizer_state(params, experiment, layerwise)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer_state)


def mean_loss_and_gradients(
    definition: Definition, params: Params, rows_BxS: jax.Array, microbatches: int
) -> tuple[jax.Array, Params]:
    """The mean loss over all predicted tokens of a batch, and its gradients.

    With several microbatches they are computed one after another and their gradients added up in
    float32, a sum that lives inside this function. Each token counts alike, wherever the padding
    is: the result is the whole batch's up to rounding.
    """

    def part(params: Params, rows: jax.Array) -> jax.Array:
        return mean_loss(token_losses(definition, params, rows), rows_BxS)

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


def layerwise_model(config: ModelConfig) -> mo.LayerwiseModel:
    """The model and its mean loss as functions of parts of the weights and the rows of a batch."""
    definition, shapes = abstract_llama(config)
    layer_definition, _ = nnx.split(nnx.merge(definition, shapes).layers)

    def model(params: Params) -> Llama:
        # of the parts that are not passed only the shapes: this part never uses their weights
        return nnx.merge(definition, shapes | params)

    def embed(params: Params, rows_BxS: jax.Array) -> jax.Array:
        return model(params).look_up(inputs_and_targets(rows_BxS)[0])

    def head(params: Params, x_BxTxD: jax.Array, rows_BxS: jax.Array) -> jax.Array:
        losses_BxT = losses_of_features(
            lambda params, x: model(params).logits(x), params, x_BxTxD, rows_BxS
        )
        return mean_loss(losses_BxT, rows_BxS)

    layer = functools.partial(apply_layer, layer_definition)
    return mo.LayerwiseModel(embed, layer, head, head_names=HEAD)


def check_layerwise(experiment: Experiment) -> None:
    """Refuse options that need the full gradient at once."""
    microbatches = experiment.setup.data.microbatches
    if microbatches > 1:
        raise InputError(
            f"--layerwise uses each layer's gradient as soon as it is there, but the gradients of "
            f"{microbatches} microbatches have to be added up first, for the whole model; choose "
            f"--microbatches 1, and a smaller --batch-size if its activations do not fit"
        )
    if experiment.optimizer.clip_norm:
        raise InputError(
            f"--layerwise uses each layer's gradient as soon as it is there, but --clip-norm "
            f"{experiment.optimizer.clip_norm:g} needs the norm of them all; leave one of them out"
        )
    name = experiment.optimizer.name
    if not OPTIMIZERS[name].layerwise:
        raise InputError(
            f"--layerwise updates the model part by part, but {name} needs a matrix in each part, "
            f"and embedding, head and norms have none; leave it out, or choose another --optimizer"
        )


TrainStep = Callable[[TrainState, np.ndarray | jax.Array], tuple[TrainState, jax.Array]]


@functools.cache
def make_train_step(
    experiment: Experiment, placement: Placement = ONE_DEVICE, *, layerwise: bool = False
) -> TrainStep:
    """The step (state, rows) -> (state, loss) of a resolved experiment; the state is donated.

    A layer-wise step does not materialize the full gradient. Its result differs by rounding only.
    """
    if layerwise:
        check_layerwise(experiment)
    model, microbatches = experiment.setup.model, experiment.setup.data.microbatches
    definition, _ = abstract_llama(model)
    optimizer = make_optimizer(experiment.optimizer, experiment.setup)

    def train_step(state: TrainState, rows_BxS: jax.Array) -> tuple[TrainState, jax.Array]:
        before, params = state.optimizer_state, state.params
        if layerwise:
            training = mo.layerwise_training(layerwise_model(model), optimizer)
            params, after, loss = training.step(params, before, rows_BxS)
        else:
            loss, gradients = mean_loss_and_gradients(definition, params, rows_BxS, microbatches)
            updates, after = optimizer.update(gradients, before, params)
            params = optax.apply_updates(params, updates)
        return TrainState(state.step + 1, params, after), loss

    shardings = placement.shardings(lambda: initial_state(experiment, layerwise=layerwise))
    # the loss, a scalar, is on every device in any case
    step = jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, None))

    def placed(state: TrainState, rows_BxS: np.ndarray | jax.Array) -> tuple[TrainState, jax.Array]:
        with placement.mesh_context():
            return step(state, placement.put_rows(rows_BxS))

    return placed
