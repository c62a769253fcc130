"""Keras on JAX: `stateless_call` in a loop of one's own, with the weights by their path."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before keras is imported

import jax
import jax.numpy as jnp
import keras
import optax

from multinorm_optax import FLAX_RULES, MatrixAxes, audit, sinkgd

VOCABULARY, WIDTH, HEADS = 64, 32, 4
AXES = [  # (in, heads, head_dim) and (heads, head_dim, out); all other kernels are (in, out)
    (r"attention/(query|key|value)/kernel", MatrixAxes(output=(1, 2), input=0)),
    (r"attention/attention_output/kernel", MatrixAxes(output=2, input=(0, 1))),
    (r".*/recurrent_kernel", MatrixAxes(output=1, input=0)),
    (r".*/bias", None),  # those of attention and of the GRU have two axes
    *FLAX_RULES,
]


def main(steps: int = 50) -> tuple[list[float], object]:
    layers, inputs = keras.layers, keras.Input((None,), dtype="int32")
    x = layers.Embedding(VOCABULARY, WIDTH, name="embedding")(inputs)
    x = layers.GRU(WIDTH, return_sequences=True, name="gru")(x)
    y = layers.LayerNormalization(name="norm")(x)
    x = x + layers.MultiHeadAttention(HEADS, 8, name="attention")(y, y, use_causal_mask=True)
    x = x + layers.Dense(WIDTH, name="down")(layers.Dense(4 * WIDTH, "gelu", name="up")(x))
    model, tx = keras.Model(inputs, layers.Dense(VOCABULARY, name="head")(x)), sinkgd(axes=AXES)
    params = {v.path: v.value for v in model.trainable_variables}  # the list has no names
    rest, state, losses = [v.value for v in model.non_trainable_variables], tx.init(params), []
    tokens = (jnp.arange(0, 64, 4)[:, None] + jnp.arange(17)) % VOCABULARY

    def loss_fn(params: optax.Params, rest: optax.Params) -> tuple[jax.Array, optax.Params]:
        values = [params[v.path] for v in model.trainable_variables]
        logits, rest = model.stateless_call(values, rest, tokens[:, :-1], training=True)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return loss.mean(), rest

    @jax.jit
    def train_step(params: optax.Params, rest: optax.Params, state: optax.OptState) -> tuple:
        (loss, rest), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, rest)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), rest, state, loss

    for _ in range(steps):
        params, rest, state, loss = train_step(params, rest, state)
        losses.append(float(loss))
    for v in model.trainable_variables:
        v.assign(params[v.path])
    table, adamw = audit(params, tx, AXES), audit(params, optax.adamw(1e-3), AXES)
    print(table, f"AdamW keeps {adamw.state_bytes:,} B", f"losses: {losses[::10]}", sep="\n")
    return losses, table


if __name__ == "__main__":
    main()
