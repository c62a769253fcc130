"""Haiku: `hk.transform` for a model with a GRU, attention and an MLP."""

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from multinorm_optax import FLAX_RULES, MatrixAxes, audit, sinkgd

VOCABULARY, WIDTH, HEADS = 64, 32, 4
AXES = [  # haiku stores (in, out); counted from the end, the rules serve hk.layer_stack too
    (r"(.*/)?head/w", None),
    (r"(.*/)?attention/(query|key|value|linear)/w", MatrixAxes(output=-1, input=-2)),
    (r"(.*/)?(gru/w_[ih]|mlp/~/linear_\d+/w)", MatrixAxes(output=-1, input=-2)),
    *FLAX_RULES,
]


def forward(tokens: jax.Array) -> jax.Array:
    x, gru = hk.Embed(VOCABULARY, WIDTH, name="embed")(tokens), hk.GRU(WIDTH)
    x, _ = hk.dynamic_unroll(gru, x, gru.initial_state(len(tokens)), time_major=False)
    y = hk.LayerNorm(-1, create_scale=True, create_offset=True, name="norm")(x)
    init = hk.initializers.VarianceScaling()
    attention = hk.MultiHeadAttention(HEADS, WIDTH // HEADS, w_init=init, name="attention")
    x = x + attention(y, y, y, mask=jnp.tril(jnp.ones((1, 1, x.shape[1], x.shape[1]))))
    x = x + hk.nets.MLP([4 * WIDTH, WIDTH], activation=jax.nn.gelu, name="mlp")(x)
    return hk.Linear(VOCABULARY, name="head")(x)


model = hk.without_apply_rng(hk.transform(forward))


def loss_fn(params: hk.Params, tokens: jax.Array) -> jax.Array:
    logits, targets = model.apply(params, tokens[:, :-1]), tokens[:, 1:]
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def main(steps: int = 50) -> tuple[list[float], object]:
    tokens = (jnp.arange(0, 64, 4)[:, None] + jnp.arange(17)) % VOCABULARY
    params, tx, losses = model.init(jax.random.key(0), tokens), sinkgd(axes=AXES), []
    state = tx.init(params)

    @jax.jit
    def train_step(
        params: hk.Params, state: optax.OptState
    ) -> tuple[hk.Params, optax.OptState, jax.Array]:
        loss, grads = jax.value_and_grad(loss_fn)(params, tokens)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    for _ in range(steps):
        params, state, loss = train_step(params, state)
        losses.append(float(loss))
    table, adamw = audit(params, tx, AXES), audit(params, optax.adamw(1e-3), AXES)
    print(table, f"AdamW keeps {adamw.state_bytes:,} B", f"losses: {losses[::10]}", sep="\n")
    return losses, table


if __name__ == "__main__":
    main()
