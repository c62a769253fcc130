"""The words that tell roles: data, with a library or model that uses a word in parentheses."""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(re.sub(r"\([^)]*\)", "", text).split())


IN_OUT_WEIGHTS = {
    "kernel": "flax, Keras",
    "recurrent_kernel": "Keras",
    "w": "haiku, praxis, objax",
    "w_i": "haiku GRU",
    "w_h": "haiku GRU",
    "lora_a": "flax nnx.LoRA",
    "lora_b": "flax nnx.LoRA",
}
"""Names of weights that are stored (in, out)."""

OUT_IN_WEIGHTS = {
    "weight": "equinox, haliax, PyTorch",
    "weight_ih": "equinox GRUCell, LSTMCell",
    "weight_hh": "equinox GRUCell, LSTMCell",
}
"""Names of weights that are stored (out, in)."""

WEIGHTS = IN_OUT_WEIGHTS.keys() | OUT_IN_WEIGHTS.keys()

EMBEDDINGS = _words("""
    embedding (flax Embed) embeddings (haiku, Keras) embed embeds embedder (Gemma, MaxText)
    emb (minGPT: tok_emb) embs wte wpe (GPT-2)
""")
TOKENS_AND_POSITIONS = _words("""
    token (CLIP) tokens (Hugging Face: embed_tokens) tok (minGPT) word (BERT) vocab (Megatron)
    input (Gemma: input_embedding) position (BERT) positions (Hugging Face) positional (CLIP)
    pos (ViT) rel (T5X: rel_embedding) relative (T5) absolute type (BERT: token_type_embeddings)
""")
NORMS = _words("""
    norm norms rms layernorm (LLaMA: input_layernorm) rmsnorm batchnorm groupnorm (flax)
    ln (GPT-2) bn gn (ResNet)
""")
NORM_TAGS = _words("f (GPT-2: ln_f) final pre post (CLIP: ln_pre)")
OF_WEIGHTS = _words("ada (DiT: adaLN) adaptive cond conditional weight (weight_norm) spectral")
"""Words beside a norm whose weight may be a matrix."""
VECTORS = _words("scale (flax) bias gain gamma beta (Keras) offset (haiku LayerNorm)")
BIASES = _words("""
    b (haiku) bq bk bv bo b_i b_h (haiku GRU) bias_n (equinox GRUCell) bias_ih bias_hh (PyTorch)
""")
HEADS = _words("head (Hugging Face: lm_head) logits (haiku) classifier (BERT) unembed (GPT-NeoX)")
TOKENS = _words("token (ViT: cls_token) tokens (DINOv2: register_tokens)")

STEMS = _words("""
    embed token (CLIP, MLP-Mixer) vocab (Megatron) lookup (praxis: embedding_lookup)
    position (BERT) posemb (ViT: posembed_input) rotary (GPT-NeoX) norm scale (flax)
    bias (T5: relative_attention_bias) gain gamma (Keras) head (Hugging Face: lm_head)
    logit (T5X: logits_dense) classif (BERT) predict (BERT: cls/predictions)
    softmax (praxis: softmax/logits_ffn) readout generator (The Annotated Transformer)
    decay (RWKV: time_decay) codebook (VQ-VAE, EnCodec) engram (DeepSeek) quantiz (VQ-VAE)
    prototype (SwAV, DINO) centroid (k-means) prompt (prompt tuning) router (Switch Transformer)
    gating (mixtures of experts) relpos alibi (relative positions)
    fourier frequenc (rotary and Fourier features)
""")
"""Parts of words that name another role anywhere in a path; not always rightly: `norm_proj`."""
HARMLESS = re.compile("multihead|multiscale|upscale|positionwise")
"""Words that contain such a part and name no other role."""

WORDS = EMBEDDINGS | _words("""
    tok (minGPT) pos (ViT) lut (The Annotated Transformer) word (BERT) words table (lookup tables)
    ln (DiT: adaLN_modulation) bn gn (ResNet) ctc (speech recognition: ctc_fc is the head)
    cls mlm nsp (BERT) score (Hugging Face sequence classification) final (DiT: final_layer)
    switch (Switch Transformer: the router) rpe (relative positions) slots (slot attention)
    last (DINO: last_layer) codes (VQ-VAE) freq freqs (rotary and Fourier features)
    log (Mamba: A_log) mean var (batch statistics) ema (averages of weights) mask (BERT: mask_token)
    temperature (CLIP)
""")
"""Whole words that name another role anywhere in a path."""

PARENTS = _words("""
    lm (lm_proj) policy actor pi action actions values (reinforcement learning: the heads)
    item items user users category (recommender systems: the embeddings)
    entity (knowledge graphs) decoder encoder (PyTorch's language model: head and embedding)
    shared (T5, BART: the embedding) speaker (speech synthesis) char type types (BERT: token types)
    class (conditional models) label (DN-DETR: label_enc is an embedding) species atom (molecules)
    pe latent latents (Perceiver) queries (DETR) feat (Mask2Former: query_feat is an embedding)
    vectors (lookup tables) memory (memory tokens) state states (Mamba, S4)
    pred (detection: bbox_pred is a head) beta (Keras) n (norms n1, n2)
    conv (RecurrentGemma, whose depthwise kernels have two axes) dwconv depthwise
    filter filters (Hyena)
""")
"""Words that name another role if a weight lies directly below them."""

EITHER_ORDER = _words("c_attn c_proj c_fc q_attn")
"""Layers of GPT-2 that Hugging Face stores in the other order than flax and PyTorch do (Conv1D)."""

OUTPUTS = _words("""
    out (flax attention) output (LLaMA's head, BERT: attention/output) outputs (BERT: qa_outputs)
""")
"""Words that name a head, unless they are in one of these."""
LAYERS = _words("layer (BERT) layers (LLaMA, flax) block (GPT-2 in flax) blocks (ViT) h (GPT-2)")
ATTENTIONS = _words("""
    attention (flax, haiku) attn (Hugging Face: self_attn) selfattention (T5) selfattn mha mhsa
""")
QUERY_KEY_VALUE = (
    ("query", "key", "value"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_proj", "k_proj", "v_proj"),
    ("wq", "wk", "wv"),
    ("q", "k", "v"),
    ("to_q", "to_k", "to_v"),
)
"""Layers beside the output projection of an attention: flax, equinox, PyTorch, LLaMA, T5."""
GATES = _words("gate (LLaMA, Mixtral) gating (mixtures of experts)")
"""Words that name the router of experts, unless the layer belongs to a gated MLP."""
BESIDE_GATES = ("up", "up_proj", "down", "down_proj")

WRAPPERS = _words("value (flax) raw_value (flax nnx) array (haliax)")
"""Attributes of the boxes that libraries put around arrays."""
