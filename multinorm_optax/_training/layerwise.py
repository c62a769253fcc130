"""Layer-wise training: apply and free each layer's gradient before the next is computed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from multinorm_optax._matrices.axes import describe
from multinorm_optax._matrices.paths import check_dtype, named_leaves
from multinorm_optax._training.layer_stack import backward, forward

Part = dict[str, Any]  # parameters by top-level name


@dataclasses.dataclass(frozen=True)
class LayerwiseModel:
    """A model as three functions of parts of its parameters, which are a mapping.

    x_0 = embed(E, batch); x_l+1 = block(W_l, x_l) for each of L layers; loss = head(H, x_L, batch).

    Attributes:
      embed: (parameters, batch) -> x_0, an array or a tree of arrays. Leaves that are not
        floating-point, such as positions, pass through the layers without a derivative.
      block: (parameters of one layer, x) -> the next x, with the same structure, shapes and dtypes.
      head: (parameters, x, batch) -> the loss, a scalar.
      embed_names: the top-level names of the parameters that `embed` gets, as a dictionary.
      stack: the top-level name of the layers; each of its leaves is (L, ...).
      head_names: the names for `head`. A name in both (tied embeddings) gets the sum of both
        gradients.

    Raises:
      TypeError: if names are given as a string.
      ValueError: if the names include the stack.
    """

    embed: Callable[[Part, Any], Any]
    block: Callable[[Any, Any], Any]
    head: Callable[[Part, Any, Any], jax.Array]
    embed_names: Sequence[str] = ("embed",)
    stack: str = "layers"
    head_names: Sequence[str] = ("head",)

    def __post_init__(self) -> None:
        for field in ("embed_names", "head_names"):
            names = getattr(self, field)
            if isinstance(names, str):
                raise TypeError(f"{field} is a string, {names!r}; write a tuple of names")
            if self.stack in names:
                raise ValueError(f"{field} names the stack of layers, {self.stack!r}")


class LayerwiseState(NamedTuple):
    """The states of `embed`, of the layers (leading axis L), and of `head` without tied weights."""

    embed: optax.OptState
    stack: optax.OptState
    head: optax.OptState


StepResult: TypeAlias = tuple[Any, LayerwiseState, jax.Array]  # parameters, state, loss


class LayerwiseTraining(NamedTuple):
    """The functions init and step that `layerwise_training` returns."""

    init: Callable[[Any], LayerwiseState]
    step: Callable[[Any, LayerwiseState, Any], StepResult]


def layerwise_training(
    model: LayerwiseModel,
    optimizer: optax.GradientTransformation,
    rest: optax.GradientTransformation | None = None,
) -> LayerwiseTraining:
    """Train without materializing the full gradient.

    A step computes c = dloss/dx_L and updates the head. For l = L - 1, ..., 0, it then computes
    (G_l, c) = the vector-Jacobian product of block at (W_l, x_l) with c, and W_l <- W_l + T_l(G_l).
    The embedding comes last. Besides weights and state, a step stores the inputs of all layers, and
    the weights, gradient and update of one layer.

    T is initialised and applied separately for L + 2 pieces: each layer (without the axis L), the
    parameters of `embed`, and those of `head` without tied weights. Each is a dictionary with the
    model's top-level names. Masks and labels must be functions of the parameters (of a layer, by
    its own rank), and axes must fit a layer's leaves. The new weights equal those of the ordinary
    step up to rounding, unless the optimizer combines numbers of several pieces or reads ranks:

    - Quantities of a whole leaf or of all gradients are those of one piece:
      `optax.clip_by_global_norm` clips each layer by its own norm.
    - Random numbers repeat in every layer, unless you change the keys (L, ...) in `state.stack`.
    - Microbatches need `optax.MultiSteps`, a buffer of the weights' shape (float32 in optax 0.2.8).
    - Optimizers that take leaves for matrices by their rank see leaves with one axis less.

    Args:
      model: the functions and the names of their parameters.
      optimizer: the transformation T of the layers.
      rest: the transformation T of the other parameters; by default `optimizer`.

    Returns:
      init: params -> state, and step: (params, state, batch) -> (params, state, loss). Dtypes do
      not change. `jax.jit(training.step, donate_argnums=(0, 1))` updates in place.

    Raises:
      ValueError: (when `init` or `step` is traced) if the parameters are not those of the model,
        the stack has no common leading axis, the optimizer cannot be initialised for a piece or
        changes the form of its state, or the state does not come from `init`.
      TypeError: (likewise) if parameters or loss are not floating-point, or the loss not a scalar.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from multinorm_optax import LayerwiseModel, MatrixAxes, layerwise_training, sinkgd
      >>> model = LayerwiseModel(
      ...     embed=lambda p, batch: batch[0] @ p["embed"],
      ...     block=lambda w, x: x + jnp.tanh(x @ w["kernel"]),
      ...     head=lambda p, x, batch: jnp.mean((x @ p["head"] - batch[1]) ** 2),
      ... )
      >>> axes = [("layers/kernel", MatrixAxes(output=-1, input=-2)), ("embed|head", None)]
      >>> init, step = layerwise_training(model, sinkgd(0.01, axes=axes, alpha=1.0))
      >>> params = {"embed": jnp.eye(3, 8), "layers": {"kernel": jnp.zeros((4, 8, 8))},
      ...           "head": jnp.eye(8, 1)}
      >>> x = jax.random.normal(jax.random.key(0), (32, 3))
      >>> state, step = init(params), jax.jit(step, donate_argnums=(0, 1))
      >>> for _ in range(50):
      ...     params, state, loss = step(params, state, (x, x[:, :1] * x[:, 1:2]))
      >>> print(f"{loss:.2f}")    # 0.66 before
      0.39
    """
    rest = optimizer if rest is None else rest

    def init(params: Any) -> LayerwiseState:
        embed, stack, head = _split(model, params)
        return LayerwiseState(
            _init(rest.init, embed, "the parameters"),
            _init(jax.vmap(optimizer.init), stack, "one layer"),
            # If the optimizer returns the same array for both parts, it cannot be donated twice.
            jax.tree.map(jnp.copy, _init(rest.init, head, "the parameters")),
        )

    def step(params: Any, state: LayerwiseState, batch: Any) -> StepResult:
        if difference := _difference(state, jax.eval_shape(init, params)):
            raise ValueError(
                f"the state does not fit these parameters and this optimizer: {difference}; pass"
                " the state of the same layerwise_training, not optimizer.init(params)"
            )
        embed, stack, head = _split(model, params)
        tied = {name: embed[name] for name in model.head_names if name in embed}

        def block(layer: Part, x: Any) -> Any:
            return _arrays(model.block(layer[model.stack], x))

        def rewrite(layer: Any, x: Any, cotangent: Any) -> tuple[Any, Any]:
            weights, of_layer = layer
            gradient, of_x = _vjp(block, weights, x)[1](cotangent)
            return _update(optimizer, gradient, of_layer, weights), _floats(of_x)

        x, pull_embed = _vjp(lambda embed: _arrays(model.embed(embed, batch)), embed)
        x, inputs = forward(block, stack, x)
        loss, (gradient, of_x) = jax.value_and_grad(model.head, argnums=(0, 1), allow_int=True)(
            head | tied, x, batch
        )
        of_tied = {name: gradient.pop(name) for name in tied}
        # Without the barrier XLA may store the head's gradient until after the loop.
        (head, of_head), cotangent = jax.lax.optimization_barrier(
            (_update(rest, gradient, state.head, head), _floats(of_x))
        )
        layers = stack, state.stack
        (stack, of_stack), cotangent = backward(rewrite, layers, (inputs, x), cotangent)
        (gradient,) = pull_embed(cotangent)
        for name, value in of_tied.items():
            gradient[name] = jax.tree.map(jnp.add, gradient[name], value)
        embed, of_embed = _update(rest, gradient, state.embed, embed)
        state = LayerwiseState(of_embed, of_stack, of_head)
        return _like(params, embed | stack | head), state, loss

    return LayerwiseTraining(init, step)


def _vjp(function: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """A value, and the pullback of its `_floats`."""

    def floats(*primals: Any) -> tuple[list[jax.Array], Any]:
        value = function(*primals)
        return _floats(value), value

    _, pull, value = jax.vjp(floats, *primals, has_aux=True)
    return value, pull


def _arrays(tree: Any) -> Any:
    """The tree with arrays in place of numbers, of types that do not yield to others."""

    def array(x: Any) -> jax.Array:
        x = jnp.asarray(x)
        return jax.lax.convert_element_type(x, x.dtype)

    return jax.tree.map(array, tree)


def _floats(tree: Any) -> list[jax.Array]:
    """The floating-point leaves, which have a derivative."""
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def _init(init: Callable[[Part], optax.OptState], part: Part, title: str) -> optax.OptState:
    if not part:
        return optax.EmptyState()
    try:
        return init(part)
    except Exception as error:
        raise ValueError(
            f"the optimizer cannot be initialised for {title} {sorted(part)} alone (masks and"
            " labels must be functions of the parameters, and axes must fit a layer without its"
            f" leading axis): {error}"
        ) from error


def _update(
    optimizer: optax.GradientTransformation, gradient: Part, state: optax.OptState, params: Part
) -> tuple[Part, optax.OptState]:
    """The new parameters and the new state of one piece."""
    if not params:
        return params, state
    updates, new = optimizer.update(gradient, state, params)
    if difference := _difference(new, state):
        raise ValueError(
            f"an update changes the form of the optimizer's state: {difference}; keep the shapes"
            " and dtypes that the optimizer's init makes"
        )
    return optax.apply_updates(params, updates), new


def _difference(tree: Any, like: Any) -> str:
    """The first difference in shape, dtype or structure of two trees; empty if there is none."""
    here, there = (
        {path: f"{leaf.shape} {leaf.dtype}" for path, leaf in _leaves(each).items()}
        for each in (tree, like)
    )
    for path in [*there, *here]:
        if here.get(path) != there.get(path):
            return f"{path} is {here.get(path, 'absent')} instead of {there.get(path, 'absent')}"
    found, wanted = str(jax.tree.structure(tree)), str(jax.tree.structure(like))
    return "" if found == wanted else f"it is {found} instead of {wanted}"


def _leaves(tree: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every leaf by path."""
    return dict(named_leaves(jax.eval_shape(lambda: tree)))


