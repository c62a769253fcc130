"""The role of a leaf, read from the names in its path: a matrix, another role, or not certain.

Words are data: each comes with the library or model that uses it.
"""

import dataclasses
import re
from collections.abc import Container, Iterable, Sequence

from multinorm_optax._matrices.axes import MatrixAxes, Shape
from multinorm_optax._matrices.paths import UNCOVERED, DefaultRule, Uncovered

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
_TOKENS_AND_POSITIONS = {
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
    "layernorm": "LLaMA (input_layernorm)",
    "rmsnorm": "flax RMSNorm",
    "batchnorm": "flax BatchNorm",
    "groupnorm": "flax GroupNorm",
    "ln": "GPT-2",
    "bn": "ResNet",
    "gn": "ResNet",
}
_NORM_TAGS = {"f": "GPT-2 (ln_f)", "final": "CLIP", "pre": "CLIP (ln_pre)", "post": "CLIP"}
_VECTORS = {
    "scale": "flax",
    "bias": "every library",
    "gain": "hand-written norms",
    "gamma": "Keras",
    "beta": "Keras",
    "offset": "haiku LayerNorm",
}
_BIASES = {
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
_HEADS = {
    "head": "Hugging Face (lm_head)",
    "logits": "haiku examples",
    "classifier": "BERT",
    "unembed": "GPT-NeoX in JAX, hand-written models",
}
_TOKENS = {"token": "ViT (cls_token)", "tokens": "DINOv2 (register_tokens)"}

_STEMS = {
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
    "state": "Mamba, S4",
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

_WORDS = {
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
    "beta": "Keras",
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

_OF_ATTENTION = {"multi", "multihead", "attention", "attn", "mha", "mhsa"}
"""Words beside `head` with which a segment names an attention, not an output head."""

_PARENTS = {
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
}
"""Words that say an embedding or a head if a weight lies directly below them."""

_EITHER_ORDER = {
    "c_attn": "GPT-2",
    "c_proj": "GPT-2",
    "c_fc": "GPT-2",
    "q_attn": "GPT-2",
}
"""Layers that Hugging Face stores in the other order than flax and PyTorch do (its Conv1D)."""

_OUTPUTS = {
    "out": "flax attention, Whisper (proj_out)",
    "output": "LLaMA (output is the head), BERT (attention/output)",
    "outputs": "BERT (qa_outputs)",
}
"""Words that name a head, unless they are in one of these."""
_INSIDE = re.compile("attention|attn|mlp|ffn|feed_?forward|block|layer|mixer|mamba|expert")

_QUERIES = {
    "query": "flax, haiku",
    "query_proj": "equinox",
    "q_proj": "Hugging Face",
    "wq": "LLaMA",
    "q": "T5",
    "to_q": "diffusers",
}
"""Names beside an output projection of an attention."""

_WRAPPERS = {"value": "flax", "raw_value": "flax nnx", "array": "haliax"}
"""Attributes of the boxes that libraries put around arrays."""


def words_of(segment: str) -> list[str]:
    """Lower-case words of a path segment: `LayerNorm_0` -> layer, norm (and layernorm)."""
    parts = _split(segment)
    return [*parts, segment.strip("_0123456789").lower()]


def _split(segment: str) -> list[str]:
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", segment)
    return [part.lower() for part in re.split(r"[^A-Za-z]+", separated) if part]


def names_of(path: str) -> list[str]:
    """The segments of a path that are names: no indices, and no wrapper below the last name."""
    segments = path.split("/")
    while segments and (segments[-1] in _WRAPPERS or not _split(segments[-1])):
        segments.pop()
    return [segment for segment in segments if _split(segment)]


def is_norm_or_bias(path: str) -> bool:
    """Whether the names say with certainty that a leaf is a norm's gain, a scale or a bias."""
    *above, leaf = names_of(path) or [""]
    of_norm = leaf in ("w", "weight", "g") and bool(above) and _is_norm(above[-1])
    return _is_vector(leaf, above) or of_norm


def _is_vector(leaf: str, above: Sequence[str]) -> bool:
    """A gain or a bias. The `b` of a low-rank adapter and the `B` of a state space are neither."""
    stripped = leaf.rstrip("_0123456789")
    if stripped in _BIASES:
        return not any("lora" in name.lower() or "adapter" in name.lower() for name in above)
    words = _split(leaf)
    return bool(words) and (words[-1] in _VECTORS or words_of(leaf)[-1] in _VECTORS)


def _is_norm(segment: str) -> bool:
    """A norm, not a projection of it: `layer_norm`, `ln_f`; not `norm_proj`."""
    words = _split(segment)
    while len(words) > 1 and words[-1] in _NORM_TAGS:
        words.pop()
    return words[-1] in NORMS or words_of(segment)[-1] in NORMS


def _is_token_embedding(segment: str) -> bool:
    words = set(_split(segment))
    return bool(words & EMBEDDINGS.keys()) and not words - (
        EMBEDDINGS.keys() | _TOKENS_AND_POSITIONS.keys()
    )


def _is_head(segment: str, above: Sequence[str]) -> bool:
    """An output head, not one of an attention: `lm_head`; not `multi_head`, `attn/head`."""
    last = _split(segment)[-1]
    doubtful = {"per", "each", "pre", "projection", "query", "key", "kv", "q", "k"} | _OF_ATTENTION
    inside = any(_OF_ATTENTION.intersection(words_of(name)) for name in above)
    return last in _HEADS and not doubtful.intersection(_split(segment)) and not inside


def is_other_role(path: str) -> bool:
    """Whether the names say with certainty that a leaf is no matrix.

    An embedding, tokens, an output head, a norm's gain, a scale or a bias.
    """
    *above, leaf = names_of(path) or [""]
    if is_norm_or_bias(path):
        return True
    if leaf and leaf not in WEIGHTS:
        words = _split(leaf)
        return words[-1] in _TOKENS or _is_token_embedding(leaf) or _is_head(leaf, above)
    if not above:
        return False
    *above, parent = above
    if parent in ("wte", "wpe"):
        return True
    # A convolution or a dense layer may be called an embedding, too, and these have a kernel.
    of_tokens = leaf == "weight" and "input" not in _split(parent) and _is_token_embedding(parent)
    return of_tokens or _is_head(parent, above)


def attentions_of(paths: Iterable[str]) -> frozenset[tuple[str, ...]]:
    """The names of all parents of a query: attentions, whatever they are called."""
    named = map(names_of, paths)
    return frozenset(
        tuple(names[:position])
        for names in named
        for position, name in enumerate(names)
        if words_of(name)[-1] in _QUERIES
    )


def role_word(path: str, attentions: Container[tuple[str, ...]] = ()) -> str | None:
    """The first name above a weight that may say another role than a matrix's."""
    *above, _ = names_of(path) or [""]
    for position, segment in enumerate(above):
        words, text = set(words_of(segment)), "".join(_split(segment))
        if words & _OF_ATTENTION:  # multi_head_attention names no output head
            text = text.replace("head", "")
        if words & _WORDS.keys() or any(stem in text for stem in _STEMS):
            return segment
        inside = tuple(above[:position]) in attentions or any(
            _INSIDE.search(name.lower()) for name in above[:position]
        )
        if words & _OUTPUTS.keys() and not inside:
            return segment
        if words_of(segment)[-1] == "gate" and any("moe" in name.lower() for name in above):
            return segment
    return above[-1] if above and _PARENTS.keys() & words_of(above[-1]) else None


def sides(shape: Shape) -> int:
    """The number of axes that are longer than one."""
    return sum(size > 1 for size in shape)


@dataclasses.dataclass(frozen=True, repr=False)
class DefaultAxes(DefaultRule):
    """The default rule: what the names of a path say with certainty.

    In this order: a leaf with fewer than two sides longer than one is not a matrix. Nor is an
    embedding, a token, an output head, a norm's gain, a scale or a bias. A leaf of two axes whose
    name is one of `weights` is a matrix with the axes `matrix`, unless a name above it may say
    another role. Everything else is not covered.
    """

    text: str
    order: str
    weights: frozenset[str]
    matrix: MatrixAxes
    attentions: frozenset[tuple[str, ...]] = frozenset()

    def of_tree(self, paths: Sequence[str]) -> "DefaultAxes":
        return dataclasses.replace(self, attentions=attentions_of(paths))

    def __call__(self, path: str, shape: Shape) -> MatrixAxes | Uncovered | None:
        if sides(shape) < 2 or is_other_role(path):
            return None
        return self.matrix if self.why_not(path, shape) is None else UNCOVERED

    def why_not(self, path: str, shape: Shape) -> str | None:
        """Why a leaf that has no other role is not certainly a matrix; None if it is one."""
        names = names_of(path)
        if not names:
            return "its path has no name, and roles are read from names"
        if names[-1] not in WEIGHTS:
            return f"{names[-1]} is not the name of a weight in a common library"
        if len(shape) != 2:
            return f"a shape of {len(shape)} axes does not say which are rows"
        if names[-1] not in self.weights:
            libraries = (IN_OUT_WEIGHTS | OUT_IN_WEIGHTS)[names[-1]]
            stored = "(in, out)" if names[-1] in IN_OUT_WEIGHTS else "(out, in)"
            return f"{names[-1]} is {stored} in {libraries}, which *{self.text} does not cover"
        if names[1:] and names[-2] in _EITHER_ORDER:
            return f"{names[-2]} is (in, out) in some libraries, and (out, in) in others"
        if (word := role_word(path, self.attentions)) is not None:
            return f"{word} may say that it is not a matrix"
        return None


flax_axes = DefaultAxes(
    "FLAX_RULES", "(in, out)", frozenset(IN_OUT_WEIGHTS), MatrixAxes(output=1, input=0)
)
equinox_axes = DefaultAxes(
    "EQUINOX_RULES", "(out, in)", frozenset(OUT_IN_WEIGHTS), MatrixAxes(output=0, input=1)
)
