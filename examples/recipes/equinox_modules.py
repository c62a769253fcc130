"""Equinox: filtered gradients and `eqx.apply_updates`, with a GRU, attention and an MLP."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from equinox import nn

from multinorm_optax import EQUINOX_RULES, audit, sinkgd

VOCABULARY, WIDTH, HEADS = 64, 32, 4
AXES = EQUINOX_RULES  # every weight is (out, in), those of the GRU too


class Model(eqx.Module):
    embed: nn.Embedding
    gru: nn.GRUCell
    norm: nn.LayerNorm
    attention: nn.MultiheadAttention
    mlp: nn.MLP
    head: nn.Linear

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x, zero = jax.vmap(self.embed)(tokens), jnp.zeros(WIDTH)
        _, x = jax.lax.scan(lambda state, x: (self.gru(x, state),) * 2, zero, x)
        y = jax.vmap(self.norm)(x)
        x = x + self.attention(y, y, y, mask=jnp.tri(len(y), dtype=bool))
        return jax.vmap(self.head)(x + jax.vmap(self.mlp)(x))


def loss_fn(model: Model, tokens: jax.Array) -> jax.Array:
    logits, targets = jax.vmap(model)(tokens[:, :-1]), tokens[:, 1:]
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def main(steps: int = 50) -> tuple[list[float], object]:
    tokens = (jnp.arange(0, 64, 4)[:, None] + jnp.arange(17)) % VOCABULARY
    e, g, a, m, h = jax.random.split(jax.random.key(0), 5)
    embed, gru = nn.Embedding(VOCABULARY, WIDTH, key=e), nn.GRUCell(WIDTH, WIDTH, key=g)
    attention, mlp = nn.MultiheadAttention(HEADS, WIDTH, key=a), nn.MLP(WIDTH, WIDTH, 128, 1, key=m)
    head, tx, losses = nn.Linear(WIDTH, VOCABULARY, key=h), sinkgd(axes=AXES), []
    model = Model(embed, gru, nn.LayerNorm(WIDTH), attention, mlp, head)
    state = tx.init(params := eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def train_step(model: Model, state: optax.OptState) -> tuple[Model, optax.OptState, jax.Array]:
        loss, grads = eqx.filter_value_and_grad(loss_fn)(model, tokens)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, loss

    for _ in range(steps):
        model, state, loss = train_step(model, state)
        losses.append(float(loss))
    table, adamw = audit(params, tx, AXES), audit(params, optax.adamw(1e-3), AXES)
    print(table, f"AdamW keeps {adamw.state_bytes:,} B", f"losses: {losses[::10]}", sep="\n")
    return losses, table


if __name__ == "__main__":
    main()
