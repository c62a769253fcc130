"""The blocks of Adam-mini for the usual names in flax models."""

import dataclasses
from typing import Literal

from multinorm_optax._baselines.adam_mini.blocks import Blocks
from multinorm_optax._matrices.axes import Shape, check_axes, describe, is_integer
from multinorm_optax._matrices.paths import UNCOVERED, DefaultRule, Rule, Uncovered
from multinorm_optax._matrices.roles import is_norm_or_bias, names_of, words_of
from multinorm_optax._matrices.vocabulary import EITHER_ORDER, EMBEDDINGS, NORMS

_NEURON = Blocks(whole=-2)
_QUERY_KEY = {"query", "key", "q", "k", "q_proj", "k_proj", "wq", "wk", "query_proj", "key_proj"}
_VALUE = {"value", "v", "v_proj", "wv", "value_proj"}
_OUT = {"out", "o", "o_proj", "wo", "out_proj", "output"}
_FUSED = {"qkv", "kv", "qk", "wqkv", "wkv", "query_key_value", "key_value", "in_proj", "c_attn"}
_NAMED_OTHERWISE = EMBEDDINGS | NORMS
_PARTS = dict.fromkeys(("attention", "attn", "selfattention", "selfattn"), "attention")
_PARTS |= dict.fromkeys(("mlp", "ffn", "feedforward", "ff", "moe", "expert", "experts"), "mlp")


def flax_blocks(
    head_dim: int | None,
    *,
    value: Literal["neuron", "whole"] = "neuron",
    layer_axis: int | None = None,
) -> tuple[Rule, ...]:
    """Rules for the argument `blocks` of `adam_mini`, for a flax model with the usual names.

    They follow Zhang et al., arXiv 2406.16793, Algorithm 3, and version 1.1 of their code. With
    `head_dim`, kernels of query, key and value (also `q_proj`, `q`, `wq` and the like) are (d,
    heads * head_dim), and all others (in, out). With None they are those of `DenseGeneral`, (d,
    heads, head_dim), and those of out (heads, head_dim, d).

    | leaf | blocks |
    |---|---|
    | query, key: `kernel` | one per head |
    | value, out, everything else with a 2-D `kernel` | one per output neuron |
    | `embedding` | one per token |
    | gain of a norm | one per vector |
    | `bias` | one per entry |

    Layers that are stacked into one array (`nn.scan`, `nnx.vmap`) need `layer_axis`: leaves with
    one more axis than these have separate blocks for each index along it. With `layer_axis` the
    same holds for experts, the first axis of the kernels in the MLP of one layer.

    Put your own rules in front for what these do not cover: kernels of other names inside an
    attention, stacked kernels of other names outside an MLP (a convolution looks like one), kernels
    that are named like an embedding or a norm, `c_fc`, `c_proj` and `q_attn`, which libraries store
    in either order, and leaves of other names.

    Args:
      head_dim: the width of one attention head, or None if heads have their own axis.
      value: "neuron" for one block per output neuron of the value kernels, "whole" for one per
        kernel, which the authors recommend for runs of less than ten to twenty thousand steps.
      layer_axis: the axis of the layers in every stacked leaf: 0 for `nnx.vmap`, and for `nn.scan`
        the value in `variable_axes`; None if layers are not stacked.

    Raises:
      ValueError: for another `value`; when leaves are looked up, for a fused kernel (`qkv`), for
        a kernel whose layout contradicts `head_dim`, for a stack without `layer_axis`, and with
        `layer_axis` for an attention's kernel of three axes that may be a stack or not.
      TypeError: if `layer_axis` is not an integer.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from multinorm_optax import flax_blocks, scale_by_adam_mini
      >>> params = {"attn": {"query": {"kernel": jnp.ones((32, 4, 8)), "bias": jnp.ones((4, 8))}}}
      >>> tx = scale_by_adam_mini(blocks=flax_blocks(head_dim=None))
      >>> jax.tree.map(jnp.shape, tx.init(params).nu)
      {'attn': {'query': {'bias': (4, 8), 'kernel': (1, 4, 1)}}}
      >>> stack = {"mlp": {"up": {"kernel": jnp.ones((32, 12, 64))}}}     # (d, layers, hidden)
      >>> tx = scale_by_adam_mini(blocks=flax_blocks(head_dim=None, layer_axis=1))
      >>> jax.tree.map(jnp.shape, tx.init(stack).nu)
      {'mlp': {'up': {'kernel': (1, 12, 64)}}}
    """
    if value not in ("neuron", "whole"):
        raise ValueError(f'value is {value!r}; write "neuron" or "whole"')
    if layer_axis is not None and not is_integer(layer_axis):
        raise TypeError(f"layer_axis must be an integer or None, got {layer_axis!r}")
    return ((r"(?s).*", _FlaxBlocks(head_dim, value, layer_axis)),)


