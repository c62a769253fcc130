"""The arguments that optimizers share: their documentation, their checks, their defaults."""

import functools
import inspect
import math
import re
import textwrap
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import optax

from multinorm_optax._matrices.axes import is_number

Mask: TypeAlias = optax.Params | Callable[[optax.Params], optax.Params] | None
"""A tree of booleans, a prefix of one, or a function of the parameters that returns one."""

_STATIC = " Under `optax.inject_hyperparams`, list it in `static_args`"
_IF_FUNCTION = f"{_STATIC} if it is a function."
_TEXTS = {
    "adam_b1": "decay of Adam's first moment, for every parameter that is not a matrix.",
    "adam_b2": "decay of Adam's second moment.",
    "adam_clip_norm": "if given, clips the global norm of the gradients of Adam's parameters.",
    "adam_eps": "added to the root of Adam's second moment.",
    "adam_learning_rate": "Adam's learning rate, a number or a schedule; None for `learning_rate`.",
    "adam_moment_dtype": "dtype of both of Adam's stored moments, such as `jnp.bfloat16`; None for"
    " at least float32, in which Adam computes either way. A second moment in bfloat16 never falls:"
    f" b2 = 0.999 reduces it by 0.1 % a step, which rounding undoes.{_STATIC}.",
    "adam_weight_decay": "decoupled weight decay of Adam's parameters, a number or a schedule.",
    "alpha": "factor of the matrices' learning rate, a number or a schedule; 0.05 in the papers.",
    "axes": "which leaves are matrices, and which of their axes are rows and columns: one"
    " `MatrixAxes` for every leaf; rules `[(pattern, spec), ...]`, of which the first whose regular"
    " expression matches a leaf's whole path decides, with None as the spec of a leaf that is not a"
    " matrix; a tree of specs, or a function of the parameters that returns one. None, the default,"
    f" stands for `FLAX_RULES`. An uncovered leaf is an error.{_IF_FUNCTION}",
    "b1": "decay of the first moment.",
    "b2": "decay of the second moment.",
    "cautious_weight_decay": "whether, in both groups, an entry only decays if its sign is not"
    " opposite to that of its direction, which is subtracted (Chen et al., arXiv 2510.12402); a"
    " Python boolean.",
    "centered": "whether to subtract each row's mean, as in the first of the two papers; a Python"
    " boolean.",
    "eps": "added to the root of the second moment.",
    "error_feedback": "whether to add what the subspaces lose to the next gradient, which takes a"
    " float32 array of each matrix's shape; a Python boolean.",
    "learning_rate": "a number or a schedule.",
    "momentum": "decay of a sum of gradients before the normalization, one array per matrix; None,"
    " as in the papers, for no momentum.",
    "momentum_dtype": "dtype of the stored state of the matrices, such as `jnp.bfloat16`; None for"
    f" at least float32, in which arithmetic is done either way.{_STATIC}.",
    "mu_dtype": "dtype of the stored first moment of real weights; None for that of the parameters."
    f"{_STATIC}.",
    "nesterov": "whether the momentum looks ahead; a Python boolean.",
    "num_iters": "L, the number of sweeps, at least 1; 5 in the paper. Reverse-mode differentiation"
    " needs a Python integer.",
    "orthogonalizer": "the whitening; by default `polar_express()`, exact to rounding. The first"
    f" paper's is `swan_whitening()`.{_STATIC}.",
    "rank": "r for every matrix, or rules `[(pattern, r), ...]`, of which the first whose regular"
    f" expression matches a leaf's whole path decides.{_STATIC}.",
    "rho": "weight of the first moment in the power iteration's matrix.",
    "step_scale": 'factor of each m x n matrix\'s direction X, of root mean square 1: "rms" for 1,'
    ' "muon" for 1/sqrt(n), "moonlight" for 0.2, "operator" for sqrt(m/n)/sqrt(max(m, n)), or a'
    " function of m and n. With X = sqrt(max(m, n)) U V^T these are the steps sqrt(max(1, m/n)) U"
    " V^T of Muon, 0.2 sqrt(max(m, n)) U V^T of Moonlight (arXiv 2502.16982), and sqrt(m/n) U V^T,"
    " which changes features of unit size by at most the rate. It does not scale weight decay."
    f"{_IF_FUNCTION}",
    "threshold": "tau, relative to the mean row norm.",
    "tol": "if given, the sweeps of a matrix stop once no residual exceeds it: the largest error of"
    " the root mean square of a row, of a column or of another group of a norm, which should be 1."
    " None makes every sweep. Reverse-mode differentiation needs None.",
    "weight_decay": "decoupled weight decay of the matrices, a number or a schedule. Unless it is"
    " the number 0, `update` needs `params`.",
    "weight_decay_mask": "which parameters of both groups decay: a tree (or prefix) of booleans, or"
    f" a function of the parameters that returns one. None decays all.{_IF_FUNCTION}",
}

Function = TypeVar("Function", bound=Callable[..., Any])


