"""The arguments that optimizers share: what documents them, and what is wrong with a value."""

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import optax

Mask: TypeAlias = optax.Params | Callable[[optax.Params], optax.Params] | None
"""A tree of booleans, or a prefix of one, or a function of the parameters that makes one."""

_TEXTS = {
    "adam": "how every other parameter is trained.",
    "alpha": (
        "multiplies the learning rate of the matrices, a number or a schedule; the papers' 0.05."
    ),
    "axes": (
        "which axes of each leaf are rows and columns, and which leaves are matrices at all, see"
        " `resolve_axes`. A function belongs into the `static_args` of `optax.inject_hyperparams`."
    ),
    "b1": "decay of the first moment.",
    "b2": "decay of the second moment.",
    "blocks": (
        "which entries share a second moment, see `resolve_blocks`. It is required, because no"
        " shape tells the heads of an attention; `flax_blocks` knows usual layouts. A function"
        " belongs into the `static_args` of `optax.inject_hyperparams`."
    ),
    "centered": (
        "whether the mean of each row is subtracted, as in the first of the two papers. It is a"
        " Python boolean."
    ),
    "eps": "added to the root of the second moment.",
    "error_feedback": (
        "whether what the subspaces do not hold is added to the next gradient, which takes a"
        " float32 array of each matrix's shape. It is a Python boolean."
    ),
    "learning_rate": "a number or a schedule.",
    "momentum": (
        "decay of a sum of gradients that is kept *before* the normalization, in one array of"
        " state per matrix. None, the papers' choice, keeps none."
    ),
    "momentum_dtype": (
        "dtype in which the state of the matrices is kept, such as `jnp.bfloat16`; None for at"
        " least float32. Arithmetic is in at least float32 either way. It belongs into the"
        " `static_args` of `optax.inject_hyperparams`."
    ),
    "mu_dtype": (
        "dtype in which the first moment is kept; None for the parameters' own. It belongs into"
        " the `static_args` of `optax.inject_hyperparams`."
    ),
    "nesterov": "whether the momentum looks ahead. It is a Python boolean.",
    "num_iters": "L, the number of sweeps, at least 1; the paper's 5.",
    "orthogonalizer": (
        "the whitening, by default the paper's `swan_whitening()`. It is a function, and belongs"
        " into the `static_args` of `optax.inject_hyperparams`."
    ),
    "rank": (
        "r, for every matrix, or rules `[(pattern, r), ...]`, of which the first whose regular"
        " expression matches a leaf's whole path decides. It belongs into the `static_args` of"
        " `optax.inject_hyperparams`."
    ),
    "rho": "how much of the power iteration's matrix is the first moment.",
    "threshold": "tau, relative to the mean row norm.",
    "tol": (
        "if given, the sweeps of a matrix stop early, as soon as no norm is violated by more than"
        " this; see `multi_normalize`."
    ),
    "weight_decay": (
        "decoupled weight decay of the matrices, a number or a schedule. Unless it is the number"
        " 0, `update` needs `params`."
    ),
    "weight_decay_mask": (
        "which parameters decay, of both groups: a tree (or prefix) of booleans or a function of"
        " the parameters that makes one, as for `optax.adamw`. A function belongs into the"
        " `static_args` of `optax.inject_hyperparams`."
    ),
}

Function = TypeVar("Function", bound=Callable[..., Any])


def documented(function: Function) -> Function:
    """Completes `Args:`, which ends in a line `...`, by the shared texts of all other arguments."""

    def filled(section: re.Match[str]) -> str:
        head, body, indent = section.groups()
        own = dict(re.findall(rf"(?m)^{indent}(\w+: )(.*(?:\n{indent}  .*)*)", body))
        lines = []
        for name in (f"{name}: " for name in inspect.signature(function).parameters):
            shared = textwrap.wrap(name + _TEXTS.get(name[:-2], ""), 90 - len(indent))
            text = name + own[name] if name in own else f"\n{indent}  ".join(shared)
            lines.append(indent + text)
        return head + "\n".join(lines)

    pattern = r"(?s)(\n *Args:\n)(.*?)( +)\.\.\.(?=\n)"
    function.__doc__ = re.sub(pattern, filled, function.__doc__ or "", count=1)
    return function


def check_numbers(**arguments: Any) -> None:
    """Raises for a schedule where none is taken, and for a decay that was rounded, perhaps to 1."""
    for name, value in arguments.items():
        if callable(value):
            raise TypeError(
                f"{name} takes no schedule, got {value!r}; write a number, or schedule it by"
                " optax.inject_hyperparams"
            )
        if isinstance(value, jax.Array) and value.dtype in (jnp.bfloat16, jnp.float16):
            raise TypeError(
                f"{name} is a number in {value.dtype}, which rounds 0.999 to 1; give"
                " optax.inject_hyperparams hyperparam_dtype=jnp.float32"
            )


def check_static(**arguments: Any) -> None:
    """Raises for arrays where a Python value decides what is computed and what is kept."""
    for name, value in arguments.items():
        if isinstance(value, jax.Array):
            raise TypeError(
                f"{name} must not be an array, {value!r}: it decides what is computed and kept;"
                " under optax.inject_hyperparams name it in static_args"
            )


def is_integer(number: Any) -> bool:
    """Whether this is an integer, and not a boolean."""
    return isinstance(number, int) and not isinstance(number, bool)
