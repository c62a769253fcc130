"""Names and shapes of real models, for recipes whose package CI does not install.

Each tree names its source. The order of a shape is that of storage.
"""

import math

# Levanter 1.2.dev1644, `levanter.models.llama.LlamaConfig(hidden_dim=32, intermediate_dim=64,
# num_layers=2, num_heads=4, num_kv_heads=2)`: (path of a Linear, In, Out, axes of the weight).
EMBED, MLP, HEAD_SIZE = {"embed": 32}, {"mlp": 64}, {"head_size": 8}
QUERY, KEYS, HEADS = {"kv_head": 2, "q_heads_per_group": 2}, {"kv_head": 2}, {"heads": 4}
LAYER = {"layer": 2}
LEVANTER_LINEARS = {
    "self_attn/q_proj": (EMBED, QUERY | HEAD_SIZE, LAYER | QUERY | HEAD_SIZE | EMBED),
    "self_attn/k_proj": (EMBED, KEYS | HEAD_SIZE, LAYER | KEYS | HEAD_SIZE | EMBED),
    "self_attn/v_proj": (EMBED, KEYS | HEAD_SIZE, LAYER | KEYS | HEAD_SIZE | EMBED),
    "self_attn/o_proj": (HEADS | HEAD_SIZE, EMBED, LAYER | EMBED | HEADS | HEAD_SIZE),
    "mlp/gate_proj": (EMBED, MLP, LAYER | MLP | EMBED),
    "mlp/up_proj": (EMBED, MLP, LAYER | MLP | EMBED),
    "mlp/down_proj": (MLP, EMBED, LAYER | EMBED | MLP),
    "lm_head": (EMBED, {"vocab": 64}, {"vocab": 64} | EMBED),
}

# google-tunix 0.1.7, `tunix/models/llama3/model.py`: `Llama3` with embed_dim 32, hidden_dim 64,
# 4 heads of 8, 2 of them for keys. The matrix (m, n) is outputs by inputs; None is not a matrix.
TUNIX_FULL = {
    "embedder/input_embedding": ((64, 32), None),
    "final_norm/w": ((32,), None),
    "layers/0/attn/k_proj/w": ((32, 2, 8), (16, 32)),
    "layers/0/attn/o_proj/w": ((4, 8, 32), (32, 32)),
    "layers/0/attn/q_proj/w": ((32, 4, 8), (32, 32)),
    "layers/0/attn/v_proj/w": ((32, 2, 8), (16, 32)),
    "layers/0/input_layernorm/w": ((32,), None),
    "layers/0/mlp/down_proj/kernel": ((64, 32), (32, 64)),
    "layers/0/mlp/gate_proj/kernel": ((32, 64), (64, 32)),
    "layers/0/mlp/up_proj/kernel": ((32, 64), (64, 32)),
    "layers/0/post_attention_layernorm/w": ((32,), None),
    "lm_head/w": ((32, 64), None),
}

# The same with qwix 0.1.8, `qwix.apply_lora_to_model` of rank 4.
TUNIX_LORA = {
    "layers/0/attn/k_proj/w_lora_a": ((32, 4), (4, 32)),
    "layers/0/attn/k_proj/w_lora_b": ((4, 2, 8), (16, 4)),
    "layers/0/attn/o_proj/w_lora_a": ((4, 8, 4), (4, 32)),
    "layers/0/attn/o_proj/w_lora_b": ((4, 32), (32, 4)),
    "layers/0/attn/q_proj/w_lora_a": ((32, 4), (4, 32)),
    "layers/0/attn/q_proj/w_lora_b": ((4, 4, 8), (32, 4)),
    "layers/0/mlp/down_proj/kernel_lora_a": ((64, 4), (4, 64)),
    "layers/0/mlp/down_proj/kernel_lora_b": ((4, 32), (32, 4)),
}

# MaxText 0.2.5: names and dimension numbers from its `transform_logic` in `utils/muon_utils.py`,
# sizes from `configs/models/llama2-7b.yml` and `deepseek2-16b.yml`, layers scanned on axis 1.
# (shape, reduction axes, output axes, (matrices, m, n)), or the shape alone: not a matrix.
IN_OUT, HEADS_OUT = ((0,), (-1,)), ((0,), (-2, -1))
HEADS_IN, EXPERTS = ((0, -2), (-1,)), ((-2,), (-1,))
MAXTEXT = {
    "llama2-7b": {
        "token_embedder/embedding": ((32000, 4096),),
        "decoder/decoder_norm/scale": ((4096,),),
        "decoder/logits_dense/kernel": ((4096, 32000),),
        "decoder/layers/pre_self_attention_layer_norm/scale": ((4096, 32),),
        "decoder/layers/self_attention/query/kernel": (
            (4096, 32, 32, 128),
            *HEADS_OUT,
            (32, 4096, 4096),
        ),
        "decoder/layers/self_attention/out/kernel": (
            (32, 32, 128, 4096),
            *HEADS_IN,
            (32, 4096, 4096),
        ),
        "decoder/layers/mlp/wi_0/kernel": ((4096, 32, 11008), *IN_OUT, (32, 11008, 4096)),
        "decoder/layers/mlp/wo/kernel": ((11008, 32, 4096), *IN_OUT, (32, 4096, 11008)),
    },
    "deepseek2-16b": {
        "token_embedder/embedding": ((102400, 2048),),
        "decoder/logits_dense/kernel": ((2048, 102400),),
        "decoder/moe_layers/self_attention/kv_norm/scale": ((512, 26),),
        "decoder/moe_layers/self_attention/query/kernel": (
            (2048, 26, 16, 192),
            *HEADS_OUT,
            (26, 3072, 2048),
        ),
        "decoder/moe_layers/self_attention/wkv_a/kernel": (
            (2048, 26, 576),
            *IN_OUT,
            (26, 576, 2048),
        ),
        "decoder/moe_layers/self_attention/wkv_b/kernel": (
            (512, 26, 16, 256),
            *HEADS_OUT,
            (26, 4096, 512),
        ),
        "decoder/moe_layers/self_attention/out/kernel": (
            (16, 26, 128, 2048),
            *HEADS_IN,
            (26, 2048, 2048),
        ),
        "decoder/moe_layers/DeepSeekMoeBlock_0/MoeBlock_0/gate/kernel": (
            (2048, 26, 64),
            *IN_OUT,
            (26, 64, 2048),
        ),
        "decoder/moe_layers/DeepSeekMoeBlock_0/MoeBlock_0/wi_0": (
            (64, 26, 2048, 1408),
            *EXPERTS,
            (64 * 26, 1408, 2048),
        ),
        "decoder/moe_layers/DeepSeekMoeBlock_0/MoeBlock_0/wo": (
            (64, 26, 1408, 2048),
            *EXPERTS,
            (64 * 26, 2048, 1408),
        ),
    },
}


def nested(leaves):
    """A tree of dicts from paths."""
    tree = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def size(axes):
    return math.prod(axes.values())