@dataclasses.dataclass(frozen=True)
class _FlaxBlocks(DefaultRule):
    head_dim: int | None
    value: str
    layer_axis: int | None

    @property
    def text(self) -> str:  # type: ignore[override]
        other = "" if self.value == "neuron" else f", value={self.value!r}"
        other += "" if self.layer_axis is None else f", layer_axis={self.layer_axis}"
        return f"flax_blocks({self.head_dim}{other})"

    def __call__(self, path: str, shape: Shape) -> Blocks | Uncovered:
        found = self._blocks_or_reason(path, shape)
        return found if isinstance(found, Blocks) else UNCOVERED

    def why_not(self, path: str, shape: Shape) -> str | None:
        found = self._blocks_or_reason(path, shape)
        return found if isinstance(found, str) else None

    def likely(self, path: str, shape: Shape) -> str | None:
        """Parts with equal numbers of heads for a fused kernel; a block per head for others."""
        words = set(words_of((names_of(path) or [""])[-2:][0]))
        if words & _QUERY_KEY and shape[-1:] == (self.head_dim,) and len(shape) == 3:
            return "Blocks(whole=(-3, -1))"
        if not words & _FUSED or self.head_dim is None or len(shape) < 2:
            return None
        heads, neuron = f"Blocks(whole=-2, groups={{-1: {self.head_dim}}})", "Blocks(whole=-2)"
        parts = [heads, heads, neuron]  # of query, key and value
        if words & {"kv", "wkv", "key_value"}:
            parts = parts[1:]
        if words & {"qk"}:
            parts = parts[:2]
        size, rest = divmod(shape[-1], len(parts))
        if rest or size % self.head_dim:
            return None
        return f"Fused(-1, [{', '.join(f'({size}, {part})' for part in parts)}])"

    def _blocks_or_reason(self, path: str, shape: Shape) -> Blocks | str | None:
        """The blocks of a leaf, or why it is not covered; None if no rule knows its name."""
        *above, leaf = names_of(path) or [""]
        name = words_of(above[-1])[-1] if above else ""
        if leaf in ("bias", "beta"):
            return Blocks()
        if leaf == "embedding":
            return self._in_stack(path, shape, 2, Blocks(whole=-1))
        if leaf in ("scale", "gain", "weight") and is_norm_or_bias(path):
            return self._in_stack(path, shape, 1, Blocks(whole=-1) if shape else Blocks())
        if leaf != "kernel" or len(shape) < 2:
            return None
        if _FUSED.intersection(words_of(name)):
            return (
                "flax_blocks does not know the parts of a fused kernel; put a rule in front, for"
                " query, key and value Fused(-1, [(heads * head_dim, ...), (kv_heads * head_dim,"
                " ...), (kv_heads * head_dim, ...)])"
            )
        if above and above[-1] in EITHER_ORDER:
            return f"{name} is (in, out) in some libraries, and (out, in) in others"
        if _NAMED_OTHERWISE.intersection(words_of(name)):
            return None
        parts = (_PARTS.get(word) for segment in reversed(above) for word in words_of(segment))
        part = next(filter(None, parts), None)  # of the innermost segment that has one
        apart = self.head_dim is None
        if part == "attention" and name in _OUT:
            heads = apart and len(shape) > 2
            blocks = Blocks(whole=(-3, -2)) if heads else _NEURON
            return self._stack_or_heads(shape) or self._in_stack(path, shape, 2 + heads, blocks)
        if part != "mlp" and name in _QUERY_KEY | _VALUE:
            reason = self._other_layout(shape) or self._stack_or_heads(shape)
            neuron, *others = range(-2 - apart, 0)
            if name in _VALUE:
                blocks = Blocks((neuron, *others) if self.value == "whole" else neuron)
            else:
                width = self.head_dim
                blocks = Blocks((-3, -1)) if width is None else Blocks(-2, {-1: width})
            return reason or self._in_stack(path, shape, 2 + apart, blocks)
        if part == "mlp":
            return self._in_stack(path, shape, 2, _NEURON, experts=True)
        return _NEURON if part is None and len(shape) == 2 else None

    def _stack_or_heads(self, shape: Shape) -> str | None:
        """The reason if three axes may be a stack, or one kernel with an axis of heads."""
        if self.layer_axis is None or len(shape) != 3:
            return None
        first = 1 if self.layer_axis % 3 == 0 else 0  # of the axes in one layer
        if self.head_dim not in (None, shape[first]):
            return None
        return (
            f"with layer_axis={self.layer_axis} this may be a stack of kernels of two axes, or one"
            " kernel whose heads have an axis of their own; put a rule in front, or if all are such"
            " stacks write flax_blocks(head_dim) with the width of one head"
        )

    def _other_layout(self, shape: Shape) -> str | None:
        """The reason if the layout of a query, key or value kernel contradicts `head_dim`."""
        if self.head_dim is None and len(shape) == 2:
            return (
                "a kernel (d, heads * head_dim) does not show its heads; write"
                " flax_blocks(head_dim) with the width of one head"
            )
        if self.head_dim is not None and len(shape) > 2 and shape[-1] == self.head_dim:
            return (
                f"with head_dim={self.head_dim} this is a stack of kernels of one head, or a kernel"
                " whose heads have an axis of their own; for the latter write flax_blocks(None),"
                " for the former put a rule in front, Blocks(whole=(-2, -1)) for query and key or"
                " Blocks(whole=-2) for value"
            )
        return None

    def _in_stack(
        self, path: str, shape: Shape, axes: int, blocks: Blocks, experts: bool = False
    ) -> Blocks | str:
        """The blocks of a leaf with `axes` axes in one layer, or why it is not covered."""
        if len(shape) <= axes:
            return blocks
        # An axis of experts or of layers: the blocks are the same only for layer_axis=0.
        doubtful = len(shape) == axes + 1 and self.layer_axis != 0 and "expert" in path.lower()
        if self.layer_axis is None or doubtful or len(shape) > axes + 1 + experts:
            return (
                f"in one layer this leaf has {axes} axes; if layers are stacked, write"
                " flax_blocks(..., layer_axis=...) with the position of their axis; otherwise put"
                " its own rule in front"
            )
        where = f"{describe(path, shape)}: layer_axis={self.layer_axis}"
        check_axes((self.layer_axis,), shape, where)
        layer = self.layer_axis % len(shape)
        places = [axis for axis in range(len(shape)) if axis != layer]  # of the axes in one layer
        return Blocks(
            [places[axis] for axis in blocks.whole],
            [(places[axis], length) for axis, length in blocks.groups],
        )
