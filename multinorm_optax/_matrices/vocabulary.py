"""The words by which roles are told: data, each word with a library or model that uses it."""

import re

IN_OUT_WEIGHTS = {
    "kernel": "flax, Keras",
    "recurrent_kernel": "Keras",
    "w": "haiku, praxis, objax",
    "w_i": "haiku GRU",
    "w_h": "haiku GRU",
    "lora_a": "flax nnx.LoRA",
    "lora_b": "flax nnx.LoRA",
}
"""The names of weights that are stored (in, out)."""

OUT_IN_WEIGHTS = {
    "weight": "equinox, haliax, PyTorch",
    "weight_ih": "equinox GRUCell, LSTMCell",
    "weight_hh": "equinox GRUCell, LSTMCell",
}
"""The names of weights that are stored (out, in)."""


WEIGHTS = IN_OUT_WEIGHTS.keys() | OUT_IN_WEIGHTS.keys()

EMBEDDINGS = {
    "embedding": "flax Embed",
    "embeddings": "haiku Embed, Keras Embedding",
    "embed": "flax examples",
    "embeds": "plural of embed",
    "embedder": "Gemma, MaxText",
    "emb": "minGPT (tok_emb)",
    "embs": "plural of emb",
    "wte": "GPT-2",
    "wpe": "GPT-2",
}
TOKENS_AND_POSITIONS = {
    "token": "CLIP",
    "tokens": "Hugging Face (embed_tokens)",
    "tok": "minGPT",
    "word": "BERT",
    "vocab": "Megatron",
    "input": "Gemma (input_embedding)",
    "position": "BERT",
    "positions": "Hugging Face (embed_positions)",
    "positional": "CLIP",
    "pos": "ViT",
    "rel": "T5X (rel_embedding)",
    "relative": "T5",
    "absolute": "BERT",
    "type": "BERT (token_type_embeddings)",
}
NORMS = {
    "norm": "every library",
    "norms": "plural of norm",
    "rms": "hand-written RMSNorm",
    "layernorm": "LLaMA (input_layernorm)",
    "rmsnorm": "flax RMSNorm",
    "batchnorm": "flax BatchNorm",
    "groupnorm": "flax GroupNorm",
    "ln": "GPT-2",
    "bn": "ResNet",
    "gn": "ResNet",
}
NORM_TAGS = {"f": "GPT-2 (ln_f)", "final": "CLIP", "pre": "CLIP (ln_pre)", "post": "CLIP"}
OF_WEIGHTS = {
    "ada": "DiT (adaLN)",
    "adaptive": "adaptive norms",
    "cond": "conditional norms",
    "conditional": "conditional norms",
    "weight": "weight_norm",
    "spectral": "spectral_norm",
}
"""Words beside a norm whose weight may be a matrix."""
VECTORS = {
    "scale": "flax",
    "bias": "every library",
    "gain": "hand-written norms",
    "gamma": "Keras",
    "beta": "Keras",
    "offset": "haiku LayerNorm",
}
BIASES = {
    "b": "haiku",
    "bq": "hand-written attention",
    "bk": "hand-written attention",
    "bv": "hand-written attention",
    "bo": "hand-written attention",
    "b_i": "haiku GRU",
    "b_h": "haiku GRU",
    "bias_n": "equinox GRUCell",
    "bias_ih": "PyTorch",
    "bias_hh": "PyTorch",
}
HEADS = {
    "head": "Hugging Face (lm_head)",
    "logits": "haiku examples",
    "classifier": "BERT",
    "unembed": "GPT-NeoX in JAX, hand-written models",
}
TOKENS = {"token": "ViT (cls_token)", "tokens": "DINOv2 (register_tokens)"}

STEMS = {
    "embed": "every library",
    "token": "CLIP, MLP-Mixer",
    "vocab": "Megatron",
    "lookup": "praxis (embedding_lookup)",
    "position": "BERT",
    "posemb": "ViT (posembed_input)",
    "rotary": "GPT-NeoX",
    "norm": "every library",
    "scale": "flax",
    "bias": "T5 (relative_attention_bias)",
    "gain": "hand-written norms",
    "gamma": "Keras",
    "head": "Hugging Face (lm_head)",
    "logit": "T5X (logits_dense)",
    "classif": "BERT",
    "predict": "BERT (cls/predictions)",
    "softmax": "praxis (softmax/logits_ffn)",
    "readout": "hand-written models",
    "generator": "The Annotated Transformer",
    "decay": "RWKV (time_decay)",
    "codebook": "VQ-VAE, EnCodec",
    "engram": "DeepSeek",
    "quantiz": "VQ-VAE",
    "prototype": "SwAV, DINO",
    "centroid": "k-means layers",
    "prompt": "prompt tuning",
    "router": "Switch Transformer",
    "fourier": "random Fourier features",
    "frequenc": "rotary and Fourier features",
}
"""Parts of words that say another role anywhere in a path; not always rightly: `norm_proj`."""
HARMLESS = re.compile("multihead|multiscale|upscale|positionwise")
"""Words that contain such a part and say no other role."""

