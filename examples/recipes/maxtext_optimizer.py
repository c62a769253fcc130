"""MaxText: SinkGD with the tree of `MuonDimensionNumbers` that MaxText makes for Muon."""

import jax
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from optax.contrib import MuonDimensionNumbers

from multinorm_optax import MatrixAxes, audit, sinkgd

# In MaxText's get_optimizer, before the lines that wrap base_opt in skip_step_on_spikes:
#     elif config.opt_type == "sinkgd":
#         numbers = get_muon_weight_dimension_numbers(model, config)
#         base_opt = sinkgd(learning_rate_schedule, axes=matrix_axes(numbers))


def matrix_axes(numbers: optax.Params) -> optax.Params:
    return jax.tree.map(
        lambda spec: spec and MatrixAxes(spec.output_axis, spec.reduction_axis),
        numbers,
        is_leaf=lambda node: node is None or hasattr(node, "reduction_axis"),
    )


IN_OUT, EXPERTS = MuonDimensionNumbers((0,), (-1,)), MuonDimensionNumbers((-2,), (-1,))
HEADS_OUT, HEADS_IN = MuonDimensionNumbers((0,), (-2, -1)), MuonDimensionNumbers((0, -2), (-1,))
WEIGHTS = {  # two scanned layers, on axis 1
    "decoder/layers/self_attention/query/kernel": ((32, 2, 8, 4), HEADS_OUT),
    "decoder/layers/self_attention/out/kernel": ((8, 2, 4, 32), HEADS_IN),
    "decoder/layers/mlp/wi_0/kernel": ((32, 2, 64), IN_OUT),
    "decoder/layers/MoeBlock_0/wi_0": ((8, 2, 32, 64), EXPERTS),  # (experts, layers, in, out)
    "decoder/layers/pre_self_attention_layer_norm/scale": ((32, 2), None),
    "decoder/logits_dense/kernel": ((32, 64), None),
    "token_embedder/embedding": ((64, 32), None),
}


def main(steps: int = 50, axis_type: AxisType = AxisType.Auto) -> tuple[list[float], object]:
    mesh = jax.make_mesh((jax.device_count(),), ("fsdp",), axis_types=(axis_type,))
    sharding, key = NamedSharding(mesh, PartitionSpec("fsdp")), jax.random.key(0)
    weights = {name: jax.random.normal(key, shape) for name, (shape, _) in WEIGHTS.items()}
    params, axes = jax.device_put(weights, sharding), {name: WEIGHTS[name][1] for name in WEIGHTS}
    tx, losses = sinkgd(axes=matrix_axes(axes)), []
    state = tx.init(params)

    @jax.jit
    def train_step(params: optax.Params, state: optax.OptState) -> tuple:
        loss, grads = jax.value_and_grad(optax.tree.norm)(params)  # a loss that needs no model
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    for _ in range(steps):
        params, state, loss = train_step(params, state)
        losses.append(float(loss))
    table, adamw = audit(params, tx, axes), audit(params, optax.adamw(1e-3), axes)
    print(table, f"AdamW keeps {adamw.state_bytes:,} B", f"losses: {losses[::10]}", sep="\n")
    return losses, table


if __name__ == "__main__":
    main(axis_type=AxisType.Explicit)
