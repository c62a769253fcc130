"""Tunix: `PeftTrainer` for all weights of a LLaMA, and for LoRA adapters from qwix."""

import numpy as np
import optax
import qwix
from flax import nnx
from tunix.models.llama3.model import Llama3, ModelConfig
from tunix.sft.peft_trainer import PeftTrainer, TrainingConfig, TrainingInput
from tunix.sft.utils import build_positions_from_mask, make_causal_attn_mask

from multinorm_optax import FLAX_RULES, MatrixAxes, audit, sinkgd

FULL = [  # einsum weights (in, heads, head_dim) and (heads, head_dim, out)
    (r".*/attn/[qkv]_proj/w", MatrixAxes(output=(1, 2), input=0)),
    (r".*/attn/o_proj/w", MatrixAxes(output=2, input=(0, 1))),
    (r"lm_head/w|embedder/input_embedding", None),
    *FLAX_RULES,
]
LORA = [  # the rank is the last axis of a, and the first of b
    (r".*/attn/o_proj/w_lora_a", MatrixAxes(output=-1, input=(0, 1))),
    (r".*/attn/[qkv]_proj/w_lora_b", MatrixAxes(output=(1, 2), input=0)),
    (r".*_lora_[ab]", MatrixAxes(output=-1, input=0)),
]


def model_input(batch: TrainingInput) -> dict:
    positions, causal = build_positions_from_mask(batch.input_mask), make_causal_attn_mask
    return {**vars(batch), "positions": positions, "attention_mask": causal(batch.input_mask)}


def main(steps: int = 50, lora: bool = False) -> tuple[list[float], object]:
    sizes = {"vocab_size": 64, "embed_dim": 32, "hidden_dim": 64, "num_heads": 4, "head_dim": 8}
    config = ModelConfig(num_layers=2, num_kv_heads=2, rope_theta=10_000, norm_eps=1e-5, **sizes)
    model, axes, kind = Llama3(config, rngs=nnx.Rngs(0)), tuple(FULL), nnx.Param
    tokens = (np.arange(0, 64, 4)[:, None] + np.arange(16)) % 64
    batch = TrainingInput(input_tokens=tokens, input_mask=np.ones_like(tokens, bool))
    if lora:
        adapters = qwix.LoraProvider(module_path=r".*_proj", rank=4, alpha=8.0)
        inputs = model_input(batch)
        example = (tokens, inputs["positions"], None, inputs["attention_mask"])
        model = qwix.apply_lora_to_model(model, adapters, *example, rngs=nnx.Rngs(1))
        axes, kind = tuple(LORA), nnx.LoRAParam
    tx = sinkgd(axes=axes)
    trainer = PeftTrainer(model, tx, TrainingConfig(eval_every_n_steps=steps, max_steps=steps))
    trainer = trainer.with_gen_model_input_fn(model_input)
    trainer.train([batch] * steps)
    losses = [float(x) for x in trainer.metrics_logger.get_metric_history("", "loss", "train")]
    params = nnx.state(model, kind)
    table, adamw = audit(params, tx, axes), audit(params, optax.adamw(1e-3), axes)
    print(table, f"AdamW keeps {adamw.state_bytes:,} B", f"losses: {losses[::10]}", sep="\n")
    return losses, table


if __name__ == "__main__":
    main()
    main(lora=True)