WORDS = {
    **EMBEDDINGS,
    "tok": "minGPT",
    "pos": "ViT",
    "lut": "The Annotated Transformer",
    "word": "BERT",
    "words": "plural of word",
    "table": "lookup tables",
    "ln": "DiT (adaLN_modulation), GPT-2",
    "bn": "ResNet",
    "gn": "ResNet",
    "ctc": "speech recognition (ctc_fc is the head)",
    "cls": "BERT",
    "mlm": "BERT",
    "nsp": "BERT",
    "score": "Hugging Face sequence classification",
    "final": "DiT (final_layer)",
    "last": "DINO (last_layer)",
    "codes": "VQ-VAE",
    "freq": "rotary and Fourier features",
    "freqs": "rotary and Fourier features",
    "log": "Mamba (A_log)",
    "mean": "batch statistics",
    "var": "batch statistics",
    "ema": "averages of weights",
    "mask": "BERT (mask_token)",
    "temperature": "CLIP",
}
"""Whole words that say another role anywhere in a path."""

PARENTS = {
    "lm": "language models (lm_proj)",
    "policy": "reinforcement learning (policy is the head)",
    "item": "recommender systems (item is the embedding)",
    "items": "recommender systems",
    "user": "recommender systems",
    "users": "recommender systems",
    "entity": "knowledge graphs (entity is the embedding)",
    "decoder": "PyTorch's language model (decoder is the head), BERT (cls/predictions/decoder)",
    "encoder": "PyTorch's language model (encoder is the embedding)",
    "shared": "T5, BART (shared is the embedding)",
    "speaker": "speech synthesis",
    "char": "character models",
    "type": "BERT (token types)",
    "types": "plural of type",
    "class": "conditional models",
    "label": "DN-DETR (label_enc is an embedding)",
    "category": "recommender systems",
    "species": "molecular models",
    "atom": "molecular models",
    "pe": "hand-written positions",
    "latent": "Perceiver",
    "latents": "Perceiver",
    "queries": "Perceiver, DETR",
    "feat": "Mask2Former (query_feat is an embedding)",
    "vectors": "lookup tables",
    "memory": "memory tokens",
    "state": "Mamba, S4",
    "states": "plural of state",
    "pred": "detection (bbox_pred is a head)",
    "actor": "reinforcement learning (actor is the head)",
    "pi": "reinforcement learning",
    "action": "Stable Baselines (action_net is the head)",
    "actions": "reinforcement learning",
    "values": "reinforcement learning (q_values is the head)",
    "beta": "Keras",
    "n": "hand-written norms (n1, n2)",
    "conv": "RecurrentGemma, whose depthwise kernels have two axes",
    "dwconv": "depthwise convolutions",
    "depthwise": "depthwise convolutions",
    "filter": "Hyena",
    "filters": "plural of filter",
}
"""Words that say another role if a weight lies directly below them."""

EITHER_ORDER = {
    "c_attn": "GPT-2",
    "c_proj": "GPT-2",
    "c_fc": "GPT-2",
    "q_attn": "GPT-2",
}
"""Layers that Hugging Face stores in the other order than flax and PyTorch do (its Conv1D)."""

OUTPUTS = {
    "out": "flax attention, Whisper (proj_out)",
    "output": "LLaMA (output is the head), BERT (attention/output)",
    "outputs": "BERT (qa_outputs)",
}
"""Words that name a head, unless they are in one of these."""
LAYERS = {
    "layer": "BERT",
    "layers": "LLaMA, flax",
    "block": "GPT-2 in flax",
    "blocks": "ViT",
    "h": "GPT-2",
}
ATTENTIONS = {
    "attention": "flax, haiku",
    "attn": "Hugging Face (self_attn)",
    "selfattention": "T5",
    "selfattn": "hand-written models",
    "mha": "hand-written models",
    "mhsa": "hand-written models",
}
QUERY_KEY_VALUE = (
    ("query", "key", "value"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_proj", "k_proj", "v_proj"),
    ("wq", "wk", "wv"),
    ("q", "k", "v"),
    ("to_q", "to_k", "to_v"),
)
"""Layers beside the output projection of an attention: flax, equinox, PyTorch, LLaMA, T5."""
GATES = {"gate": "LLaMA, Mixtral", "gating": "mixtures of experts"}
"""Words that name the router of experts, unless the layer belongs to a gated MLP."""
BESIDE_GATES = ("up", "up_proj", "down", "down_proj")

WRAPPERS = {"value": "flax", "raw_value": "flax nnx", "array": "haliax"}
"""Attributes of the boxes that libraries put around arrays."""
