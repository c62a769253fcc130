"""haliax: a `Linear` names its rows and columns; its other axes are layers or experts."""

import dataclasses

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import optax

from multinorm_optax import MatrixAxes, audit, sinkgd

Vocabulary, Width, Heads, Size = hax.make_axes(vocabulary=64, width=32, heads=4, size=16)


def named_axes(params: optax.Params) -> optax.Params:
    def spec(path: tuple, node: optax.Params) -> optax.Params:
        linear = isinstance(node, hax.nn.Linear | hax.nn.MoELinear)
        if not linear or node.weight is None or "head" in str(path[-1]):
            return None
        places = {axis.name: place for place, axis in enumerate(node.weight.axes)}
        rows, columns = map(hax.util.ensure_tuple, (node.Out, node.In))
        axes = MatrixAxes([places[a.name] for a in rows], [places[a.name] for a in columns])
        return dataclasses.replace(node, weight=axes, bias=None)

    nodes = hax.nn.Linear | hax.nn.MoELinear | hax.NamedArray
    return jax.tree_util.tree_map_with_path(spec, params, is_leaf=lambda x: isinstance(x, nodes))


def main(steps: int = 50) -> tuple[list[float], object]:
    tokens = hax.named((jnp.arange(0, 64, 4)[:, None] + jnp.arange(17)) % 64, ("batch", "position"))
    init, (e, u, d, h) = hax.nn.Linear.init, jax.random.split(jax.random.key(0), 4)
    up, down = init(Width, (Heads, Size), key=u), init((Heads, Size), Width, key=d)
    embed, head = hax.nn.Embedding.init(Vocabulary, Width, key=e), init(Width, Vocabulary, key=h)
    params = {"embed": embed, "up": up, "down": down, "head": head}
    tx, losses = sinkgd(axes=named_axes), []
    state = tx.init(params)

    def loss_fn(model: optax.Params) -> jax.Array:
        x, targets = model["embed"](tokens["position", :-1]), tokens["position", 1:]
        x = x + model["down"](hax.nn.gelu(model["up"](x)))
        logits, targets = model["head"](x), hax.nn.one_hot(targets, Vocabulary)
        return hax.nn.cross_entropy_loss(logits, Vocabulary, targets).scalar()

    @eqx.filter_jit
    def train_step(params: optax.Params, state: optax.OptState) -> tuple:
        loss, grads = eqx.filter_value_and_grad(loss_fn)(params)
        updates, state = tx.update(grads, state, params)
        return eqx.apply_updates(params, updates), state, loss

    for _ in range(steps):
        params, state, loss = train_step(params, state)
        losses.append(float(loss))
    table, adamw = audit(params, tx, named_axes), audit(params, optax.adamw(1e-3), named_axes)
    print(table, f"AdamW keeps {adamw.state_bytes:,} B", f"losses: {losses[::10]}", sep="\n")
    return losses, table


if __name__ == "__main__":
    main()
