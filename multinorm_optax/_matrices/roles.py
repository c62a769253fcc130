"""The role of a leaf, from the names in its path: a matrix, another role, or uncertain."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from multinorm_optax._matrices import vocabulary as known
from multinorm_optax._matrices.axes import MatrixAxes, Shape
from multinorm_optax._matrices.paths import UNCOVERED, DefaultRule, Uncovered

ALONE: Mapping[str, Shape] = {}
"""No shapes of other leaves: only names are read."""


def words_of(segment: str) -> list[str]:
    """Lower-case words of a path segment: `LayerNorm_0` -> layer, norm (and layernorm)."""
    parts = _split(segment)
    return [*parts, segment.strip("_0123456789").lower()]


def _split(segment: str) -> list[str]:
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", segment)
    return [part.lower() for part in re.split(r"[^A-Za-z]+", separated) if part]


def _unwrapped(path: str) -> list[str]:
    """The segments of a path up to its last name that is not a wrapper's."""
    segments = path.split("/")
    while segments and (segments[-1] in known.WRAPPERS or not _split(segments[-1])):
        segments.pop()
    return segments


def names_of(path: str) -> list[str]:
    """The segments of a path that are names: no indices, and no wrapper below the last name."""
    return [segment for segment in _unwrapped(path) if _split(segment)]


def beside(path: str, name: str, level: int = 1) -> str:
    """The path with another last name, or for `level=2` another name above it."""
    segments, position = path.split("/"), max(len(_unwrapped(path)) - level, 0)
    return "/".join([*segments[:position], name, *segments[position + 1 :]])


def bias_of(path: str, shapes: Mapping[str, Shape]) -> Shape | None:
    """The shape of the bias beside a weight."""
    return shapes.get(beside(path, "bias"), shapes.get(beside(path, "b")))


def is_norm_or_bias(path: str, shapes: Mapping[str, Shape] = ALONE) -> bool:
    """Whether a leaf is certainly a norm's gain, a scale or a bias, by its names."""
    *above, leaf = names_of(path) or [""]
    # The b of a low-rank adapter and the B of a state space model have no weight beside them.
    if leaf.rstrip("_0123456789") == "b" and len(shapes.get(path, ())) > 1:
        return any(beside(path, weight) in shapes for weight in known.WEIGHTS)
    if leaf in ("w", "weight", "g") and above and _is_norm(above[-1]):
        return bias_of(path, shapes) in (None, shapes.get(path))
    words = _split(leaf)
    of_vector = bool(words) and (words[-1] in known.VECTORS or words_of(leaf)[-1] in known.VECTORS)
    return of_vector or leaf.rstrip("_0123456789") in known.BIASES


def _is_norm(segment: str) -> bool:
    """Whether this names a norm: `layer_norm`, `ln_f`; not `norm_proj`, `ada_norm`."""
    words = _split(segment)
    while len(words) > 1 and words[-1] in known.NORM_TAGS:
        words.pop()
    named = words[-1] in known.NORMS or words_of(segment)[-1] in known.NORMS
    return named and not known.OF_WEIGHTS & set(words)


def _is_token_embedding(segment: str) -> bool:
    words = set(_split(segment))
    return bool(words & known.EMBEDDINGS) and words <= known.EMBEDDINGS | known.TOKENS_AND_POSITIONS


def _is_attention(segment: str) -> bool:
    """Whether this names an attention: `self_attn`; not `attention_lm`."""
    return bool(_split(segment)) and _split(segment)[-1] in known.ATTENTIONS


def _is_head(segment: str, above: Sequence[str]) -> bool:
    """Whether this names an output head: `lm_head`; not `multi_head`, `attn/head`."""
    *others, last = _split(segment)
    doubtful = {"per", "each", "pre", "proj", "projection", "query", "key", "kv", "q", "k", "multi"}
    doubtful |= {"multihead", *known.ATTENTIONS}
    return last in known.HEADS and not doubtful & {*others} and not any(map(_is_attention, above))


def is_other_role(path: str, shapes: Mapping[str, Shape] = ALONE) -> bool:
    """Whether a leaf is certainly an embedding, tokens, a head, a gain, a scale or a bias."""
    *above, leaf = names_of(path) or [""]
    if is_norm_or_bias(path, shapes):
        return True
    if leaf and leaf not in known.WEIGHTS:
        words = _split(leaf)
        return words[-1] in known.TOKENS or _is_token_embedding(leaf) or _is_head(leaf, above)
    # Of several layers, as in head/0/weight, not all are the head.
    if not above or f"/{above[-1]}/{leaf}" not in f"/{path}":
        return False
    *above, parent = above
    if parent in ("wte", "wpe"):
        return True
    # Convolutions and dense layers that are called embeddings have a kernel or a bias.
    of_tokens = leaf == "weight" and "input" not in _split(parent) and _is_token_embedding(parent)
    return (of_tokens and bias_of(path, shapes) is None) or _is_head(parent, above)


