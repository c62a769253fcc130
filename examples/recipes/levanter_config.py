"""Levanter: `optimizer: {type: sinkgd}` in a training configuration, and a step by hand."""

import dataclasses

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import optax
from levanter.layers.attention import AttentionMask
from levanter.models.llama import LlamaConfig, LlamaLMHeadModel
from levanter.optim.config import OptimizerConfig

from examples.recipes.haliax_named_axes import named_axes
from multinorm_optax import audit, sinkgd


@OptimizerConfig.register_subclass("sinkgd")
@dataclasses.dataclass(frozen=True)
class SinkGDConfig(OptimizerConfig):
    learning_rate: float = 0.02  # of embeddings, head and norms
    alpha: float = 0.05  # times that is the learning rate of the matrices
    weight_decay: float = 0.0
    num_iters: int = 5

    def build(self, num_train_steps: int) -> optax.GradientTransformation:
        def optimizer(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
            return sinkgd(
                learning_rate,
                axes=named_axes,
                num_iters=self.num_iters,
                alpha=self.alpha,
                weight_decay=self.weight_decay,
                weight_decay_mask=self.build_weight_decay_mask(),
            )

        schedule = self.lr_scheduler(num_train_steps)
        return optax.inject_hyperparams(optimizer)(learning_rate=schedule)  # logged by Levanter


def main(steps: int = 50) -> tuple[list[float], object]:
    sizes = {"hidden_dim": 32, "intermediate_dim": 64, "num_heads": 4, "num_kv_heads": 2}
    Vocabulary, losses = hax.Axis("vocab", 64), []
    config = LlamaConfig(seq_len=16, num_layers=2, **sizes)
    model = LlamaLMHeadModel.init(Vocabulary, config, key=jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    tokens = hax.named((jnp.arange(0, 64, 4)[:, None] + jnp.arange(17)) % 64, ("batch", "position"))
    tx = SinkGDConfig().build(steps)
    state = tx.init(params)

    def loss_fn(model: LlamaLMHeadModel) -> jax.Array:
        logits = model(tokens["position", :-1], attn_mask=AttentionMask.causal())
        targets = hax.nn.one_hot(tokens["position", 1:], Vocabulary)
        return hax.nn.cross_entropy_loss(logits, Vocabulary, targets).scalar()

    @eqx.filter_jit
    def train_step(model: LlamaLMHeadModel, state: optax.OptState) -> tuple:
        loss, grads = eqx.filter_value_and_grad(loss_fn)(model)
        updates, state = tx.update(grads, state, params=params, loss=loss)
        return eqx.apply_updates(model, updates), state, loss

    for _ in range(steps):
        model, state, loss = train_step(model, state)
        losses.append(float(loss))
    table, adamw = audit(params, tx, named_axes), audit(params, optax.adamw(1e-3), named_axes)
    print(table, f"AdamW keeps {adamw.state_bytes:,} B", f"losses: {losses[::10]}", sep="\n")
    return losses, table


if __name__ == "__main__":
    main()