def _like(params: Any, parts: Part) -> Any:
    """The parts as a mapping of the type of `params`."""
    structure: Any = jax.tree.structure(params)
    places = jax.tree.unflatten(structure, range(structure.num_leaves))
    order = jax.tree.leaves({name: places[name] for name in parts})
    leaves = dict(zip(order, jax.tree.leaves(parts), strict=True))
    return jax.tree.unflatten(structure, [leaves[place] for place in sorted(leaves)])


def _split(model: LayerwiseModel, params: Any) -> tuple[Part, Part, Part]:
    """Check the parameters, and split them into those of `embed`, the layers and `head` alone."""
    untied = [name for name in model.head_names if name not in model.embed_names]
    expected = sorted({*model.embed_names, model.stack, *untied})
    names = sorted(map(str, params)) if isinstance(params, Mapping) else type(params).__name__
    if names != expected:
        raise ValueError(
            f"the model's parameters are {expected} by embed_names, stack and head_names, but"
            f" params are {names}; every top-level name must be in one of the three"
        )
    for path, leaf in _leaves(dict(params)).items():
        check_dtype(path, leaf)
    parts = model.embed_names, [model.stack], untied
    embed, stack, head = ({name: params[name] for name in names} for names in parts)
    shapes = {path: leaf.shape for path, leaf in _leaves(stack).items()}
    lengths = {shape[:1] for shape in shapes.values()}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        found = ", ".join(describe(*each) for each in shapes.items())
        raise ValueError(
            f"{found or f'{model.stack!r} has no leaves'}: the leaves of the stack must have one"
            " leading axis, of an entry per layer"
        )
    return embed, stack, head