def role_words(path: str, shapes: Mapping[str, Shape] = ALONE) -> Iterator[str]:
    """The names above a weight that may name another role than a matrix's."""
    above = names_of(path)[:-1]
    for position, segment in enumerate(above, start=1):
        is_parent = position == len(above)
        words, text = set(words_of(segment)), known.HARMLESS.sub("", "".join(_split(segment)))
        if text == "prenorm" and not is_parent:  # PreNorm_0 wraps another layer
            continue
        may_be_other = (
            bool(words & known.WORDS)
            or any(stem in text for stem in known.STEMS)
            or any(word.endswith("emb") for word in words)
            or (bool(words & known.OUTPUTS) and not _is_inner(path, segment, shapes))
            or (
                _split(segment)[-1] in known.GATES
                and not (is_parent and _is_of_gated_mlp(path, shapes))
            )
            or (is_parent and bool(words & known.PARENTS))
        )
        if may_be_other:
            yield segment


def _is_inner(path: str, output: str, shapes: Mapping[str, Shape]) -> bool:
    """Whether an output is that of a numbered layer or an attention, not of the model."""
    before = path.split("/")
    before = before[: before.index(output)]
    for segment, below in itertools.pairwise([*before, ""]):
        words = _split(segment)
        of_layer = bool(words) and (words[-1] in known.LAYERS or words[-1].endswith("block"))
        if _is_attention(segment) or (of_layer and (segment[-1].isdigit() or below.isdigit())):
            return True
    return any(
        all(beside(path, name, level=2) in shapes for name in names)
        for names in known.QUERY_KEY_VALUE
    )


def _is_of_gated_mlp(path: str, shapes: Mapping[str, Shape]) -> bool:
    """Whether an up or down projection beside a weight has its shape; beside routers none has."""
    shape = shapes.get(path, ())
    near = [shapes.get(beside(path, name, level=2)) for name in known.BESIDE_GATES]
    return shape in near or shape[::-1] in near


def sides(shape: Shape) -> int:
    """The number of axes longer than one."""
    return sum(size > 1 for size in shape)


@dataclasses.dataclass(frozen=True, repr=False)
class DefaultAxes(DefaultRule):
    """The default rule, which covers leaves whose names are certain.

    In this order: a leaf with fewer than two axes longer than one is not a matrix. Neither is an
    embedding, a token, an output head, a norm's gain, a scale or a bias. A leaf of two axes whose
    name is in `weights` is a matrix with the axes `matrix`, unless a name above it may name another
    role, or its bias has its shape. Everything else is not covered.
    """

    text: str
    order: str
    weights: frozenset[str]
    matrix: MatrixAxes
    shapes: Mapping[str, Shape] = dataclasses.field(default_factory=dict, compare=False)

    def of_tree(self, shapes: Mapping[str, Shape]) -> "DefaultAxes":
        return dataclasses.replace(self, shapes=shapes)

    def __call__(self, path: str, shape: Shape) -> MatrixAxes | Uncovered | None:
        if sides(shape) < 2 or is_other_role(path, self.shapes):
            return None
        return self.matrix if self.why_not(path, shape) is None else UNCOVERED

    def why_not(self, path: str, shape: Shape) -> str | None:
        """Why a leaf without another role is not certainly a matrix; None if it is one."""
        names = names_of(path)
        if not names:
            return "its path has no name, and roles are read from names"
        if names[-1] not in known.WEIGHTS:
            return f"{names[-1]} is not the name of a weight in a common library"
        if len(shape) != 2:
            return f"a shape of {len(shape)} axes does not say which are rows"
        if names[-1] not in self.weights:
            libraries = (known.IN_OUT_WEIGHTS | known.OUT_IN_WEIGHTS)[names[-1]]
            stored = "(in, out)" if names[-1] in known.IN_OUT_WEIGHTS else "(out, in)"
            return f"{names[-1]} is {stored} in {libraries}, which *{self.text} does not cover"
        if names[1:] and names[-2] in known.EITHER_ORDER:
            return f"{names[-2]} is (in, out) in some libraries, and (out, in) in others"
        for word in role_words(path, self.shapes):
            return f"{word} may say that it is not a matrix"
        if bias_of(path, self.shapes) == shape:
            return "a bias of the same shape suggests that it belongs to a norm"
        return None


flax_axes = DefaultAxes(
    "FLAX_RULES", "(in, out)", frozenset(known.IN_OUT_WEIGHTS), MatrixAxes(output=1, input=0)
)
equinox_axes = DefaultAxes(
    "EQUINOX_RULES", "(out, in)", frozenset(known.OUT_IN_WEIGHTS), MatrixAxes(output=0, input=1)
)
