"""Which inputs each output of a computation depends on, read from its jaxpr."""

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend import core

Labels = frozenset[int]
"""Names of inputs."""

_NONE: Labels = frozenset()
_RANDOM = ("random_", "threefry", "rng_")
_CALLS = (
    *("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "shard_map"),
    *("custom_jvp_call", "custom_vjp_call"),
)


class RandomnessError(ValueError):
    """The computation draws random numbers."""


def dependences(jaxpr: core.Jaxpr, inputs: Sequence[Labels]) -> list[Labels]:
    """The labels on which each output of a jaxpr depends, in the order of its outputs.

    Control flow and nested functions are followed; of any other operation every output depends on
    every input. A dependence found need not be a true one (0 * x depends on x), but none is missed.

    Args:
      jaxpr: what `jax.make_jaxpr` returns, without its constants.
      inputs: the labels of each input.

    Raises:
      RandomnessError: for an operation that draws random numbers, naming it.
    """
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def of(atom: Any) -> Labels:
        return _NONE if isinstance(atom, core.Literal) else known.get(atom, _NONE)

    for equation in jaxpr.eqns:
        results = _of_equation(equation, [of(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, results, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _of_equation(equation: core.JaxprEqn, inputs: list[Labels]) -> list[Labels]:
    name, params = equation.primitive.name, equation.params
    if name.startswith(_RANDOM):
        raise RandomnessError(name)
    if name == "cond":
        branches = [dependences(branch.jaxpr, inputs[1:]) for branch in params["branches"]]
        return [inputs[0].union(*results) for results in zip(*branches, strict=True)]
    if name == "while":
        return _of_while(params, inputs)
    if name == "scan":
        return _of_scan(params, inputs)
    if name in _CALLS:
        inner = params["jaxpr" if "jaxpr" in params else "call_jaxpr"]
        return dependences(getattr(inner, "jaxpr", inner), inputs)
    return [_NONE.union(*inputs)] * len(equation.outvars)


def _of_while(params: Any, inputs: list[Labels]) -> list[Labels]:
    split = params["cond_nconsts"]
    start = split + params["body_nconsts"]

    def once(carry: list[Labels]) -> list[Labels]:
        (proceed,) = dependences(params["cond_jaxpr"].jaxpr, inputs[:split] + carry)
        results = dependences(params["body_jaxpr"].jaxpr, inputs[split:start] + carry)
        return [proceed | result for result in results]

    return _closure(once, inputs[start:])


def _of_scan(params: Any, inputs: list[Labels]) -> list[Labels]:
    first, count = params["num_consts"], params["num_carry"]
    last = first + count

    def once(carry: list[Labels]) -> list[Labels]:
        return dependences(params["jaxpr"].jaxpr, inputs[:first] + carry + inputs[last:])

    carry = _closure(lambda carry: once(carry)[:count], inputs[first:last])
    return carry + once(carry)[count:]


def _closure(once: Callable[[list[Labels]], list[Labels]], start: list[Labels]) -> list[Labels]:
    """What any number of rounds makes of the labels."""
    now, before = start, None
    while now != before:
        now, before = [a | b for a, b in zip(now, once(now), strict=True)], now
    return now
