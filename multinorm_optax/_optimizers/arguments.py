"""The arguments that optimizers share: their documentation, and checks of their values."""

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

Mask: TypeAlias = optax.Params | Callable[[optax.Params], optax.Params] | None
"""A tree of booleans, or a prefix of one, or a function of the parameters that makes one."""

_STATIC = " Under `optax.inject_hyperparams`, name it in `static_args`"
_IF_FUNCTION = f"{_STATIC} if it is a function."
_TEXTS = {
    "adam_b1": "decay of Adam's first moment, for every parameter that is not a matrix.",
    "adam_b2": "decay of Adam's second moment.",
    "adam_clip_norm": "clips the global norm of the gradients of Adam's parameters; None does not.",
    "adam_eps": "added to the root of Adam's second moment.",
    "adam_learning_rate": "Adam's learning rate, a number or a schedule; None for `learning_rate`.",
    "adam_moment_dtype": "dtype in which both of Adam's moments are kept, such as `jnp.bfloat16`;"
    " None for at least float32, which the arithmetic has either way. A second moment in bfloat16"
    f" never falls: b2 = 0.999 takes off 0.1 % a step, which rounding puts back.{_STATIC}.",
    "adam_weight_decay": "decoupled weight decay of Adam's parameters, a number or a schedule.",
    "alpha": "factor of the matrices' learning rate, a number or a schedule; the papers' 0.05.",
    "axes": "which leaves are matrices, and which of their axes are rows and columns: one"
    " `MatrixAxes` for every leaf; rules `[(pattern, spec), ...]`, of which the first whose regular"
    " expression matches a leaf's whole path decides, with None as the spec of a leaf that is not a"
    " matrix; a tree of specs, or a function that makes it from the parameters. None, the default,"
    f" stands for `FLAX_RULES`. A leaf that nothing covers is an error.{_IF_FUNCTION}",
    "b1": "decay of the first moment.",
    "b2": "decay of the second moment.",
    "cautious_weight_decay": "whether, in both groups, only those entries decay whose sign is not"
    " opposite to that of the direction, which is subtracted (Chen et al., arXiv 2510.12402); a"
    " Python boolean.",
    "centered": "whether each row's mean is subtracted, as in the first of the two papers; a Python"
    " boolean.",
    "eps": "added to the root of the second moment.",
    "error_feedback": "whether the next gradient gets what the subspaces do not hold, which takes a"
    " float32 array of each matrix's shape; a Python boolean.",
    "learning_rate": "a number or a schedule.",
    "momentum": "decay of a sum of gradients that is kept before the normalization, in one array"
    " per matrix. None, the papers' choice, keeps none.",
    "momentum_dtype": "dtype in which the state of the matrices is kept, such as `jnp.bfloat16`;"
    f" None for at least float32. Arithmetic is in at least float32 either way.{_STATIC}.",
    "mu_dtype": f"dtype in which the first moment is kept; None for the parameters' own.{_STATIC}.",
    "nesterov": "whether the momentum looks ahead; a Python boolean.",
    "num_iters": "L, the number of sweeps, at least 1; the paper's 5.",
    "orthogonalizer": "the whitening; by default `polar_express()`, exact to rounding. The first"
    f" paper's is `swan_whitening()`.{_STATIC}.",
    "rank": "r, for every matrix, or rules `[(pattern, r), ...]`; the first whose regular"
    f" expression matches a leaf's whole path decides.{_STATIC}.",
    "rho": "how much of the power iteration's matrix is the first moment.",
    "step_scale": 'factor of each m x n matrix\'s direction X, of root mean square 1: "rms" for 1,'
    ' "muon" for 1/sqrt(n), "moonlight" for 0.2, "operator" for sqrt(m/n)/sqrt(max(m, n)), or a'
    " function of m and n. With X = sqrt(max(m, n)) U V^T these are the steps sqrt(max(1, m/n)) U"
    " V^T of Muon, 0.2 sqrt(max(m, n)) U V^T of Moonlight (arXiv 2502.16982), and sqrt(m/n) U V^T,"
    " which changes features of unit size by at most the rate. It leaves the decay alone."
    f"{_IF_FUNCTION}",
    "threshold": "tau, relative to the mean row norm.",
    "tol": "if given, the sweeps of a matrix stop as soon as no residual exceeds it: the largest"
    " error of the root mean square of a row, of a column or of whatever else a norm measures,"
    " which should be 1. None makes every sweep. Reverse-mode differentiation needs None.",
    "weight_decay": "decoupled weight decay of the matrices, a number or a schedule. Unless it is"
    " the number 0, `update` needs `params`.",
    "weight_decay_mask": "which parameters of both groups decay: a tree (or prefix) of booleans, or"
    f" a function of the parameters that makes one. None decays all.{_IF_FUNCTION}",
}

