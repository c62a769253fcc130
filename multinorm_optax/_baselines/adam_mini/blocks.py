"""Blocks: the entries of a weight that share one second moment in Adam-mini."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import optax

from multinorm_optax._matrices.axes import (
    MatrixAxes,
    Shape,
    as_matrix_axes,
    check_axes,
    describe,
    is_integer,
)
from multinorm_optax._matrices.fused import Fused
from multinorm_optax._matrices.paths import FoundSpec, Rule, SpecKind, resolve_specs
from multinorm_optax._matrices.roles import is_norm_or_bias, names_of, sides
from multinorm_optax._matrices.suggestions import likely_axes, missing_text
from multinorm_optax._matrices.vocabulary import OUT_IN_WEIGHTS


@dataclasses.dataclass(frozen=True, init=False)
class Blocks:
    """The blocks of a weight: which of its entries share one second moment (arXiv 2406.16793).

    Along all other axes (layers, output neurons) each index has its own. Negative axes count from
    the end, so one spec fits a weight with and without leading axes of layers or experts.
    `Blocks()` makes every entry its own block: full Adam.

    Attributes:
      whole: axes along which all entries share a second moment; an integer stands for one axis.
      groups: axes along which runs of consecutive entries share one, as a mapping or as pairs
        (axis, length of a run): `{-1: head_dim}` for a kernel (d, heads * head_dim).

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
        single = not isinstance(whole, Iterable) or getattr(whole, "ndim", None) == 0
        axes: tuple[Any, ...] = (whole,) if single else tuple(whole)  # type: ignore[arg-type]
        given: Any = groups.items() if isinstance(groups, Mapping) else groups
        runs = [
            tuple(run) if isinstance(run, Iterable) else ()
            for run in (given if isinstance(given, Iterable) else [given])
        ]
        numbers = (*axes, *itertools.chain(*runs))
        if not all(len(run) == 2 for run in runs) or not all(map(is_integer, numbers)):
            raise TypeError(
                "axes and lengths of Blocks must be integers, those of groups {axis: length} or"
                f" [(axis, length), ...], got {whole!r}, {groups!r}"
            )
        if any(length < 1 for _, length in runs):
            raise ValueError(f"lengths in Blocks.groups must be positive, got {groups!r}")
        object.__setattr__(self, "whole", axes)
        object.__setattr__(self, "groups", tuple(sorted(runs)))

    def resolve(self, shape: Shape, path: str = "") -> "Blocks":
        """Return these blocks with non-negative axes; raise if they do not fit the shape."""
        where = f"{describe(path, shape)}: {self}"
        once = (
            "along an axis all entries share a second moment (whole), or runs of them do (groups),"
            " or none"
        )
        check_axes((*self.whole, *(axis for axis, _ in self.groups)), shape, where, once)
        for axis, length in self.groups:
            if shape[axis] % length:
                raise ValueError(
                    f"{where} makes groups of {length} along axis {axis}, whose length"
                    f" {shape[axis]} is not a multiple of it; correct it (to the width of one head)"
                )
        return Blocks(
            [axis % len(shape) for axis in self.whole],
            [(axis % len(shape), length) for axis, length in self.groups],
        )

    def moment_shape(self, shape: Shape) -> Shape:
        """The shape of the second moment of a weight of this shape, with one number per block."""
        blocks = self.resolve(shape)
        lengths = dict(blocks.groups)
        return tuple(
            1 if axis in blocks.whole else size // lengths.get(axis, 1)
            for axis, size in enumerate(shape)
        )


BlocksSpec: TypeAlias = Blocks | MatrixAxes | optax.contrib.MuonDimensionNumbers | Fused
BlocksLike: TypeAlias = (
    BlocksSpec | Sequence[Rule] | optax.Params | Callable[[optax.Params], optax.Params]
)


def _resolve(spec: BlocksSpec | None, shape: Shape, path: str) -> Blocks | Fused:
    if spec is None:
        raise ValueError(
            f"{describe(path, shape)}: None does not specify blocks; write Blocks() for full Adam,"
            " or Blocks(whole=...) with the axes inside a block"
        )
    if isinstance(spec, Fused):
        return spec.resolve(shape, path, _resolve)
    if isinstance(spec, MatrixAxes | optax.contrib.MuonDimensionNumbers):
        return Blocks(whole=as_matrix_axes(spec).resolve(shape, path).input)
    if not isinstance(spec, Blocks):
        raise TypeError(
            "expected Blocks, MatrixAxes, optax.contrib.MuonDimensionNumbers or, for a whole"
            f" weight, Fused, got {spec!r}"
        )
    return spec.resolve(shape, path)


def _likely(leaf: FoundSpec) -> str:
    """Blocks per output neuron if a leaf looks like a weight, per token for an embedding."""
    names = names_of(leaf.path)
    out_first = bool(names) and names[-1] in OUT_IN_WEIGHTS
    if axes := likely_axes(leaf.path, leaf.shape, out_first):
        (whole,) = axes.input if len(axes.input) == 1 else (axes.input,)
        return f"Blocks(whole={whole})"
    tokens = sides(leaf.shape) > 1 and "emb" in leaf.path.lower()
    return "Blocks(whole=-1)" if tokens and not is_norm_or_bias(leaf.path) else "Blocks()"


_BLOCKS = SpecKind(
    argument="blocks",
    name="Blocks",
    is_spec=lambda node: node is None or isinstance(node, BlocksSpec),
    resolve=_resolve,
    missing=functools.partial(
        missing_text, "blocks", "no rule says which entries share a second moment", _likely
    ),
)


def resolve_blocks(blocks: BlocksLike, tree: Any) -> list[tuple[str, Blocks | Fused]]:
    """The path and the resolved blocks of every leaf of a tree."""
    return resolve_specs(blocks, tree, _BLOCKS)
