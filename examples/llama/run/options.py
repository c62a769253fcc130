"""Options as frozen dataclasses: bounds of their values, and the way back from JSON.

A field says its bounds in its annotation, as `steps: Count = 300`, and its class inherits
`Checked`. Values are then checked whenever one is made, from a command line, from JSON or in
Python.
"""

import dataclasses
import importlib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

Config = TypeVar("Config")


class InputError(ValueError):
    """The command cannot be carried out as given; the message says what to change."""


def import_optional(package: str, install: str, what: str = "this") -> ModuleType:
    """Import a package that need not be installed; `install` is what pip takes, `what` needs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"{what} needs the package {package}: pip install {install} ({error})"
        ) from error


@dataclass(frozen=True)
class Within:
    """Bounds of a number, also after rounding to float32; it has to be finite in any case."""

    least: float = -math.inf
    above: float = -math.inf
    below: float = math.inf

    def check(self, option: str, value: float) -> None:
        """Check a value."""
        required = self._required(value)
        if required is None and isinstance(value, float):
            of_device = self._required(_in_float32(value))
            required = None if of_device is None else f"{of_device} in float32"
        if required is not None:
            raise InputError(f"{option} is {value}, but must be {required}")

    def _required(self, value: float) -> str | None:
        if not math.isfinite(value):
            return "a finite number"
        if value < self.least:
            return f"at least {self.least:g}"
        if value <= self.above:
            return "positive" if self.above == 0 else f"more than {self.above:g}"
        return f"less than {self.below:.0f}" if value >= self.below else None


def _in_float32(value: float) -> float:
    """What a device makes of a number: infinite if too large, 0 below the normal numbers."""
    limits = np.finfo(np.float32)
    if abs(value) > float(limits.max):
        return math.inf
    return 0.0 if abs(value) < float(limits.tiny) else float(np.float32(value))


_INT32 = 2**31

Count = Annotated[int, Within(least=1, below=_INT32)]
"""1, 2, 3, ..."""
Natural = Annotated[int, Within(least=0, below=_INT32)]
"""0, 1, 2, ..."""
Positive = Annotated[float, Within(above=0)]
"""More than 0."""
NotNegative = Annotated[float, Within(least=0)]
"""0 or more."""
Decay = Annotated[float, Within(least=0, below=1)]
"""What remains of an average in a step: from 0 to less than 1."""


def flag(field: str) -> str:
    """The option of a field."""
    return "--" + field.replace("_", "-")


def check_names(option: str, chosen: Collection[str], known: Collection[str]) -> None:
    """Raise an error that names the option unless all names are known, and there is one."""
    if not chosen:
        raise InputError(f"{option} names none; leave the option out for its default")
    if unknown := [name for name in chosen if name not in known]:
        raise InputError(f"{option}: {', '.join(unknown)} is not one of {', '.join(known)}")


class Checked:
    """A configuration whose fields are within the bounds that their annotations say."""

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            value = getattr(self, name)
            for one in value if isinstance(value, tuple) else (value,):
                # not None, nor a number that is traced
                if isinstance(one, int | float):
                    for bounds in _bounds(hint):
                        bounds.check(flag(name), one)


def _hints(kind: Any) -> Mapping[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _bounds(hint: Any) -> Iterator[Within]:
    yield from (one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Within))
    for inner in get_args(hint):
        yield from _bounds(inner)


def as_json(config: Any) -> dict[str, Any]:
    """Return a configuration as what JSON can hold."""
    values = dataclasses.asdict(config)
    return {key: str(v) if isinstance(v, Path) else v for key, v in values.items()}


def from_json(kind: type[Config], stored: Any, what: str) -> Config:
    """Back from what `as_json` made; `what` says where that is, for messages."""
    hints = _hints(kind)
    if not isinstance(stored, dict):
        raise InputError(f"{what} is {stored!r}, not an object; put back a whole copy of the file")
    if hints.keys() != stored.keys():
        wrong = ", ".join(sorted(hints.keys() ^ stored.keys()))
        raise InputError(
            f"{what} lacks or does not know: {wrong}; put back a whole copy of the file"
        )
    values = {name: _value(hint, stored[name], f"{what}, {name}") for name, hint in hints.items()}
    try:
        return kind(**values)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error


def _value(hint: Any, stored: Any, what: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_json(hint, stored, what)  # type: ignore[arg-type]
    if not fits(hint, stored):
        raise InputError(f"{what} cannot be {stored!r}; put back a whole copy of the file")
    return Path(stored) if stored is not None and Path in (hint, *get_args(hint)) else stored


def fits(hint: Any, stored: Any) -> bool:
    """Whether a value from JSON has the type that the annotation of a field says."""
    inner = get_args(hint)
    if get_origin(hint) is Literal:
        return stored in inner
    if get_origin(hint) is Annotated:
        return fits(inner[0], stored)
    if inner:  # of a union
        return any(fits(one, stored) for one in inner)
    return type(stored) in {float: (float, int), Path: (str,)}.get(hint, (hint,))
