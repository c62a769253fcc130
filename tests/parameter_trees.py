"""Parameter trees of public models: names and shapes, each with its source.

They were written down after the named code, most of them from memory, and not dumped from it; sizes
are small ones.

A leaf is (shape, role): "matrix" or "other", with a question mark where the names and the shape do
not tell, so that no rule may cover it. Trees are named as their own code names them.
"""

import dataclasses

import jax
import jax.numpy as jnp

import multinorm_optax as mo


@dataclasses.dataclass(frozen=True)
class ParameterTree:
    source: str
    leaves: dict[str, tuple[tuple[int, ...], str]]
    rules: tuple = mo.FLAX_RULES

    def params(self):
        return nested({path: shape for path, (shape, _) in self.leaves.items()})


def nested(shapes):
    """A tree of nested dicts from paths."""
    tree = {}
    for path, shape in shapes.items():
        *above, leaf = path.split("/")
        node = tree
        for segment in above:
            node = node.setdefault(segment, {})
        node[leaf] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return tree


def layers(number, leaves):
    """The same leaves for several layers: `#` is the number of the layer."""
    return {
        path.replace("#", str(layer)): leaf
        for layer in range(number)
        for path, leaf in leaves.items()
    }


D, FF, V, H, HD = 32, 96, 50, 4, 8
MATRIX, OTHER, DOUBTFUL_MATRIX, DOUBTFUL_OTHER = "matrix", "other", "matrix?", "other?"

