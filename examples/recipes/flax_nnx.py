"""Flax NNX: `nnx.Optimizer` for a model with a GRU, attention and an MLP."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from multinorm_optax import FLAX_RULES, MatrixAxes, audit, sinkgd

VOCABULARY, WIDTH, HEADS = 64, 32, 4
AXES = [  # (in, heads, head_dim) and (heads, head_dim, out); all other kernels are (in, out)
    (r"attention/(query|key|value)/kernel", MatrixAxes(output=(1, 2), input=0)),
    (r"attention/out/kernel", MatrixAxes(output=2, input=(0, 1))),
    (r".*/bias", None),  # those of attention are (heads, head_dim)
    *FLAX_RULES,
]


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.gru = nnx.RNN(nnx.GRUCell(WIDTH, WIDTH, rngs=rngs))
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.gru(self.embed(tokens))
        x = x + self.attention(self.norm(x), mask=nnx.make_causal_mask(tokens))
        return self.head(x + self.down(nnx.gelu(self.up(x))))


def loss_fn(model: Model, tokens: jax.Array) -> jax.Array:
    logits, targets = model(tokens[:, :-1]), tokens[:, 1:]
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


@nnx.jit
def train_step(model: Model, optimizer: nnx.Optimizer[Model], tokens: jax.Array) -> jax.Array:
    loss, grads = nnx.value_and_grad(loss_fn)(model, tokens)
    optimizer.update(model, grads)
    return loss


def main(steps: int = 50) -> tuple[list[float], object]:
    tokens = (jnp.arange(0, 64, 4)[:, None] + jnp.arange(17)) % VOCABULARY
    model, tx = Model(nnx.Rngs(0)), sinkgd(axes=AXES)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    losses = [float(train_step(model, optimizer, tokens)) for _ in range(steps)]
    params = nnx.state(model, nnx.Param)
    table, adamw = audit(params, tx, AXES), audit(params, optax.adamw(1e-3), AXES)
    print(table, f"AdamW keeps {adamw.state_bytes:,} B", f"losses: {losses[::10]}", sep="\n")
    return losses, table


if __name__ == "__main__":
    main()
