"""LoRA in Flax NNX: the optimizer sees `nnx.LoRAParam` alone, the base weights stay as they are."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from multinorm_optax import MatrixAxes, audit, sinkgd

VOCABULARY, WIDTH, RANK = 64, 32, 4
AXES = [(r".*/lora_[ab]", MatrixAxes(output=1, input=0))]  # (in, rank) and (rank, out)


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.up = nnx.LoRALinear(WIDTH, 4 * WIDTH, lora_rank=RANK, rngs=rngs)
        self.down = nnx.LoRALinear(4 * WIDTH, WIDTH, lora_rank=RANK, rngs=rngs)
        self.head = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        return self.head(x + self.down(nnx.gelu(self.up(x))))


def loss_fn(model: Model, tokens: jax.Array) -> jax.Array:
    logits, targets = model(tokens[:, :-1]), tokens[:, 1:]
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


@nnx.jit
def train_step(model: Model, optimizer: nnx.Optimizer[Model], tokens: jax.Array) -> jax.Array:
    adapters = nnx.DiffState(0, nnx.LoRAParam)  # the same filter as the optimizer's `wrt`
    loss, grads = nnx.value_and_grad(loss_fn, argnums=adapters)(model, tokens)
    optimizer.update(model, grads)
    return loss


def main(steps: int = 50) -> tuple[list[float], object]:
    tokens = (jnp.arange(0, 64, 4)[:, None] + jnp.arange(17)) % VOCABULARY
    model, tx = Model(nnx.Rngs(0)), sinkgd(0.1, axes=AXES)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.LoRAParam)
    losses = [float(train_step(model, optimizer, tokens)) for _ in range(steps)]
    params = nnx.state(model, nnx.LoRAParam)
    table, adamw = audit(params, tx, AXES), audit(params, optax.adamw(1e-3), AXES)
    print(table, f"AdamW keeps {adamw.state_bytes:,} B", f"losses: {losses[::10]}", sep="\n")
    return losses, table


if __name__ == "__main__":
    main()
