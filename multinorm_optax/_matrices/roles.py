"""The role of a leaf, read from its path: a matrix, an embedding, a head, a norm, a bias."""

import re

from multinorm_optax._matrices.axes import MatrixAxes, Shape
from multinorm_optax._matrices.paths import UNCOVERED, Uncovered

EMBEDDING_WORDS = frozenset(
    {"embed", "embeds", "embedding", "embeddings", "embedder", "wte", "wpe", "unembed"}
)
_NORM_WORDS = frozenset(
    {"norm", "norms", "layernorm", "rmsnorm", "batchnorm", "groupnorm", "ln", "bn", "gn"}
)
_VECTOR_WORDS = frozenset(("scale", "bias", "gain", "gamma", "beta"))
_HEAD_WORDS = frozenset(("head", "logits", "classifier"))
_NOT_A_MODEL_HEAD = frozenset(("multi", "per", "each", "attention", "attn", "query", "key", "kv"))


def words_of(segment: str) -> list[str]:
    """Lower-case words of a path segment: `LayerNorm_0` -> layer, norm (and layernorm)."""
    parts = re.split(r"[^A-Za-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", segment))
    words = [part.lower() for part in parts if part]
    return [*words, segment.strip("_0123456789").lower()]


def is_norm_or_bias(path: str) -> bool:
    """Whether the path names a norm, scale or bias, by the words of its last two segments."""
    leaf, *parent = path.split("/")[:-3:-1]
    return bool(_VECTOR_WORDS.intersection(words_of(leaf))) or any(
        _NORM_WORDS.intersection(words_of(segment)) for segment in (leaf, *parent)
    )


def is_other_role(path: str) -> bool:
    """Whether the path names an embedding, output head, norm, scale or bias: not a matrix."""
    if is_norm_or_bias(path):
        return True
    for segment in path.split("/")[-2:]:
        words = words_of(segment)
        if EMBEDDING_WORDS.intersection(words):
            return True
        if _HEAD_WORDS.intersection(words) and not _NOT_A_MODEL_HEAD.intersection(words):
            return True
    return False


def flax_axes(path: str, shape: Shape) -> MatrixAxes | Uncovered | None:
    """The default rule: a 2-D leaf is a flax kernel (in, out) unless its path says otherwise.

    The shape of a stack or of a `DenseGeneral` kernel does not say which axes are which.
    """
    if len(shape) < 2 or is_other_role(path):
        return None
    return MatrixAxes(output=1, input=0) if len(shape) == 2 else UNCOVERED


def equinox_axes(path: str, shape: Shape) -> MatrixAxes | Uncovered | None:
    """The same for weights stored (out, in), as in equinox and torch."""
    axes = flax_axes(path, shape)
    return MatrixAxes(output=0, input=1) if isinstance(axes, MatrixAxes) else axes
