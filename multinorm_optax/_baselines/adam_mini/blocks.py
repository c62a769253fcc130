"""Which entries of a weight share one second moment: the blocks of Adam-mini.

Zhang et al., arXiv 2406.16793, Section 2.3: along the axes inside a block one number serves all
entries; along every other axis (layers, experts, output neurons, tokens) each index has its own. A
shape cannot tell the heads of an attention, nor a stack of layers, so blocks are said by path.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import optax

from multinorm_optax._matrices.axes import MatrixAxes, Shape, as_matrix_axes, describe
from multinorm_optax._matrices.paths import Rule, SpecKind, resolve_specs
from multinorm_optax._optimizers.arguments import is_integer


@dataclasses.dataclass(frozen=True, init=False)
class Blocks:
    """The blocks of a weight: which of its entries share one second moment.

    Negative axes count from the end, so that one description serves a weight with and without
    leading axes of layers or experts. `Blocks()` has blocks of one entry: full Adam.

    Attributes:
      whole: axes along which all entries share; a single one may be given as an integer.
      groups: axes along which consecutive runs of so many entries share, as a mapping or as pairs
        (axis, length): of a kernel (d, heads * head_dim) `{-1: head_dim}`.

    Raises:
      TypeError: if an axis or a length is not an integer.
      ValueError: if a length is not positive.

    Example:
      >>> from multinorm_optax import Blocks
      >>> query = Blocks(whole=-2, groups={-1: 64})        # one block per head of width 64
      >>> query.moment_shape((24, 512, 1024))              # 24 layers, (d, heads * head_dim)
      (24, 1, 16)
      >>> Blocks(whole=(-3, -1)).moment_shape((24, 512, 16, 64))     # the same, (d, heads, width)
      (24, 1, 16, 1)
    """

    whole: tuple[int, ...]
    groups: tuple[tuple[int, int], ...]

    def __init__(
        self,
        whole: int | Sequence[int] = (),
        groups: Mapping[int, int] | Sequence[tuple[int, int]] = (),
    ):
        axes = tuple(whole) if isinstance(whole, Sequence) else (whole,)
        pairs = groups.items() if isinstance(groups, Mapping) else groups
        runs = tuple(sorted((axis, length) for axis, length in pairs))
        if not all(map(is_integer, (*axes, *(number for run in runs for number in run)))):
            raise TypeError(f"axes and lengths of Blocks are integers, got {whole!r}, {groups!r}")
        if any(length < 1 for _, length in runs):
            raise ValueError(f"the lengths in Blocks.groups are positive, got {groups!r}")
        object.__setattr__(self, "whole", axes)
        object.__setattr__(self, "groups", runs)

    def resolve(self, shape: Shape, path: str = "") -> "Blocks":
        """These blocks with non-negative axes, or an error if they do not fit the shape."""
        ndim, named = len(shape), (*self.whole, *(axis for axis, _ in self.groups))
        where = f"{describe(path, shape)}: {self}"
        if not all(-ndim <= axis < ndim for axis in named):
            raise ValueError(
                f"{where} names an axis that the weight does not have; correct the rule for this"
                " path"
            )
        if len({axis % ndim for axis in named}) != len(named):
            raise ValueError(
                f"{where} names an axis twice; along an axis all entries share a second moment"
                " (whole), or runs of them do (groups), or none"
            )
        for axis, length in self.groups:
            if shape[axis] % length:
                raise ValueError(
                    f"{where} makes groups of {length} along axis {axis}, whose length"
                    f" {shape[axis]} is no multiple of it; correct the group length (of attention"
                    " heads it is the width of one head)"
                )
        return Blocks(
            tuple(axis % ndim for axis in self.whole),
            tuple((axis % ndim, length) for axis, length in self.groups),
        )

    def moment_shape(self, shape: Shape) -> Shape:
        """The shape of the second moment of a weight of this shape: one number per block."""
        blocks = self.resolve(shape)
        lengths = dict(blocks.groups)
        return tuple(
            1 if axis in blocks.whole else size // lengths.get(axis, 1)
            for axis, size in enumerate(shape)
        )


@dataclasses.dataclass(frozen=True, init=False)
class FusedBlocks:
    """The blocks of several weights stored as one, such as fused query, key and value kernels.

    Attributes:
      axis: along which the parts lie one after another.
      parts: for each part its size along this axis and its own blocks (anything that is one spec
        in `resolve_blocks`, except `FusedBlocks`).

    Raises:
      TypeError: if the axis or a size is not an integer, or a part's blocks are none.

    Example:
      >>> from multinorm_optax import Blocks, FusedBlocks
      >>> heads, kv_heads, width = 16, 4, 64
      >>> per_head, per_neuron = Blocks(whole=-2, groups={-1: width}), Blocks(whole=-2)
      >>> qkv = FusedBlocks(-1, [(heads * width, per_head), (kv_heads * width, per_head),
      ...                        (kv_heads * width, per_neuron)])     # (d, (16 + 4 + 4) * 64)
      >>> qkv.moment_shapes((512, 1536))
      ((1, 16), (1, 4), (1, 256))
      >>> per_head, per_neuron = Blocks(whole=(-4, -1)), Blocks(whole=-4)
      >>> qkv = FusedBlocks(-3, [(1, per_head), (1, per_head), (1, per_neuron)])
      >>> qkv.moment_shapes((512, 3, 16, 64))             # (d, 3, heads, head_dim)
      ((1, 1, 16, 1), (1, 1, 16, 1), (1, 1, 16, 64))
    """

    axis: int
    parts: tuple[tuple[int, Blocks], ...]

    def __init__(self, axis: int, parts: Sequence[tuple[int, Any]]):
        if not all(map(is_integer, (axis, *(size for size, _ in parts)))):
            raise TypeError(f"axis and sizes of FusedBlocks are integers, got {axis!r}, {parts!r}")
        object.__setattr__(self, "axis", axis)
        object.__setattr__(self, "parts", tuple((size, _as_blocks(spec)) for size, spec in parts))

    def resolve(self, shape: Shape, path: str = "") -> "FusedBlocks":
        """These blocks with non-negative axes, or an error if they do not fit the shape."""
        ndim = len(shape)
        if not -ndim <= self.axis < ndim:
            raise ValueError(
                f"{describe(path, shape)}: {self} lies along an axis that the weight does not have;"
                " correct the rule for this path"
            )
        axis, sizes = self.axis % ndim, [size for size, _ in self.parts]
        if min(sizes, default=0) < 1 or sum(sizes) != shape[axis]:
            raise ValueError(
                f"{describe(path, shape)}: the parts of FusedBlocks have sizes {sizes} along axis"
                f" {self.axis}; correct them to positive numbers whose sum is {shape[axis]}"
            )
        return FusedBlocks(
            axis,
            [
                (size, blocks.resolve((*shape[:axis], size, *shape[axis + 1 :]), path))
                for size, blocks in self.parts
            ],
        )

    @property
    def whole(self) -> tuple[int, ...]:
        """The axes along which the entries of each part share, whatever the part; if resolved."""
        common = set.intersection(*(set(blocks.whole) for _, blocks in self.parts)) - {self.axis}
        return tuple(sorted(common))

    def moment_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """The shape of each part's second moment, of a weight of this shape."""
        fused = self.resolve(shape)
        before, after = shape[: fused.axis], shape[fused.axis + 1 :]
        return tuple(blocks.moment_shape((*before, n, *after)) for n, blocks in fused.parts)