TREES = {
    "lm1b": ParameterTree(
        "google/flax examples/lm1b/models.py",
        {
            "decoder/Embed_0/embedding": ((V, D), OTHER),
            **layers(
                2,
                {
                    "decoder/encoderdecoderblock_#/LayerNorm_0/scale": ((D,), OTHER),
                    "decoder/encoderdecoderblock_#/MultiHeadDotProductAttention_0/query/kernel": (
                        (D, H, HD),
                        DOUBTFUL_MATRIX,
                    ),
                    "decoder/encoderdecoderblock_#/MultiHeadDotProductAttention_0/out/kernel": (
                        (H, HD, D),
                        DOUBTFUL_MATRIX,
                    ),
                    "decoder/encoderdecoderblock_#/MlpBlock_0/Dense_0/kernel": ((D, FF), MATRIX),
                    "decoder/encoderdecoderblock_#/MlpBlock_0/Dense_1/kernel": ((FF, D), MATRIX),
                    "decoder/encoderdecoderblock_#/MlpBlock_0/Dense_1/bias": ((D,), OTHER),
                },
            ),
            "decoder/logitdense/kernel": ((D, V), DOUBTFUL_OTHER),
        },
    ),
    "vit": ParameterTree(
        "google-research/vision_transformer vit_jax/models_vit.py",
        {
            "cls": ((1, 1, D), OTHER),
            "embedding/kernel": ((4, 4, 3, D), DOUBTFUL_MATRIX),
            "Transformer/posembed_input/pos_embedding": ((1, 17, D), OTHER),
            "Transformer/encoderblock_0/LayerNorm_0/scale": ((D,), OTHER),
            "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel": ((D, FF), MATRIX),
            "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/key/kernel": (
                (D, H, HD),
                DOUBTFUL_MATRIX,
            ),
            "pre_logits/kernel": ((D, D), DOUBTFUL_MATRIX),
            "head/kernel": ((D, 10), OTHER),
        },
    ),
    "mixer": ParameterTree(
        "google-research/vision_transformer vit_jax/models_mixer.py",
        {
            "stem/kernel": ((4, 4, 3, D), DOUBTFUL_MATRIX),
            "MixerBlock_0/token_mixing/Dense_0/kernel": ((17, FF), DOUBTFUL_MATRIX),
            "MixerBlock_0/channel_mixing/Dense_0/kernel": ((D, FF), MATRIX),
            "pre_head_layer_norm/scale": ((D,), OTHER),
            "head/kernel": ((D, 10), OTHER),
        },
    ),
    "t5x": ParameterTree(
        "google-research/t5x examples/t5/network.py",
        {
            "token_embedder/embedding": ((V, D), OTHER),
            "encoder/relpos_bias/rel_embedding": ((H, 32), OTHER),
            "encoder/layers_0/attention/query/kernel": ((D, H * HD), MATRIX),
            "encoder/layers_0/attention/out/kernel": ((H * HD, D), MATRIX),
            "encoder/layers_0/mlp/wi_0/kernel": ((D, FF), MATRIX),
            "encoder/layers_0/mlp/wo/kernel": ((FF, D), MATRIX),
            "encoder/layers_0/pre_attention_layer_norm/scale": ((D,), OTHER),
            "decoder/logits_dense/kernel": ((D, V), DOUBTFUL_OTHER),
        },
    ),
    "bert": ParameterTree(
        "huggingface/transformers modeling_flax_bert.py",
        {
            "bert/embeddings/word_embeddings/embedding": ((V, D), OTHER),
            "bert/embeddings/token_type_embeddings/embedding": ((2, D), OTHER),
            "bert/embeddings/LayerNorm/scale": ((D,), OTHER),
            "bert/encoder/layer/0/attention/self/query/kernel": ((D, D), MATRIX),
            "bert/encoder/layer/0/attention/output/dense/kernel": ((D, D), MATRIX),
            "bert/encoder/layer/0/intermediate/dense/kernel": ((D, FF), MATRIX),
            "bert/encoder/layer/0/output/dense/kernel": ((FF, D), MATRIX),
            "bert/encoder/layer/0/output/LayerNorm/scale": ((D,), OTHER),
            "bert/pooler/dense/kernel": ((D, D), MATRIX),
            "cls/predictions/transform/dense/kernel": ((D, D), DOUBTFUL_MATRIX),
            "cls/predictions/decoder/kernel": ((D, V), DOUBTFUL_OTHER),
            "cls/seq_relationship/kernel": ((D, 2), DOUBTFUL_OTHER),
            "classifier/kernel": ((D, 3), OTHER),
            "qa_outputs/kernel": ((D, 2), DOUBTFUL_OTHER),
        },
    ),
    "whisper": ParameterTree(
        "huggingface/transformers modeling_flax_whisper.py",
        {
            "model/encoder/conv1/kernel": ((3, 20, D), DOUBTFUL_MATRIX),
            "model/encoder/embed_positions/embedding": ((40, D), OTHER),
            "model/decoder/embed_tokens/embedding": ((V, D), OTHER),
            "model/encoder/layers/0/self_attn/q_proj/kernel": ((D, D), MATRIX),
            "model/encoder/layers/0/self_attn/out_proj/kernel": ((D, D), MATRIX),
            "model/encoder/layers/0/self_attn_layer_norm/scale": ((D,), OTHER),
            "model/encoder/layers/0/fc1/kernel": ((D, FF), MATRIX),
            "proj_out/kernel": ((D, V), DOUBTFUL_OTHER),
        },
    ),
    "gpt2": ParameterTree(
        "huggingface/transformers modeling_flax_gpt2.py, whose Conv1D kernels are (out, in)",
        {
            "transformer/wte/embedding": ((V, D), OTHER),
            "transformer/wpe/embedding": ((16, D), OTHER),
            "transformer/h/0/ln_1/scale": ((D,), OTHER),
            "transformer/h/0/attn/c_attn/kernel": ((3 * D, D), DOUBTFUL_MATRIX),
            "transformer/h/0/attn/c_proj/kernel": ((D, D), DOUBTFUL_MATRIX),
            "transformer/h/0/mlp/c_fc/kernel": ((FF, D), DOUBTFUL_MATRIX),
            "transformer/ln_f/scale": ((D,), OTHER),
        },
    ),
    "gemma": ParameterTree(
        "google-deepmind/gemma gemma/modules.py",
        {
            "embedder/input_embedding": ((V, D), OTHER),
            "layer_0/attn/q_einsum/w": ((H, D, HD), DOUBTFUL_MATRIX),
            "layer_0/attn/kv_einsum/w": ((2, 2, D, HD), DOUBTFUL_MATRIX),
            "layer_0/attn/attn_vec_einsum/w": ((H, HD, D), DOUBTFUL_MATRIX),
            "layer_0/mlp/gating_einsum": ((2, D, FF), DOUBTFUL_MATRIX),
            "layer_0/mlp/linear": ((FF, D), DOUBTFUL_MATRIX),
            "layer_0/pre_attention_norm/scale": ((D,), OTHER),
            "final_norm/scale": ((D,), OTHER),
        },
    ),
    "maxtext": ParameterTree(
        "AI-Hypercomputer/maxtext layers/decoders.py, layers on axis 1",
        {
            "token_embedder/embedding": ((V, D), OTHER),
            "decoder/layers/self_attention/query/kernel": ((D, 3, H, HD), DOUBTFUL_MATRIX),
            "decoder/layers/self_attention/out/kernel": ((H, 3, HD, D), DOUBTFUL_MATRIX),
            "decoder/layers/mlp/wi_0/kernel": ((D, 3, FF), DOUBTFUL_MATRIX),
            "decoder/layers/mlp/wo/kernel": ((FF, 3, D), DOUBTFUL_MATRIX),
            "decoder/layers/pre_self_attention_layer_norm/scale": ((D, 3), OTHER),
            "decoder/layers/MoeBlock_0/gate/kernel": ((D, 8), DOUBTFUL_OTHER),
            "decoder/decoder_norm/scale": ((D,), OTHER),
            "decoder/logits_dense/kernel": ((D, V), DOUBTFUL_OTHER),
        },
    ),
    "dit": ParameterTree(
        "facebookresearch/DiT models.py, in flax",
        {
            "x_embedder/proj/kernel": ((2, 2, 4, D), DOUBTFUL_MATRIX),
            "pos_embed": ((1, 16, D), OTHER),
            "t_embedder/mlp_0/kernel": ((16, D), DOUBTFUL_MATRIX),
            "y_embedder/embedding_table/embedding": ((10, D), OTHER),
            "blocks_0/attn/qkv/kernel": ((D, 3 * D), MATRIX),
            "blocks_0/attn/proj/kernel": ((D, D), MATRIX),
            "blocks_0/mlp/fc1/kernel": ((D, FF), MATRIX),
            "blocks_0/adaLN_modulation/kernel": ((D, 6 * D), DOUBTFUL_MATRIX),
            "final_layer/linear/kernel": ((D, 16), DOUBTFUL_OTHER),
            "final_layer/adaLN_modulation/kernel": ((D, 2 * D), DOUBTFUL_MATRIX),
        },
    ),
    "mamba": ParameterTree(
        "state-spaces/mamba mamba_simple.py, in flax",
        {
            "embedding/embedding": ((V, D), OTHER),
            "layers_0/mixer/in_proj/kernel": ((D, 4 * D), MATRIX),
            "layers_0/mixer/conv1d/kernel": ((4, 1, 2 * D), DOUBTFUL_OTHER),
            "layers_0/mixer/x_proj/kernel": ((2 * D, 34), MATRIX),
            "layers_0/mixer/dt_proj/kernel": ((2, 2 * D), MATRIX),
            "layers_0/mixer/A_log": ((2 * D, 16), DOUBTFUL_OTHER),
            "layers_0/mixer/D": ((2 * D,), OTHER),
            "layers_0/mixer/out_proj/kernel": ((2 * D, D), MATRIX),
            "layers_0/norm/scale": ((D,), OTHER),
            "lm_head/kernel": ((D, V), OTHER),
        },
    ),
    "s5": ParameterTree(
        "lindermanlab/S5 s5/ssm.py",
        {
            "encoder/encoder/kernel": ((4, D), DOUBTFUL_MATRIX),
            "encoder/layers_0/seq/Lambda_re": ((16,), OTHER),
            "encoder/layers_0/seq/B": ((16, D, 2), DOUBTFUL_OTHER),
            "encoder/layers_0/seq/C": ((D, 16, 2), DOUBTFUL_OTHER),
            "encoder/layers_0/seq/log_step": ((16, 1), OTHER),
            "encoder/layers_0/out2/kernel": ((D, D), MATRIX),
            "decoder/kernel": ((D, 10), DOUBTFUL_OTHER),
        },
    ),
    "haiku": ParameterTree(
        "google-deepmind/dm-haiku MultiHeadAttention, nets.MLP, GRU, layer_stack, Embed",
        {
            "transformer/embed/embeddings": ((V, D), OTHER),
            "transformer/multi_head_attention/query/w": ((D, D), MATRIX),
            "transformer/multi_head_attention/linear/w": ((D, D), MATRIX),
            "transformer/multi_head_attention/linear/b": ((D,), OTHER),
            "transformer/mlp/~/linear_0/w": ((D, FF), MATRIX),
            "transformer/layer_norm/offset": ((D,), OTHER),
            "gru/w_i": ((D, 3 * D), MATRIX),
            "gru/w_h": ((D, 3 * D), MATRIX),
            "__layer_stack_no_per_layer/linear/w": ((3, D, FF), DOUBTFUL_MATRIX),
            "__layer_stack_no_per_layer/linear/b": ((3, FF), OTHER),
            "__layer_stack_no_per_layer/layer_norm/scale": ((3, D), OTHER),
            "__layer_stack_no_per_layer/layer_norm/offset": ((3, D), OTHER),
        },
    ),
    "praxis": ParameterTree(
        "google/praxis layers/transformer_models.py",
        {
            "lm/softmax/logits_ffn/linear/w": ((D, V), DOUBTFUL_OTHER),
            "lm/embedding_lookup/emb_var": ((V, D), DOUBTFUL_OTHER),
            "lm/transformer/x_layers_0/self_attention/query/w": ((D, H, HD), DOUBTFUL_MATRIX),
            "lm/transformer/x_layers_0/self_attention/post/w": ((D, H, HD), DOUBTFUL_MATRIX),
            "lm/transformer/x_layers_0/ff_layer/ffn_layer1/linear/w": ((D, FF), MATRIX),
        },
    ),
    "equinox": ParameterTree(
        "patrick-kidger/equinox MultiheadAttention, MLP, GRUCell, Embedding, LayerNorm, Conv2d",
        {
            "embedding/weight": ((V, D), OTHER),
            "query_proj/weight": ((D, D), MATRIX),
            "key_proj/weight": ((D, D), MATRIX),
            "value_proj/weight": ((D, D), MATRIX),
            "output_proj/weight": ((D, D), MATRIX),
            "mlp/layers/0/weight": ((FF, D), MATRIX),
            "mlp/layers/0/bias": ((FF,), OTHER),
            "gru/weight_ih": ((3 * D, D), MATRIX),
            "gru/weight_hh": ((3 * D, D), MATRIX),
            "gru/bias_n": ((D,), OTHER),
            "norm/weight": ((3, D), OTHER),
            "conv/weight": ((D, 3, 3, 3), DOUBTFUL_MATRIX),
            "conv/bias": ((D, 1, 1), OTHER),
            "lm_head/weight": ((V, D), OTHER),
        },
        mo.EQUINOX_RULES,
    ),
    "haliax": ParameterTree(
        "marin-community/levanter models/llama.py, haliax 1.3",
        {
            "embeddings/token_embeddings/weight/0": ((V, D), OTHER),
            "transformer/layers/stacked/self_attn/q_proj/weight/0": (
                (3, 2, 2, HD, D),
                DOUBTFUL_MATRIX,
            ),
            "transformer/layers/stacked/mlp/gate_proj/weight/0": ((3, FF, D), DOUBTFUL_MATRIX),
            "transformer/layers/stacked/mlp/gate_proj/bias/0": ((3, FF), OTHER),
            "transformer/layers/stacked/input_layernorm/weight/0": ((3, D), OTHER),
            "transformer/norm/weight/0": ((D,), OTHER),
            "lm_head/weight/0": ((V, D), OTHER),
        },
        mo.EQUINOX_RULES,
    ),
    "llama": ParameterTree(
        "meta-llama/llama model.py, as a tree",
        {
            "tok_embeddings/weight": ((V, D), OTHER),
            "layers/0/attention/wq/weight": ((D, D), MATRIX),
            "layers/0/attention/wo/weight": ((D, D), MATRIX),
            "layers/0/feed_forward/w1/weight": ((FF, D), MATRIX),
            "layers/0/attention_norm/weight": ((D,), OTHER),
            "norm/weight": ((D,), OTHER),
            "output/weight": ((V, D), DOUBTFUL_OTHER),
        },
        mo.EQUINOX_RULES,
    ),
    "neox": ParameterTree(
        "EleutherAI/gpt-neox through transformers modeling_gpt_neox.py, as a tree",
        {
            "gpt_neox/embed_in/weight": ((V, D), DOUBTFUL_OTHER),
            "gpt_neox/layers/0/attention/query_key_value/weight": ((3 * D, D), MATRIX),
            "gpt_neox/layers/0/mlp/dense_h_to_4h/weight": ((FF, D), MATRIX),
            "gpt_neox/final_layer_norm/weight": ((D,), OTHER),
            "embed_out/weight": ((V, D), DOUBTFUL_OTHER),
        },
        mo.EQUINOX_RULES,
    ),
    "rwkv": ParameterTree(
        "BlinkDL/RWKV-LM RWKV-v4/src/model.py, as a tree",
        {
            "emb/weight": ((V, D), OTHER),
            "blocks/0/ln1/weight": ((D,), OTHER),
            "blocks/0/att/time_decay": ((D,), OTHER),
            "blocks/0/att/time_mix_k": ((1, 1, D), OTHER),
            "blocks/0/att/key/weight": ((D, D), MATRIX),
            "blocks/0/att/output/weight": ((D, D), MATRIX),
            "blocks/0/ffn/value/weight": ((D, FF), MATRIX),
            "head/weight": ((V, D), OTHER),
        },
        mo.EQUINOX_RULES,
    ),
    "t5": ParameterTree(
        "huggingface/transformers modeling_t5.py, as a tree",
        {
            "shared/weight": ((V, D), DOUBTFUL_OTHER),
            "encoder/block/0/layer/0/SelfAttention/q/weight": ((D, D), MATRIX),
            "encoder/block/0/layer/0/SelfAttention/relative_attention_bias/weight": (
                (32, H),
                DOUBTFUL_OTHER,
            ),
            "encoder/block/0/layer/0/layer_norm/weight": ((D,), OTHER),
            "encoder/block/0/layer/1/DenseReluDense/wo/weight": ((D, FF), MATRIX),
            "lm_head/weight": ((V, D), OTHER),
        },
        mo.EQUINOX_RULES,
    ),
    "rnn": ParameterTree(
        "pytorch/examples word_language_model/model.py, as a tree",
        {
            "encoder/weight": ((V, D), DOUBTFUL_OTHER),
            "rnn/weight_ih_l0": ((4 * D, D), DOUBTFUL_MATRIX),
            "decoder/weight": ((V, D), DOUBTFUL_OTHER),
        },
        mo.EQUINOX_RULES,
    ),
    "annotated": ParameterTree(
        "harvardnlp/annotated-transformer, as a tree",
        {
            "src_embed/0/lut/weight": ((V, D), DOUBTFUL_OTHER),
            "encoder/layers/0/self_attn/linears/0/weight": ((D, D), MATRIX),
            "encoder/layers/0/feed_forward/w_1/weight": ((FF, D), MATRIX),
            "encoder/layers/0/sublayer/0/norm/a_2": ((D,), OTHER),
            "generator/proj/weight": ((V, D), DOUBTFUL_OTHER),
        },
        mo.EQUINOX_RULES,
    ),
    "keras": ParameterTree(
        "keras-team/keras layers, by the path of each variable",
        {
            "embedding/embeddings": ((V, D), OTHER),
            "dense/kernel": ((D, FF), MATRIX),
            "dense/bias": ((FF,), OTHER),
            "lstm/lstm_cell/kernel": ((D, 4 * D), MATRIX),
            "lstm/lstm_cell/recurrent_kernel": ((D, 4 * D), MATRIX),
            "multi_head_attention/query/kernel": ((D, H, HD), DOUBTFUL_MATRIX),
            "layer_normalization/gamma": ((D,), OTHER),
            "conv2d/kernel": ((3, 3, 3, D), DOUBTFUL_MATRIX),
        },
    ),
    "lora": ParameterTree(
        "google/flax nnx/nn/lora.py, and a hand-written adapter",
        {
            "attn/q_proj/kernel/value": ((D, D), MATRIX),
            "attn/q_proj/lora/lora_a/value": ((D, 4), MATRIX),
            "attn/q_proj/lora/lora_b/value": ((4, D), MATRIX),
            "attn/q_proj/lora/a": ((D, 4), DOUBTFUL_MATRIX),
            "attn/q_proj/lora/b": ((4, D), DOUBTFUL_MATRIX),
        },
    ),
    "mixtral": ParameterTree(
        "mistralai/mistral-inference moe.py, as a tree",
        {
            "layers/0/attention/wq/weight": ((D, D), MATRIX),
            "layers/0/feed_forward/gate/weight": ((H, D), DOUBTFUL_OTHER),
            **layers(
                H,
                {
                    "layers/0/feed_forward/experts/#/w1/weight": ((FF, D), MATRIX),
                    "layers/0/feed_forward/experts/#/w2/weight": ((D, FF), MATRIX),
                },
            ),
        },
        mo.EQUINOX_RULES,
    ),
    "gated": ParameterTree(
        "a gated MLP beside experts with a router, as DeepSeek's layers",
        {
            "layers/0/mlp/gate/kernel": ((D, FF), MATRIX),
            "layers/0/mlp/up/kernel": ((D, FF), MATRIX),
            "layers/0/mlp/down/kernel": ((FF, D), MATRIX),
            "layers/1/mlp/gate/kernel": ((D, H), DOUBTFUL_OTHER),
            "layers/1/mlp/up/kernel": ((H, D, FF), DOUBTFUL_MATRIX),
            "layers/2/mlp/gate/kernel": ((D, H), DOUBTFUL_OTHER),
            "layers/2/mlp/experts/0/up/kernel": ((D, FF), MATRIX),
        },
    ),
    "easydel": ParameterTree(
        "erfanzar/EasyDeL modules/llama, its layers stacked",
        {
            "model/embed_tokens/embedding": ((V, D), OTHER),
            "model/layers/self_attn/q_proj/kernel": ((3, D, D), DOUBTFUL_MATRIX),
            "model/layers/input_layernorm/kernel": ((3, D), DOUBTFUL_OTHER),
            "lm_head/kernel": ((D, V), OTHER),
        },
    ),
}
