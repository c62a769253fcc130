"""The layer-wise step: each layer's gradient is used, and gone, before the next one is computed.

A stateless update of a layer needs that layer's gradient alone, and so does any other whose state
belongs to single weights. With the layers stacked, the forward pass keeps each layer's input; a
reverse loop recomputes one layer, takes its vector-Jacobian product, transforms that layer's
gradient, and writes the new weights in the place of the old ones. No layer's backward pass needs
another layer's new weights: the result is that of the ordinary step, but the gradient of the whole
model never exists.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from multinorm_optax._training.layer_stack import (
    as_integers,
    decode,
    is_half,
    read_layer,
    unchanged,
    write_layer,
)
from multinorm_optax._training.optimizer_parts import (
    Leaves,
    Part,
    abstract,
    places_by_name,
    refuse_coupling,
)

Step = Callable[[Any, optax.OptState, Any], tuple[Any, optax.OptState, jax.Array]]


@dataclasses.dataclass(frozen=True)
class LayerwiseModel:
    """A model as three functions of parts of its parameters, which are a mapping.

    x_0 = embed(E, batch); x_l+1 = block(W_l, x_l) for each of L layers; loss = head(H, x_L, batch).

    Attributes:
      embed: (parameters, batch) -> x_0, an array or a tree of arrays. What is not floating-point
        in it, such as positions, goes through the layers without a derivative.
      block: (parameters of one layer, x) -> the next x, with the same structure, shapes and dtypes.
      head: (parameters, x, batch) -> the loss, a scalar.
      embed_names: the top-level names of the parameters that `embed` gets, as a dictionary.
      stack: the top-level name of the layers, each leaf of which is (L, ...).
      head_names: the top-level names of the parameters that `head` gets, as a dictionary. A name
        that `embed` gets too (tied embeddings) has the sum of both gradients.
    """

    embed: Callable[[dict[str, Any], Any], Any]
    block: Callable[[Any, Any], Any]
    head: Callable[[dict[str, Any], Any, Any], jax.Array]
    embed_names: Sequence[str] = ("embed",)
    stack: str = "layers"
    head_names: Sequence[str] = ("head",)

    def __post_init__(self) -> None:
        for field in ("embed_names", "head_names"):
            names = getattr(self, field)
            if isinstance(names, str):
                raise TypeError(f"{field} is a text, {names!r}; write a tuple of names")
            if self.stack in names:
                raise ValueError(f"{field} names the stack of layers, {self.stack!r}")


def layerwise_step(model: LayerwiseModel, optimizer: optax.GradientTransformation) -> Step:
    """A train step in which the gradient of the whole model never exists.

    c = dloss/dx_L, with the gradient of the head; then, for l = L - 1, ..., 0, (G_l, c) = the
    vector-Jacobian product of block at (W_l, x_l) with c, and W_l <- W_l + T(G_l); at last the
    gradient of the embedding. The weights are those of the ordinary step (`jax.value_and_grad`,
    `optimizer.update`, `optax.apply_updates`) up to rounding, and the arithmetic that of one which
    rematerializes layers. Beside weights and state there are the inputs of all layers, and weights,
    gradient and update of one.

    The optimizer is an ordinary one for the whole tree of parameters, and so is its state,
    `optimizer.init(params)`: steps of both kinds may follow each other. It is applied to one part
    at a time: a tree with the same paths, without the leaves of the other parts. Of the stack it
    sees one layer's slices, without the leading axis L. So masks, labels and `axes` have to be
    functions of paths or trees that know a slice as they know the stack (axes counted from the
    end); and what is taken over a whole leaf, as by `optax.clip_by_block_rms`, is taken over one
    layer's: as in a model whose layers are not stacked. State is empty, or belongs to a leaf and
    has the stack's leading axis, or is shared, as a count of steps is.

    Refused is what needs more than a part's gradient: clipping by a global norm,
    `optax.apply_if_finite`, and whatever else lets the update of a leaf of the stack depend on
    another leaf, or that of embedding or head on another part. It is found in the optimizer's
    computation, which is traced for that. Gradients of microbatches would have to be summed before
    they are normalized, those of the whole model: there is no such argument. `optax.MultiSteps`
    sums them, over calls of this step, in a state of the weights' size.

    Args:
      model: the functions and the names of their parameters.
      optimizer: any optax transformation of that kind.

    Returns:
      (params, state, batch) -> (params, state, loss), to be compiled with
      `jax.jit(step, donate_argnums=(0, 1))`: weights and state that are donated are updated in
      place. Dtypes stay as they are.

    Raises:
      ValueError: (from the step, when it is traced) for an optimizer that is refused, or draws
        random numbers; for state that cannot be cut into layers; for parameters of other names; for
        a stack without a common leading axis; for a loss that is no scalar.
      TypeError: (likewise) for parameters or a loss that are not floating-point.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from multinorm_optax import LayerwiseModel, MatrixAxes, layerwise_step, sinkgd
      >>> model = LayerwiseModel(
      ...     embed=lambda p, batch: batch[0] @ p["embed"],
      ...     block=lambda w, x: x + jnp.tanh(x @ w["kernel"]),
      ...     head=lambda p, x, batch: jnp.mean((x @ p["head"] - batch[1]) ** 2),
      ... )
      >>> axes = [("layers/kernel", MatrixAxes(output=-1, input=-2)), ("embed|head", None)]
      >>> tx = sinkgd(optax.cosine_decay_schedule(0.02, 50), axes=axes, alpha=1.0)
      >>> params = {"embed": jnp.eye(3, 8), "layers": {"kernel": jnp.zeros((4, 8, 8))}}
      >>> params["head"] = jnp.eye(8, 1)
      >>> x = jax.random.normal(jax.random.key(0), (32, 3))
      >>> step, state = jax.jit(layerwise_step(model, tx), donate_argnums=(0, 1)), tx.init(params)
      >>> for i in range(50):
      ...     params, state, loss = step(params, state, (x, x[:, :1] * x[:, 1:2]))
      ...     if i in (0, 49):
      ...         print(f"{loss:.2f}")
      0.66
      0.50
    """

    def step(
        params: Any, state: optax.OptState, batch: Any
    ) -> tuple[Any, optax.OptState, jax.Array]:
        layers, held = _number_of_layers(model, params), Leaves(state)
        embed = {name: params[name] for name in model.embed_names}
        untied = {n: params[n] for n in model.head_names if n not in model.embed_names}
        stack = abstract({model.stack: params[model.stack]}, axes=1)
        parts = (
            Part(optimizer, embed, held),
            Part(optimizer, untied, held),
            Part(optimizer, stack, held, layers),
        )
        refuse_coupling(optimizer, params, held, parts)
        if not any(is_half(leaf.dtype) for leaf in jax.tree.leaves(stack)):
            return _step(model, parts, unchanged, params, state, batch)
        # On a CPU XLA computes with float32 in place of 16 bits, and would convert whole stacks,
        # even for reading or writing one layer: there they go through the loops as integers.
        return jax.lax.platform_dependent(
            *(params, state, batch),
            cpu=functools.partial(_step, model, parts, as_integers),
            default=functools.partial(_step, model, parts, unchanged),
        )

    return step


def _step(
    model: LayerwiseModel,
    parts: "tuple[Part, Part, Part]",
    encode: Callable[[Any], Any],
    params: Any,
    state: optax.OptState,
    batch: Any,
) -> tuple[Any, optax.OptState, jax.Array]:
    """The step itself; through the loops go stacks that `encode` has changed."""
    of_embed, of_head, of_layer = parts
    held = Leaves(state)
    embed = {name: params[name] for name in model.embed_names}
    head = {name: params[name] for name in model.head_names}
    untied = {name: value for name, value in head.items() if name not in embed}
    stack = {model.stack: params[model.stack]}
    after = dict(enumerate(held.values))

    x, pull_embed = _embedded(model, embed, batch)
    x, inputs = _forward(model, stack, x, encode)
    loss, gradient, cotangent = _loss_and_gradients(model, head, x, batch)
    tied = {name: gradient.pop(name) for name in embed if name in gradient}
    # Without the barrier XLA may keep the head's gradient until after the loop.
    (untied, new), cotangent = jax.lax.optimization_barrier(
        (of_head.update(gradient, held.values, untied), cotangent)
    )
    after |= new
    stack, new, cotangent = _backward(
        model, of_layer, stack, held.values, (inputs, x), cotangent, encode
    )
    after |= new
    gradient = pull_embed(cotangent)
    gradient |= {name: gradient[name] + value for name, value in tied.items()}
    embed, new = of_embed.update(gradient, held.values, embed)
    after |= new
    state = jax.tree.unflatten(held.structure, [after[place] for place in range(len(after))])
    return _like(params, embed | stack | untied), state, loss


def _embedded(model: LayerwiseModel, embed: Any, batch: Any) -> tuple[Any, Callable[..., Any]]:
    """x_0, and the function from its cotangent to the gradient of the embedding."""

    def floats(embed: Any) -> tuple[list[jax.Array], Any]:
        x = model.embed(embed, batch)
        return _differentiable(x)[0], x

    _, pull, x = jax.vjp(floats, embed, has_aux=True)
    return x, lambda cotangent: pull(cotangent)[0]


def _loss_and_gradients(
    model: LayerwiseModel, head: Any, x: Any, batch: Any
) -> tuple[jax.Array, Any, list[jax.Array]]:
    """The loss, the gradient of the head, and that of the head's input."""
    floats, join = _differentiable(x)
    loss, pull = jax.vjp(lambda head, floats: model.head(head, join(floats), batch), head, floats)
    if jnp.shape(loss):
        raise ValueError(f"head returns an array {loss.shape}; a loss is a scalar")
    if not jnp.issubdtype(loss.dtype, jnp.floating):
        raise TypeError(f"head returns a loss of {loss.dtype}; it has to be a real number")
    return loss, *pull(jnp.ones_like(loss))


