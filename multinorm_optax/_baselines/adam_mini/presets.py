"""The blocks of Adam-mini for flax's usual names."""

import re
from typing import Literal

from multinorm_optax._baselines.adam_mini.blocks import Blocks
from multinorm_optax._matrices.axes import Shape, describe
from multinorm_optax._matrices.paths import UNCOVERED, Rule, Uncovered
from multinorm_optax._matrices.roles import EMBEDDING_WORDS, is_norm_or_bias, words_of

_NEURON = Blocks(whole=-2)
_QUERY_KEY = {"query", "key", "q", "k", "q_proj", "k_proj", "wq", "wk", "query_proj", "key_proj"}
_VALUE = {"value", "v", "v_proj", "wv", "value_proj"}
_OUT = {"out", "o", "o_proj", "wo", "out_proj", "output", "c_proj"}
_FUSED = {"qkv", "kv", "qk", "wqkv", "wkv", "query_key_value", "key_value", "in_proj", "c_attn"}
_PARTS = dict.fromkeys(("attention", "attn", "selfattention", "selfattn"), "attention")
_PARTS |= dict.fromkeys(("mlp", "ffn", "feedforward", "ff", "moe", "expert", "experts"), "mlp")


def flax_blocks(
    head_dim: int | None, *, value: Literal["neuron", "whole"] = "neuron"
) -> tuple[Rule, ...]:
    """Rules for the argument `blocks` of `adam_mini`, for a flax model with the usual names.

    They follow Zhang et al., arXiv 2406.16793, Algorithm 3, and version 1.1 of their program.
    With `head_dim`, kernels of query, key and value (also `q_proj`, `q`, `wq` and the like) are
    (..., d, heads * head_dim), and all others (..., in, out). With None they are those of
    `DenseGeneral`, (..., d, heads, head_dim), and those of out (..., heads, head_dim, d). A shape
    does not tell which: a stack of the former looks like one of the latter. Leading axes are stacks
    (layers, experts) and stay out of every mean.

    | leaf | blocks |
    |---|---|
    | query, key: `kernel` | one per head |
    | value, out, everything else with a 2-D `kernel`, MLP also stacked | one per output neuron |
    | `embedding` | one per token |
    | gain of a norm | one per vector |
    | `bias` | one per entry |

    Put your own rules in front for what these do not cover: kernels of other names inside an
    attention, stacked kernels of other names outside an MLP (a convolution looks like one), kernels
    named as an embedding or a norm, and leaves of other names.

    Args:
      head_dim: the width of one attention head, or None if heads have an axis of their own.
      value: "neuron" for one block per output neuron of the value kernels, "whole" for one per
        kernel, which the authors advise for runs of less than ten to twenty thousand steps.

    Raises:
      ValueError: for another `value`; when a leaf is looked up, for a fused kernel (`qkv`) and for
        a kernel whose layout contradicts `head_dim`, with the rule to write.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from multinorm_optax import flax_blocks, scale_by_adam_mini
      >>> params = {"attn": {"query": {"kernel": jnp.ones((32, 4, 8)), "bias": jnp.ones((4, 8))}}}
      >>> tx = scale_by_adam_mini(blocks=flax_blocks(head_dim=None))
      >>> jax.tree.map(jnp.shape, tx.init(params).nu)
      {'attn': {'query': {'bias': (4, 8), 'kernel': (1, 4, 1)}}}
    """
    if value not in ("neuron", "whole"):
        raise ValueError(f'value is {value!r}; write "neuron" or "whole"')
    queries = Blocks((-3, -1)) if head_dim is None else Blocks(-2, {-1: head_dim})
    whole = (-3, -2, -1) if head_dim is None else (-2, -1)
    values = Blocks(whole if value == "whole" else whole[0])

    def usual(path: str, shape: Shape) -> Blocks | Uncovered:
        *above, leaf = path.split("/")
        name = words_of(above[-1])[-1] if above else ""
        if leaf in ("bias", "beta"):
            return Blocks()
        if leaf == "embedding" or (leaf in ("scale", "gain", "weight") and is_norm_or_bias(path)):
            return Blocks(whole=-1) if shape else Blocks()
        if leaf != "kernel" or len(shape) < 2:
            return UNCOVERED
        if _FUSED.intersection(words_of(name)):
            raise ValueError(
                f"{describe(path, shape)}: flax_blocks does not know the parts of a fused kernel;"
                f" put a rule in front, such as ({re.escape(path)!r}, Fused(-1, [(heads *"
                " head_dim, Blocks(whole=-2, groups={-1: head_dim})), (kv_heads * head_dim,"
                " Blocks(whole=-2, groups={-1: head_dim})), (kv_heads * head_dim, Blocks(whole=-2))"
                "])) for a kernel (..., d, (heads + 2 kv_heads) * head_dim)"
            )
        if is_norm_or_bias(path) or EMBEDDING_WORDS.intersection(words_of(name)):
            return UNCOVERED
        parts = (_PARTS.get(word) for segment in reversed(above) for word in words_of(segment))
        part = next(filter(None, parts), None)  # of the innermost segment that has one
        if part == "attention" and name in _OUT:
            return Blocks(whole=(-3, -2)) if head_dim is None and len(shape) > 2 else _NEURON
        if part != "mlp" and name in _QUERY_KEY | _VALUE:
            _check_layout(path, shape, head_dim)
            return values if name in _VALUE else queries
        plain = part == "mlp" or (part is None and len(shape) == 2)
        return _NEURON if plain else UNCOVERED

    return ((r".*", usual),)


def _check_layout(path: str, shape: Shape, head_dim: int | None) -> None:
    """Raises if the layout of a query, key or value kernel contradicts `head_dim`."""
    if head_dim is None and len(shape) == 2:
        raise ValueError(
            f"{describe(path, shape)}: a kernel (d, heads * head_dim) does not tell its heads;"
            " write flax_blocks(head_dim) with the width of one head"
        )
    if head_dim is not None and len(shape) > 2 and shape[-1] == head_dim:
        raise ValueError(
            f"{describe(path, shape)}: with head_dim={head_dim} this is a stack of kernels of one"
            " head, or a kernel whose heads have an axis of their own; for the latter write"
            f" flax_blocks(None), for the former put a rule in front, ({re.escape(path)!r},"
            " Blocks(whole=(-2, -1))) for query and key or Blocks(whole=-2) for value"
        )
