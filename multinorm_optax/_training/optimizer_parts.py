"""An optimizer that is applied to one part of the parameters at a time.

It is an ordinary one for the whole tree, and so is its state: a part's own state is found in it by
path, and the new leaves go where the old ones were. That is right only if no part's update needs
the gradient of another, which is looked up in the optimizer's computation.
"""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from multinorm_optax._matrices.axes import describe
from multinorm_optax._training.dependence import Labels, RandomnessError, dependences


class Leaves:
    """The leaves of a tree in order, with their paths; and the same tree of other leaves."""

    def __init__(self, tree: Any):
        found, self.structure = jax.tree_util.tree_flatten_with_path(tree)
        self.values = [leaf for _, leaf in found]
        self.paths = [jax.tree_util.keystr(k, simple=True, separator="/") for k, _ in found]

    def describe(self, place: int) -> str:
        return describe(self.paths[place], self.values[place].shape)


class Part:
    """Parameters that are updated together, and where their state is in that of the whole model.

    Attributes:
      stacked: the places, among the leaves of the whole state, of what each layer has its slice of.
      shared: the places of the part's other leaves; of embed and head, all.
    """

    def __init__(
        self,
        optimizer: optax.GradientTransformation,
        params: dict[str, Any],
        state: Leaves,
        layers: int | None = None,
    ):
        """Finds the state of these parameters, or of one of so many layers, in that of all."""
        self.names = tuple(params)
        self._optimizer = optimizer
        title = ", ".join(map(repr, params)) + (", one layer of it," if layers else "")
        try:
            own = Leaves(jax.eval_shape(optimizer.init, abstract(params)) if params else ())
        except Exception as error:
            raise ValueError(
                f"the optimizer cannot be initialised for {title} alone, as the layer-wise step"
                " needs it (masks and labels have to be functions of the parameters, and `axes` to"
                f" fit a layer without its leading axis): {error}"
            ) from error
        self._structure = own.structure
        index = {path: place for place, path in enumerate(state.paths)}
        self._places: list[int] = []
        self.stacked: list[int] = []
        self.shared: list[int] = []
        for path, leaf in zip(own.paths, own.values, strict=True):
            if path not in index:
                raise ValueError(
                    f"the state has no leaf {describe(path, leaf.shape)}, which the optimizer makes"
                    f" for {title} alone: pass optimizer.init(params) of the same optimizer, one"
                    " that tells parameters apart by their paths, not by their rank"
                )
            whole = state.values[index[path]]
            shapes = [leaf.shape] if layers is None else [leaf.shape, (layers, *leaf.shape)]
            if whole.shape not in shapes or whole.dtype != leaf.dtype:
                raise ValueError(
                    f"{describe(path, whole.shape)} {whole.dtype}: this leaf of the state does not"
                    f" fit the optimizer's state for {title} alone, which makes it"
                    f" {' or '.join(map(str, shapes))} {leaf.dtype}; take the ordinary step"
                )
            self._places.append(index[path])
            (self.shared if whole.shape == leaf.shape else self.stacked).append(index[path])

    def update(
        self, gradients: dict[str, Any], state: Any, params: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[int, jax.Array]]:
        """New parameters, and the new leaves of the state by place; `state` has the old ones so."""
        if not params:
            return params, {}
        old = [state[place] for place in self._places]
        updates, new = self._optimizer.update(
            gradients, jax.tree.unflatten(self._structure, old), params
        )
        after = dict(zip(self._places, jax.tree.leaves(new), strict=True))
        for one, other in zip(old, after.values(), strict=True):
            if (one.shape, one.dtype) != (other.shape, other.dtype):
                raise ValueError(
                    f"an update makes {other.shape} {other.dtype} of a leaf of the state that is"
                    f" {one.shape} {one.dtype}; the layer-wise step cannot put it in its place"
                )
        return optax.apply_updates(params, updates), after


def refuse_coupling(
    optimizer: optax.GradientTransformation, params: Any, state: Leaves, parts: Sequence[Part]
) -> None:
    """Raises if the optimizer lets parameters depend on others whose gradient is not there.

    An update may depend on the gradients and values of its own part; in the stack on those of its
    own leaf, because a dependence between two leaves could be one between two layers.
    """
    leaves, places = Leaves(params), places_by_name(params)
    own = [frozenset([place]) for place in range(len(leaves.values))]
    of_part = [frozenset(place for name in part.names for place in places[name]) for part in parts]
    updates, origins = _origins(optimizer, params, state, own)
    *_, of_stack = of_part
    for place, origin in enumerate(updates):
        allowed = own[place] if place in of_stack else next(p for p in of_part if place in p)
        for other in sorted(origin - allowed):
            raise ValueError(
                f"the update of {leaves.describe(place)} depends on {leaves.describe(other)}"
                f"{_NOT_THERE}"
            )
    for place, origin in enumerate(origins):
        users = [part for part in parts if place in part.stacked or place in part.shared]
        if not users:
            raise ValueError(
                f"{state.describe(place)}: no part of the parameters alone has this leaf of the"
                " state; take the ordinary step"
            )
        of_many = len(users) > 1 or place in parts[-1].shared
        allowed = frozenset() if of_many else of_part[parts.index(users[0])]
        for other in sorted(origin - allowed):
            raise ValueError(
                f"the state {state.describe(place)} depends on {leaves.describe(other)}{_NOT_THERE}"
            )


_NOT_THERE = (
    ": clipping by a global norm, and whatever else couples parameters, needs the gradient of the"
    " whole model, which the layer-wise step never has; clip each parameter by itself"
    " (optax.clip_by_block_rms, optax.clip), or take the ordinary step"
)


def _origins(
    optimizer: optax.GradientTransformation, params: Any, state: Leaves, own: list[Labels]
) -> tuple[list[Labels], list[Labels]]:
    """The parameters on which each update, and each leaf of the state, depends, over many steps."""
    jaxpr = jax.make_jaxpr(optimizer.update)(
        params, jax.tree.unflatten(state.structure, state.values), params
    ).jaxpr
    before, origins = None, [frozenset[int]()] * len(state.values)
    updates: list[Labels] = []
    while origins != before:
        try:
            found = dependences(jaxpr, [*own, *origins, *own])
        except RandomnessError as error:
            raise ValueError(
                f"the optimizer draws random numbers (by {error}), which would be the same in every"
                " layer; take the ordinary step"
            ) from error
        before, updates, origins = origins, found[: len(own)], found[len(own) :]
    return updates, origins


def places_by_name(params: Any) -> dict[str, list[int]]:
    """By top-level name, which leaves of the parameters they are."""
    leaves, structure = jax.tree.flatten(params)
    numbers = jax.tree.unflatten(structure, range(len(leaves)))
    return {name: jax.tree.leaves(numbers[name]) for name in numbers}


def abstract(tree: Any, axes: int = 0) -> Any:
    """Shapes, without so many leading axes, and dtypes."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[axes:], leaf.dtype), tree)
