"""The matrices in a parameter tree, by rules for paths: shapes do not tell rows from columns."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from multinorm_optax._matrices.axes import MatrixAxes, Shape, as_matrix_axes, describe
from multinorm_optax._matrices.fused import Fused, split_fused
from multinorm_optax._matrices.paths import (
    UNCOVERED,
    FoundSpec,
    Rule,
    SpecKind,
    Uncovered,
    check_dtype,
    is_rules,
    look_up,
    resolve_specs,
)
from multinorm_optax._matrices.roles import DefaultAxes, equinox_axes, flax_axes, names_of
from multinorm_optax._matrices.suggestions import (
    likely_axes,
    pasteable,
    spec_text,
    suggested_lines,
    uncovered_text,
)

Spec: TypeAlias = MatrixAxes | optax.contrib.MuonDimensionNumbers | Fused | None
AxesRule: TypeAlias = tuple[str, Spec | Callable[[str, Shape], Spec | Uncovered]]
AxesTree: TypeAlias = Any  # with the structure of the parameters, or a prefix of it
AxesLike: TypeAlias = Spec | Sequence[AxesRule] | Callable[[optax.Params], AxesTree] | AxesTree
"""The argument `axes` of every transformation, see `resolve_axes`; `None` is `FLAX_RULES`."""

MATRIX = "matrix"
OTHER = "adam"

FLAX_RULES: tuple[AxesRule, ...] = ((r"(?s).*", flax_axes),)
"""The default rules, for weights stored (in, out): `kernel` of flax and Keras, `w` of haiku.