def _forward(
    model: LayerwiseModel, stack: Any, x: Any, encode: Callable[[Any], Any]
) -> tuple[Any, Any]:
    """The output of the last layer, and the encoded inputs of all layers."""

    def one_layer(x: Any, w: Any) -> tuple[Any, Any]:
        return model.block(decode(w, stack)[model.stack], x), encode(x)

    return jax.lax.scan(one_layer, x, encode(stack))


def _backward(
    model: LayerwiseModel,
    part: "Part",
    stack: Any,
    state: Sequence[jax.Array],
    inputs_and_output: tuple[Any, Any],
    cotangent: list[jax.Array],
    encode: Callable[[Any], Any],
) -> tuple[Any, dict[int, jax.Array], list[jax.Array]]:
    """The new stack, the new leaves of the state by place, and the cotangent of x_0.

    A layer is read from the stack that the one after it was just written into. If it were read from
    the stack before that, XLA could put the reading after the writing, and would copy whole stacks.
    """
    inputs, output = inputs_and_output
    before = stack, {place: state[place] for place in part.stacked}
    shared = {place: state[place] for place in part.shared}

    def read(stacks: Any, number: Any) -> Any:
        return decode(read_layer(stacks, number), before)

    def one_layer(carry: Any, number_and_input: Any) -> tuple[Any, None]:
        stacks, (w, own), _, cotangent = carry
        number, x = number_and_input
        floats, join = _differentiable(decode(x, output))

        def block(w: Any, floats: list[jax.Array]) -> list[jax.Array]:
            return _differentiable(model.block(w[model.stack], join(floats)))[0]

        _, pull = jax.vjp(block, w, floats)
        gradient, cotangent = pull(cotangent)
        w, new = part.update(gradient, shared | own, w)
        own = {place: new.pop(place) for place in own}
        stacks = write_layer(stacks, (encode(w), own), number)
        return (stacks, read(stacks, jnp.maximum(number - 1, 0)), new, cotangent), None

    layers, stacks = jax.tree.leaves(stack)[0].shape[0], (encode(stack), before[1])
    (stacks, _, shared, cotangent), _ = jax.lax.scan(
        one_layer,
        (stacks, read(stacks, layers - 1), shared, cotangent),
        (jnp.arange(layers), inputs),
        reverse=True,
    )
    stack, own = decode(stacks, before)
    return stack, own | shared, cotangent


