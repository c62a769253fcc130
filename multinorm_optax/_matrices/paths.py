"""The lookup of per-leaf specs by path: matrix axes, blocks of a second moment, a rank."""

import collections
import dataclasses
import enum
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
import optax

from multinorm_optax._matrices.axes import Shape, describe


class _Uncovered(enum.Enum):
    UNCOVERED = "uncovered"

    def __repr__(self) -> str:
        return self.name


UNCOVERED = _Uncovered.UNCOVERED
"""The value that a function in a rule returns to leave the leaf to the next rule."""
Uncovered: TypeAlias = Literal[_Uncovered.UNCOVERED]

Rule: TypeAlias = tuple[str, Any]
"""(pattern, spec): a regular expression for whole paths, and a spec or a function for one."""


class DefaultRule:
    """The function of a default rule, with its part of error messages."""

    text: str  # the rules as Python, such as FLAX_RULES

    def of_tree(self, shapes: Mapping[str, Shape]) -> Any:
        """The function for a tree with leaves of these paths and shapes."""
        return self

    def why_not(self, path: str, shape: Shape) -> str | None:
        """Why a leaf is not covered."""
        return None

    def likely(self, path: str, shape: Shape) -> str | None:
        """The likeliest spec of an uncovered leaf, as Python."""
        return None


def named_leaves(
    tree: Any, is_leaf: Callable[[Any], bool] = lambda node: False
) -> list[tuple[str, Any]]:
    """The leaves of a tree with their paths as text, `layers/mlp/up/kernel`.

    An attribute `value` without siblings is dropped: flax's boxes (`nnx.Param`, `nn.Partitioned`)
    add it to parameters, but not to gradients. Masked leaves count as siblings, but are left out.
    """
    leaves = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode) or is_leaf(node)
    )
    children = collections.Counter(path[:end] for path, _ in leaves for end in range(len(path)))
    named = []
    for path, leaf in leaves:
        last = path[-1] if path else None
        boxed = isinstance(last, jax.tree_util.GetAttrKey) and last.name == "value"
        if boxed and children[path[:-1]] == 1:
            path = path[:-1]
        if not isinstance(leaf, optax.MaskedNode):
            named.append((jax.tree_util.keystr(path, simple=True, separator="/"), leaf))
    return named


def unboxed(tree: Any) -> Any:
    """The tree without flax's boxes (`nn.Partitioned`), whose mesh axes may not fit the state."""

    def is_box(node: Any) -> bool:
        return hasattr(node, "unbox") and hasattr(node, "replace_boxed")

    return jax.tree.map(lambda node: node.unbox() if is_box(node) else node, tree, is_leaf=is_box)