Function = TypeVar("Function", bound=Callable[..., Any])


def documented(function: Function) -> Function:
    """Replace the line `...` that ends `Args:` by the shared texts of all other arguments."""

    def complete(section: re.Match[str]) -> str:
        own, indent = section.groups()
        entries = re.split(rf"(?m)^{indent}(?=\w)", own)[1:]
        found = {entry.partition(":")[0]: indent + entry for entry in entries}
        wrap = textwrap.TextWrapper(98, indent, indent + "  ").fill
        names = inspect.signature(function).parameters
        return "".join(
            found[name] if name in found else wrap(f"{name}: {_TEXTS[name]}") + "\n"
            for name in names
        )

    pattern = r"(?sm)(?<=Args:\n)(.*?)^( +)\.\.\.\n"
    function.__doc__ = re.sub(pattern, complete, function.__doc__ or "", count=1)
    return function


def check_numbers(**arguments: Any) -> None:
    """Raise for what is no number, and for a decay that was rounded, perhaps to 1."""
    for name, value in arguments.items():
        if callable(value):
            raise TypeError(
                f"{name} takes no schedule, got {value!r}; write a number, or schedule it by"
                " optax.inject_hyperparams"
            )
        if not _is_number(value):
            raise TypeError(f"{name} must be a number, got {value!r}")
        if isinstance(value, jax.Array) and value.dtype in (jnp.bfloat16, jnp.float16):
            raise TypeError(
                f"{name} is a number in {value.dtype}, which rounds 0.999 to 1; give"
                " optax.inject_hyperparams hyperparam_dtype=jnp.float32"
            )


def check_schedules(**arguments: Any) -> None:
    """Raise for what is neither a number nor a schedule."""
    for name, value in arguments.items():
        if not (callable(value) or _is_number(value)):
            raise TypeError(f"{name} must be a number or a schedule, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number, np.ndarray, jax.Array))


def given(**arguments: Any) -> dict[str, Any]:
    """The arguments that are not None."""
    return {name: value for name, value in arguments.items() if value is not None}


def check_static(**arguments: Any) -> None:
    """Raise for arrays where a Python value decides what is computed and what is kept."""
    for name, value in arguments.items():
        if isinstance(value, jax.Array):
            raise TypeError(
                f"{name} must not be an array, {value!r}: it decides what is computed and kept;"
                " under optax.inject_hyperparams name it in static_args"
            )


def check_booleans(**arguments: Any) -> None:
    """Raise for what is not a Python boolean, which decides what is computed and what is kept."""
    check_static(**arguments)
    for name, value in arguments.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def check_dtypes(**arguments: Any) -> None:
    """Raise for what is neither None nor a floating-point dtype."""
    for name, value in arguments.items():
        try:
            known = value is None or jnp.issubdtype(value, jnp.floating)
        except TypeError:
            known = False
        if not known:
            raise TypeError(f"{name} must be None or a floating-point dtype, got {value!r}")
