"""Flax Linen: `TrainState` for a model with a GRU and transformer blocks under `nn.scan`."""

import flax.linen as nn
import jax
import optax
from flax.training.train_state import TrainState

from multinorm_optax import FLAX_RULES, MatrixAxes, audit, sinkgd

VOCABULARY, WIDTH, HEADS = 64, 32, 4
AXES = [  # from the end, as nn.scan stacks the layers on axis 0; each layer is a matrix
    (r"layers/attention/(query|key|value)/kernel", MatrixAxes(output=(-2, -1), input=-3)),
    (r"layers/attention/out/kernel", MatrixAxes(output=-1, input=(-3, -2))),
    (r"layers/(up|down)/kernel", MatrixAxes(output=-1, input=-2)),
    (r"layers/.*/(bias|scale)", None),
    *FLAX_RULES,
]


class Block(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        attention = nn.MultiHeadDotProductAttention(HEADS, name="attention")
        x = x + attention(nn.LayerNorm()(x), mask=nn.make_causal_mask(x[..., 0]))
        y = nn.gelu(nn.Dense(4 * WIDTH, name="up")(nn.LayerNorm()(x)))
        return x + nn.Dense(WIDTH, name="down")(y), None


class Model(nn.Module):
    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.RNN(nn.GRUCell(WIDTH, name="gru"))(nn.Embed(VOCABULARY, WIDTH, name="embed")(tokens))
        stack = nn.scan(Block, {"params": 0}, split_rngs={"params": True}, length=2)
        return nn.Dense(VOCABULARY, name="head")(stack(name="layers")(x, None)[0])


@jax.jit
def train_step(state: TrainState, tokens: jax.Array) -> tuple[TrainState, jax.Array]:
    def loss_fn(params: optax.Params) -> jax.Array:
        logits, targets = state.apply_fn({"params": params}, tokens[:, :-1]), tokens[:, 1:]
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    return state.apply_gradients(grads=grads), loss


def main(steps: int = 50) -> tuple[list[float], object]:
    tokens = (jax.numpy.arange(0, 64, 4)[:, None] + jax.numpy.arange(17)) % VOCABULARY
    params, tx, losses = Model().init(jax.random.key(0), tokens)["params"], sinkgd(axes=AXES), []
    state = TrainState.create(apply_fn=Model().apply, params=params, tx=tx)
    for _ in range(steps):
        state, loss = train_step(state, tokens)
        losses.append(float(loss))
    table, adamw = audit(params, tx, AXES), audit(params, optax.adamw(1e-3), AXES)
    print(table, f"AdamW keeps {adamw.state_bytes:,} B", f"losses: {losses[::10]}", sep="\n")
    return losses, table


if __name__ == "__main__":
    main()