def array_leaves(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree of arrays, `jax.ShapeDtypeStruct` and numbers; raise for others."""
    leaves = named_leaves(tree)
    for path, leaf in leaves:
        # Random keys have an extended dtype, and are not parameters either.
        array = hasattr(leaf, "shape") and not jax.dtypes.issubdtype(
            getattr(leaf, "dtype", jax.dtypes.extended), jax.dtypes.extended
        )
        if not array and not isinstance(leaf, int | float | complex):
            raise TypeError(
                f"{path or '<root>'} is {leaf!r}, not an array; keep only arrays among the"
                " parameters, as eqx.filter(model, eqx.is_inexact_array) or"
                " nnx.state(model, nnx.Param) do"
            )
    return leaves


def check_dtype(path: str, leaf: Any) -> None:
    """Raise unless a leaf is floating-point or complex."""
    if not jnp.issubdtype(dtype_of(leaf), jnp.inexact):
        raise TypeError(
            f"{describe(path, np.shape(leaf))}: {dtype_of(leaf)} has no gradient; keep such leaves"
            " out of the parameters, or mask them (optax.masked)"
        )


@dataclasses.dataclass(frozen=True)
class FoundSpec:
    """A leaf and its spec, or `UNCOVERED`."""

    path: str
    shape: Shape
    spec: Any


@dataclasses.dataclass(frozen=True)
class SpecKind:
    """A kind of spec, such as matrix axes."""

    argument: str  # the name of the argument
    name: str  # the type of a spec
    is_spec: Callable[[Any], bool]
    resolve: Callable[[Any, Shape, str], Any]  # (spec, shape, path) -> spec, or an error
    missing: Callable[[Any, Sequence[FoundSpec]], str]  # (specs, all leaves) -> an error message


def resolve_specs(specs: Any, tree: Any, kind: SpecKind) -> list[tuple[str, Any]]:
    """The path and the spec of every leaf; raise if a leaf is uncovered."""
    found = look_up(specs, tree, kind)
    if any(leaf.spec is UNCOVERED for leaf in found):
        raise ValueError(kind.missing(specs, found))
    return [(leaf.path, leaf.spec) for leaf in found]


def look_up(specs: Any, tree: Any, kind: SpecKind) -> list[FoundSpec]:
    """The spec of every leaf, or `UNCOVERED`, from rules, a tree of specs, or a function of one."""
    leaves = [(path, np.shape(leaf)) for path, leaf in array_leaves(tree)]
    for path, number in collections.Counter(path for path, _ in leaves).items():
        if number > 1:
            raise ValueError(f"{number} leaves have the path {path}; use keys without /")
    lookup = _lookup(specs, tree, dict(leaves), kind)
    found = []
    for path, shape in leaves:
        spec = lookup(path, shape)
        resolved = UNCOVERED if spec is UNCOVERED else kind.resolve(spec, shape, path)
        found.append(FoundSpec(path, shape, resolved))
    return found


def _lookup(
    specs: Any, tree: Any, shapes: Mapping[str, Shape], kind: SpecKind
) -> Callable[[str, Shape], Any]:
    """The function from a leaf's path and shape to its spec, or `UNCOVERED`."""
    if is_rules(specs):
        compiled = [
            (
                _compiled(pattern, kind),
                spec.of_tree(shapes) if isinstance(spec, DefaultRule) else spec,
            )
            for pattern, spec in specs
        ]

        def by_rule(path: str, shape: Shape) -> Any:
            for pattern, spec in compiled:
                if pattern.fullmatch(path):
                    found = spec(path, shape) if callable(spec) else spec
                    if found is not UNCOVERED:
                        return found
            return UNCOVERED

        return by_rule
    # A module with `__call__` is a tree, not a function.
    is_leaf = jax.tree_util.all_leaves([specs]) or isinstance(specs, jax.tree_util.Partial)
    if callable(specs) and is_leaf:
        specs = specs(tree)
    by_name = dict(named_leaves(specs, is_leaf=kind.is_spec))
    for path, spec in by_name.items():
        if not kind.is_spec(spec):
            raise TypeError(
                f"`{kind.argument}` is neither rules, (pattern, {kind.name}) pairs, nor a tree of"
                f" {kind.name}: at {path or 'its root'!r} it has {spec!r}"
            )

    def by_path(path: str, _: Shape) -> Any:
        while path not in by_name:
            if not path:
                return UNCOVERED
            path = path.rpartition("/")[0]
        return by_name[path]

    return by_path


def _compiled(pattern: str, kind: SpecKind) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"`{kind.argument}` has the pattern {pattern!r}, which is not a regular expression:"
            f" {error}"
        ) from error


def is_rules(specs: Any) -> TypeGuard[Sequence[Rule]]:
    """Whether specs are rules, (pattern, spec) pairs."""
    if not isinstance(specs, Sequence) or not specs:
        return False
    pairs = all(type(rule) in (tuple, list) and len(rule) == 2 for rule in specs)
    return pairs and all(isinstance(pattern, str) for pattern, _ in specs)


def dtype_of(leaf: Any) -> jnp.dtype:
    """The dtype of an array, `jax.ShapeDtypeStruct` or number."""
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