BlocksSpec: TypeAlias = Blocks | FusedBlocks | MatrixAxes | optax.contrib.MuonDimensionNumbers
BlocksLike: TypeAlias = (
    BlocksSpec | Sequence[Rule] | optax.Params | Callable[[optax.Params], optax.Params]
)
"""One spec, rules, a tree (or prefix) of specs, or a function that makes one: `resolve_blocks`."""


def _as_blocks(spec: Any) -> Blocks:
    if isinstance(spec, Blocks):
        return spec
    if isinstance(spec, MatrixAxes | optax.contrib.MuonDimensionNumbers):
        return Blocks(whole=as_matrix_axes(spec).input)
    raise TypeError(
        "expected Blocks, MatrixAxes, optax.contrib.MuonDimensionNumbers or, for a weight that is"
        f" no part of another, FusedBlocks, got {spec!r}"
    )


def _resolve(spec: Any, shape: Shape, path: str) -> Blocks | FusedBlocks:
    if spec is None:
        raise ValueError(
            f"{describe(path, shape)}: None says nothing of blocks; write Blocks() for a second"
            " moment per entry (full Adam), or Blocks(whole=...) with the axes inside a block, all"
            " of them but a stack's for one step size per tensor"
        )
    if isinstance(spec, MatrixAxes | optax.contrib.MuonDimensionNumbers):
        spec = as_matrix_axes(spec).resolve(shape, path)
    return (spec if isinstance(spec, FusedBlocks) else _as_blocks(spec)).resolve(shape, path)


_BLOCKS = SpecKind(
    argument="blocks",
    name="Blocks",
    is_spec=lambda node: node is None or isinstance(node, BlocksSpec),
    resolve=_resolve,
    missing=lambda pattern: (
        "no rule says which entries share a second moment; add one to `blocks`, such as"
        f" ({pattern!r}, Blocks(whole=-2)) for a kernel (..., in, out) with a block per output"
        f" neuron, or ({pattern!r}, Blocks()) for full Adam, and end the rules with"
        " *flax_blocks(head_dim) to keep the usual blocks for everything else"
    ),
)


def resolve_blocks(blocks: BlocksLike, tree: Any) -> list[tuple[str, Blocks | FusedBlocks]]:
    """The path and the blocks of every leaf of a tree.

    Args:
      blocks: what says which entries share a second moment; there is no default:

        - one spec for every leaf: `Blocks`, `FusedBlocks`, or `MatrixAxes` or
          `optax.contrib.MuonDimensionNumbers`, which give a block to each output neuron (the mean
          over the input axes);
        - rules: a sequence of `(pattern, spec)`; the first whose regular expression matches the
          whole path (`layers/mlp/up/kernel`) decides. A spec may also be a callable of path and
          shape that returns one, or `UNCOVERED` to leave the leaf to the next rule.
          `flax_blocks` makes such rules;
        - a tree of specs with the structure of the parameters, or a prefix of it, or a callable
          that makes one from the tree.
      tree: parameters or updates, arrays or `jax.ShapeDtypeStruct`.

    Returns:
      For every leaf its path and its blocks, axes non-negative.

    Raises:
      ValueError: for leaves that nothing covers (all are listed), and blocks that do not fit.
      TypeError: for what is no spec.

    Example:
      >>> import jax.numpy as jnp
      >>> from multinorm_optax import Blocks, resolve_blocks
      >>> params = {"up": {"kernel": jnp.ones((8, 32, 96)), "bias": jnp.ones((8, 96))}}
      >>> rules = [(r".*/kernel", Blocks(whole=-2)), (r".*/bias", Blocks())]
      >>> for path, found in resolve_blocks(rules, params):
      ...     print(path, found)
      up/bias Blocks(whole=(), groups=())
      up/kernel Blocks(whole=(1,), groups=())
    """
    return resolve_specs(blocks, tree, _BLOCKS)