def _like(params: Any, parts: dict[str, Any]) -> Any:
    """The parts as a mapping of the type that `params` is."""
    leaves = {
        place: leaf
        for name, places in places_by_name(params).items()
        for place, leaf in zip(places, jax.tree.leaves(parts[name]), strict=True)
    }
    return jax.tree.unflatten(jax.tree.structure(params), [leaves[i] for i in sorted(leaves)])


def _differentiable(tree: Any) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """The floating-point leaves of a tree, and the function that puts such back into it."""
    leaves, structure = jax.tree.flatten(tree)
    inexact = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]

    def join(floats: list[jax.Array]) -> Any:
        rest = iter(floats)
        return jax.tree.unflatten(
            structure,
            [next(rest) if chosen else leaf for leaf, chosen in zip(leaves, inexact, strict=True)],
        )

    return [leaf for leaf, chosen in zip(leaves, inexact, strict=True) if chosen], join


def _number_of_layers(model: LayerwiseModel, params: Any) -> int:
    """L, after a look at the parameters' names, dtypes and leading axes."""
    expected = {*model.embed_names, model.stack, *model.head_names}
    if not isinstance(params, Mapping) or set(params) != expected:
        names = sorted(map(str, params)) if isinstance(params, Mapping) else type(params).__name__
        raise ValueError(
            f"the model's parameters are {sorted(expected)} by embed_names, stack and head_names,"
            f" but params are {names}; every top-level name has to be in one of the three"
        )
    leaves = Leaves(params)
    for place, leaf in enumerate(leaves.values):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"{leaves.describe(place)}: {leaf.dtype} has no gradient; keep such leaves out of"
                " the parameters"
            )
    stack = places_by_name(params)[model.stack]
    lengths = {leaves.values[place].shape[:1] for place in stack}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        found = ", ".join(map(leaves.describe, stack)) or f"{model.stack!r} has no leaves"
        raise ValueError(
            f"{found}: the leaves of the stack must have one leading axis, of an entry per layer"
        )
    ((layers,),) = lengths
    return layers