Append them to your own rules: `axes=[("attn/qkv/kernel", ...), *FLAX_RULES]`.
"""

EQUINOX_RULES: tuple[AxesRule, ...] = ((r"(?s).*", equinox_axes),)
"""Default rules for weights stored (out, in): `weight` of equinox, haliax and PyTorch."""

WHOLE_LEAF_RULES: tuple[AxesRule, ...] = (
    (r"(?s).*", lambda _, shape: MatrixAxes(output=range(len(shape)), input=())),
)
"""Rules that make every leaf one column, for projections that act entry by entry."""


def missing_axes(axes: AxesLike, found: Sequence[FoundSpec]) -> str:
    """The error message about uncovered leaves, with rules that cover all of them."""
    defaults = _defaults(axes) if is_rules(axes) else []
    default = (defaults[-1] if defaults else flax_axes).of_tree(_shapes(found))

    def why(leaf: FoundSpec) -> str | None:
        if not is_rules(axes):
            return f"likely {_likely(False, found)(leaf)}"
        is_covered = default(leaf.path, leaf.shape) is not UNCOVERED
        return None if is_covered else default.why_not(leaf.path, leaf.shape)

    return uncovered_text(found, why, suggest_axes(axes, found))


def suggest_axes(axes: AxesLike, found: Sequence[FoundSpec]) -> str:
    """How to cover all leaves: rules to paste, unless `axes` is a tree."""
    axes = FLAX_RULES if axes is None else axes
    if not is_rules(axes):
        return (
            "`axes` is a tree without a spec for this leaf; add one at its place, or None for a"
            " leaf that is not a matrix"
        )
    defaults, rules, tail = _defaults(axes), axes, None
    default = defaults[-1] if defaults else flax_axes
    weights = {names[-1] for leaf in found if (names := names_of(leaf.path))}
    if not default.weights & weights and len(defaults) in (0, len(axes)):
        default = next(
            (each for each in (flax_axes, equinox_axes) if each.weights & weights), default
        )
    if default not in defaults:
        rules = [rule for rule in axes if not isinstance(rule[1], DefaultAxes)]
        names_of_weights = ", ".join(sorted(default.weights & weights))
        check = f"  # check: {default.order}: {names_of_weights}" if names_of_weights else ""
        tail = f"*{default.text},{check}"
        of_tree = default.of_tree(_shapes(found))
        found = [
            dataclasses.replace(leaf, spec=of_tree(leaf.path, leaf.shape))
            if leaf.spec is UNCOVERED
            else leaf
            for leaf in found
        ]
    lines = suggested_lines(found, _likely(default is equinox_axes, found))
    return (
        "no rule says which axes are rows and columns; check these, and pass them as `axes`:\n\n"
        + pasteable("axes", lines, rules, tail)
    )


def _shapes(found: Sequence[FoundSpec]) -> dict[str, Shape]:
    return {leaf.path: leaf.shape for leaf in found}


def _defaults(rules: Sequence[Rule]) -> list[DefaultAxes]:
    return [spec for _, spec in rules if isinstance(spec, DefaultAxes)]


def _likely(out_first: bool, found: Sequence[FoundSpec]) -> Callable[[FoundSpec], str]:
    shapes = _shapes(found)
    return lambda leaf: spec_text(likely_axes(leaf.path, leaf.shape, out_first, shapes))


def _resolve(spec: Spec, shape: Shape, path: str) -> MatrixAxes | Fused | None:
    if isinstance(spec, Fused):
        return spec.resolve(shape, path, _resolve)
    return None if spec is None else as_matrix_axes(spec).resolve(shape, path)


_AXES = SpecKind(
    argument="axes",
    name="MatrixAxes",
    is_spec=lambda node: isinstance(node, Spec),
    resolve=_resolve,
    missing=missing_axes,
)


def look_up_axes(axes: AxesLike, tree: Any) -> list[FoundSpec]:
    """The axes of every leaf, or `UNCOVERED`."""
    return look_up(FLAX_RULES if axes is None else axes, tree, _AXES)


def resolve_axes(axes: AxesLike, tree: Any) -> list[tuple[str, MatrixAxes | Fused | None]]:
    """The path and matrix axes of every leaf of a tree; `None` for a leaf that is not a matrix.

    A fused leaf has `Fused` with the matrix axes of each part.

    Args:
      axes: which axes are rows and columns:

        - `None`: `FLAX_RULES`;
        - a spec for every leaf: `MatrixAxes`, `optax.contrib.MuonDimensionNumbers` or `Fused`;
        - rules: a sequence of `(pattern, spec)`, of which the first whose regular expression
          matches the whole path (`layers/mlp/up/kernel`) decides. Here a spec may also be `None`
          (not a matrix), or a function of path and shape that returns a spec, or `UNCOVERED` to
          leave the leaf to the next rule;
        - a tree of specs with the structure of the parameters, or a prefix of it, or a function
          that makes one from the tree, as `optax.contrib.muon` takes.
      tree: parameters or updates, arrays or `jax.ShapeDtypeStruct`.

    Raises:
      ValueError: for uncovered leaves (all are listed), or axes that do not fit a shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from multinorm_optax import MatrixAxes, resolve_axes
      >>> params = {"qkv": {"kernel": jnp.ones((8, 32, 96))}, "norm": {"scale": jnp.ones((8, 32))}}
      >>> rules = [(r".*/kernel", MatrixAxes(output=-1, input=-2)), (r".*/scale", None)]
      >>> for path, found in resolve_axes(rules, params):
      ...     print(path, found)
      norm/scale None
      qkv/kernel MatrixAxes(output=(2,), input=(1,))
    """
    return resolve_specs(FLAX_RULES if axes is None else axes, tree, _AXES)


def on_matrices(function: Callable[..., Any], axes: AxesLike) -> optax.GradientTransformation:
    """Apply `function(leaf, axes)` to every leaf, or to every part of a fused leaf, without state.

    `init` checks the leaves.
    """

    def init(params: optax.Params) -> optax.EmptyState:
        resolve_matrices(axes, params)
        return optax.EmptyState()

    def update(
        updates: optax.Updates, state: optax.OptState, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        del params, extra_args
        arrays = jax.tree.map(jnp.asarray, updates)
        parts, of_parts, join = split_fused(arrays, resolve_matrices(axes, updates))
        leaves, structure = jax.tree.flatten(parts)
        return join(jax.tree.unflatten(structure, map(function, leaves, of_parts))), state

    return optax.GradientTransformationExtraArgs(init, update)


def resolve_matrices(axes: AxesLike, tree: Any) -> list[MatrixAxes | Fused]:
    """The axes of every leaf of a tree of matrices; raise for any other leaf."""
    matrices = []
    for leaf, (path, found) in zip(jax.tree.leaves(tree), resolve_axes(axes, tree), strict=True):
        if found is None:
            raise ValueError(
                f"{describe(path, np.shape(leaf))}: this leaf is not a matrix (its path or rank"
                " says so), and a matrix normalization does not apply to it; route it elsewhere"
                " with optax.partition(..., group_labels(axes)), or add a rule to `axes` that gives"
                " its MatrixAxes"
            )
        check_dtype(path, leaf)
        matrices.append(found)
    return matrices


def group_labels(axes: AxesLike = None) -> Callable[[Any], Any]:
    """A label function for `optax.partition`: `"matrix"` or `"adam"` for every leaf.

    The function takes a tree of parameters or updates; `axes` are those of `resolve_axes`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from multinorm_optax import group_labels, scale_by_sinkhorn
      >>> group_labels()({"dense": {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)}})
      {'dense': {'bias': 'adam', 'kernel': 'matrix'}}
      >>> groups = {"matrix": scale_by_sinkhorn(), "adam": optax.scale_by_adam()}
      >>> tx = optax.partition(groups, group_labels())
    """

    def label(tree: Any) -> Any:
        names = [OTHER if found is None else MATRIX for _, found in resolve_axes(axes, tree)]
        return jax.tree.unflatten(jax.tree.structure(tree), names)

    return label
