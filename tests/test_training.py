"""Training to convergence, with optax's toy problems and with flax's models."""

import dataclasses

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import multinorm_optax as mo
from tests.catalogue import OPTIMIZERS

STEPS = 1500
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def parabola(params):
    target = jnp.array([1.0, -1.0, 2.0])
    return jnp.sum((params - target) ** 2)


def rosenbrock(params):
    return (1 - params[0]) ** 2 + 100 * (params[1] - params[0] ** 2) ** 2


def matrix_parabola(params):
    return jnp.sum((params - jnp.array([[1.0, -1.0], [0.5, 2.0]])) ** 2)


def mixed(params):
    vector, matrix = params
    return parabola(vector) + matrix_parabola(matrix)


PROBLEMS = {
    "parabola": (parabola, jnp.array([-1.0, 3.0, 1.0]), 0.1),
    "rosenbrock": (rosenbrock, jnp.zeros(2), 0.1),
    "matrix_parabola": (matrix_parabola, jnp.zeros((2, 2)), 0.05),
    "mixed": (mixed, (jnp.array([-1.0, 3.0, 1.0]), jnp.zeros((2, 2))), 0.05),
}


@every_optimizer
def test_toy_problems(name):
    # Updates of unit size do not shrink near the minimum: the learning rate must.
    def fit(problem):
        loss_of_kernel, start, rate = PROBLEMS[problem]
        loss, start = (lambda params: loss_of_kernel(params["kernel"])), {"kernel": start}
        schedule = optax.exponential_decay(rate, 100, 0.5, transition_begin=STEPS // 3)
        tx = OPTIMIZERS[name](schedule, alpha=1.0)

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=STEPS)
        return loss(params)

    losses = jax.jit(lambda: {problem: fit(problem) for problem in PROBLEMS})()
    for problem, final in losses.items():
        assert final < 1e-2, problem


class NnxMlp(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.down = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.relu(self.norm(self.up(x))))


class LinenMlp(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        x = flax.linen.relu(flax.linen.LayerNorm()(flax.linen.Dense(8)(x)))
        return flax.linen.Dense(2)(x)


@pytest.fixture
def batch(rng):
    x = np.float32(rng.standard_normal((32, 4)))
    return x, np.tanh(x @ np.float32(rng.standard_normal((4, 2))))


@pytest.mark.parametrize("name", ["sinkgd", "sinkgd_momentum", "swan"])
@pytest.mark.parametrize(
    "axes", [None, [(r"(up|down)/kernel", mo.MatrixAxes(1, 0)), (".*", None)]], ids=["no", "rules"]
)
def test_nnx_optimizer(batch, name, axes):
    model = NnxMlp(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, OPTIMIZERS[name](0.05, axes=axes), wrt=nnx.Param)
    x, y = batch

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda model: jnp.mean((model(x) - y) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(150)]
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("name", ["sinkgd", "swan"])
def test_linen_train_state(batch, name):
    model = LinenMlp()
    x, y = batch
    params = model.init(jax.random.key(0), x)["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=OPTIMIZERS[name](0.05))

    @jax.jit
    def step(state):
        def loss(params):
            return jnp.mean((state.apply_fn({"params": params}, x) - y) ** 2)

        value, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads), value

    losses = []
    for _ in range(150):
        state, loss = step(state)
        losses.append(float(loss))
    assert losses[-1] < 0.3 * losses[0]
    assert int(state.step) == 150


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Linear:
    """Stored as equinox does: weight (out, in)."""

    weight: jax.Array
    bias: jax.Array | None

    def __call__(self, x):
        return self.weight @ x + (0 if self.bias is None else self.bias)


def test_dataclass_pytree_with_none_leaves(rng, batch):
    x, y = batch
    model = [
        Linear(jnp.asarray(rng.standard_normal((8, 4)), jnp.float32), jnp.zeros(8)),
        Linear(jnp.asarray(rng.standard_normal((2, 8)), jnp.float32), None),
    ]
    tx = mo.sinkgd(0.05, axes=mo.EQUINOX_RULES)

    def loss(model):
        outputs = jax.vmap(lambda x: model[1](jax.nn.relu(model[0](x))))(x)
        return jnp.mean((outputs - y) ** 2)

    @jax.jit
    def step(model, state):
        value, grads = jax.value_and_grad(loss)(model)
        updates, state = tx.update(grads, state, model)
        return optax.apply_updates(model, updates), state, value

    state, losses = tx.init(model), []
    for _ in range(150):
        model, state, value = step(model, state)
        losses.append(float(value))
    assert losses[-1] < 0.3 * losses[0]
    assert model[1].bias is None


def test_scanned_linen_layers(batch):
    class Block(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x, _):
            return x + flax.linen.relu(flax.linen.Dense(4)(flax.linen.LayerNorm()(x))), None

    scanned = flax.linen.scan(
        Block, variable_axes={"params": 1}, split_rngs={"params": True}, length=3
    )
    params = scanned().init(jax.random.key(0), batch[0], None)["params"]
    stacked = optax.contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=2)
    rules = [(r".*/kernel", stacked), (r".*/(scale|bias)", None)]
    with pytest.raises(ValueError, match=r"Dense_0/kernel \(4, 3, 4\)"):
        mo.sinkgd().init(params)
    tx = mo.sinkgd(1.0, axes=rules, alpha=1.0)
    gradient = jax.tree.map(jnp.cos, params)
    updates, _ = jax.jit(tx.update)(gradient, tx.init(params), params)
    squares = np.square(updates["Dense_0"]["kernel"])
    np.testing.assert_allclose(np.mean(squares, axis=2), 1, atol=1e-4)
    np.testing.assert_allclose(np.mean(squares, axis=0), 1, atol=0.1)