def documented(function: Function) -> Function:
    """Replace the line `...` at the end of `Args:` by the shared texts of all other arguments."""
    names = inspect.signature(function).parameters

    def complete(section: re.Match[str]) -> str:
        own, indent = section.groups()
        entries = re.split(rf"(?m)^{indent}(?=\w)", own)[1:]
        found = {entry.partition(":")[0]: indent + entry for entry in entries}
        wrap = textwrap.TextWrapper(98, indent, indent + "  ").fill
        return "".join(
            found[name] if name in found else wrap(f"{name}: {_TEXTS[name]}") + "\n"
            for name in names
        )

    pattern = r"(?sm)(?<=Args:\n)(.*?)^( +)\.\.\.\n"
    function.__doc__ = re.sub(pattern, complete, function.__doc__ or "", count=1)
    return function


def takes_options_of(inner: Callable[..., Any]) -> Callable[[Function], Function]:
    """Complete the signature of a function with `**options: Unpack[Options]` for `inner`."""
    defaults = inspect.signature(inner).parameters

    def complete(function: Function) -> Function:
        signature = inspect.signature(function)
        *own, options = signature.parameters.values()
        (named,) = typing.get_args(options.annotation)
        taken = [each for name, each in defaults.items() if name in named.__annotations__]
        signature = signature.replace(parameters=[*own, *taken])

        @functools.wraps(function)
        def checked(*args: Any, **arguments: Any) -> Any:
            for name in arguments:
                if name not in signature.parameters:
                    raise TypeError(
                        f"{function.__name__}() got an unexpected keyword argument {name!r}"
                    )
            return function(*args, **arguments)

        checked.__signature__ = signature  # type: ignore[attr-defined]
        return typing.cast(Function, checked)

    return complete


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise a TypeError for an argument of the wrong type, by its name, a ValueError for its value.

    The values of JAX's arrays are not checked: they may be traced.
    """
    for name, value in arguments.items():
        if name in _CHECKS and (value is not None or name not in _OPTIONAL):
            _CHECKS[name](name, value)


def _check_number(name: str, value: Any) -> None:
    """Raise for a schedule, and for a number narrower than float32: bfloat16 rounds 0.999 to 1."""
    if callable(value):
        raise TypeError(
            f"{name} takes no schedule, got {value!r}; write a number, or schedule it with"
            " optax.inject_hyperparams"
        )
    _check_real(name, value, finite=False)
    is_float = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating)
    if is_float and jnp.finfo(value.dtype).bits < 32:
        raise TypeError(
            f"{name} is a number in {value.dtype}, too coarse for a decay such as 0.999; give"
            " optax.inject_hyperparams hyperparam_dtype=jnp.float32"
        )


def _between(text: str, holds: Callable[[Any], bool]) -> Callable[[str, Any], None]:
    """The check of a number for which `holds`, which an error message says as `text`."""

    def check(name: str, value: Any) -> None:
        _check_number(name, value)
        if not isinstance(value, jax.Array) and not holds(value):
            raise ValueError(f"{name} must be {text}, got {value}")

    return check


def _check_schedule(name: str, value: Any) -> None:
    if not callable(value):
        _check_real(name, value, "a number or a schedule")


def _check_real(name: str, value: Any, kind: str = "a number", *, finite: bool = True) -> None:
    if not is_number(value):
        raise TypeError(f"{name} must be {kind}, got {value!r}")
    if finite and not isinstance(value, jax.Array) and not abs(value) < math.inf:
        raise ValueError(f"{name} must be finite, got {value}")


def _check_static(name: str, value: Any) -> None:
    if isinstance(value, jax.Array):
        raise TypeError(
            f"{name} must not be an array, {value!r}: it decides what is computed and stored;"
            " under optax.inject_hyperparams list it in static_args"
        )


def _check_boolean(name: str, value: Any) -> None:
    _check_static(name, value)
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def _check_dtype(name: str, value: Any) -> None:
    _check_static(name, value)
    try:
        known = value is None or jnp.issubdtype(value, jnp.floating)
    except TypeError:
        known = False
    if not known:
        raise TypeError(f"{name} must be None or a floating-point dtype, got {value!r}")


_CHECKS = {
    name: check
    for check, names in {
        _check_schedule: "learning_rate alpha weight_decay adam_learning_rate adam_weight_decay",
        _between("at least 0 and less than 1", lambda x: 0 <= x < 1): (
            "adam_b1 adam_b2 b1 b2 momentum"
        ),
        _between("at least 0 and at most 1", lambda x: 0 <= x <= 1): "rho",
        _between("at least 0", lambda x: x >= 0): "adam_eps eps adam_clip_norm threshold",
        _check_boolean: "nesterov cautious_weight_decay centered error_feedback",
        _check_dtype: "momentum_dtype adam_moment_dtype mu_dtype",
        _check_static: "rank",
    }.items()
    for name in names.split()
}
_OPTIONAL = {"adam_clip_norm", "adam_learning_rate", "momentum"}
