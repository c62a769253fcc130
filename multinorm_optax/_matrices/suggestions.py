"""Rules to paste into error messages: few patterns that cover all uncovered leaves."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from multinorm_optax._matrices.axes import MatrixAxes, Shape, describe
from multinorm_optax._matrices.paths import UNCOVERED, DefaultRule, FoundSpec, is_rules
from multinorm_optax._matrices.roles import (
    ALONE,
    bias_of,
    is_other_role,
    names_of,
    role_words,
    sides,
    words_of,
)
from multinorm_optax._matrices.vocabulary import OUT_IN_WEIGHTS, WEIGHTS

Likely: TypeAlias = Callable[[FoundSpec], str]
"""A function from a leaf to its likeliest spec, as Python."""

_QUERY_KEY_VALUE = {"query", "key", "value", "q", "k", "v", "q_proj", "k_proj", "v_proj"}
_OUT = {"out", "o", "o_proj", "out_proj", "output"}
_NOT_WEIGHTS = re.compile(
    "emb|token|pos|vocab|table|head|logit|norm|scale|bias|gain|decay|state|code|log|mask|prompt"
    "|latent|freq|mean|var|temperature|alpha|cos|sin"
    r"|_b$|^b_|^b[a-z]$|^pe$|^ls\d*$|^d$|^w_[eu]$"
)
_PROJECTIONS = re.compile(r"(proj|projection|modulation|mlp|conv\w*|mixing)[_\d]*$")
"""Endings of names of matrices, whatever precedes them: `norm_proj`, `adaLN_modulation`."""


def uncovered_text(
    found: Sequence[FoundSpec], why: Callable[[FoundSpec], str | None], remedy: str
) -> str:
    """An error message: the uncovered leaves, each with the reason, and the remedy."""
    alike: dict[tuple[str, Shape], list[FoundSpec]] = {}
    for leaf in found:
        if leaf.spec is UNCOVERED:
            alike.setdefault((re.sub(r"\d+", "0", leaf.path), leaf.shape), []).append(leaf)
    lines = []
    for first, *others in alike.values():
        more = f" and {len(others)} with other numbers" if others else ""
        reason = why(first)
        lines.append(describe(first.path, first.shape) + more + (f": {reason}" if reason else ""))
    return "\n  ".join(lines) + f"\n{remedy}"


def missing_text(
    argument: str, problem: str, likely: Likely, specs: Any, found: Sequence[FoundSpec]
) -> str:
    """An error message: the uncovered leaves, with specs for a tree or rules to paste."""
    if not is_rules(specs):
        remedy = f"`{argument}` is a tree without a spec for this leaf; add one at its place"
        return uncovered_text(found, lambda leaf: f"likely {likely(leaf)}", remedy)
    default = next((spec for _, spec in specs if isinstance(spec, DefaultRule)), DefaultRule())
    lines = suggested_lines(
        found, lambda leaf: default.likely(leaf.path, leaf.shape) or likely(leaf)
    )
    pasted = pasteable(argument, lines, specs)
    remedy = f"{problem}; check these, and pass them as `{argument}`:\n\n{pasted}"
    return uncovered_text(found, lambda leaf: default.why_not(leaf.path, leaf.shape), remedy)


def pasteable(argument: str, lines: Iterable[str], specs: Any, default: str | None = None) -> str:
    """The assignment `argument = [...]` of new rules, the rules so far, and the default rules.

    Functions cannot be printed: if a rule has one, the rules so far are referred to by `argument`.
    """
    own = list(specs) if is_rules(specs) else []
    if any(callable(spec) and not isinstance(spec, DefaultRule) for _, spec in own):
        kept = [f"*{argument},  # the rules so far: the lines above go in front of them"]
    else:
        kept = [
            f"*{spec.text},"
            if isinstance(spec, DefaultRule)
            else f"({_pattern_text(pattern)}, {spec_text(spec)}),"
            for pattern, spec in own
        ]
    body = [*lines, *kept, *([default] if default else [])]
    return "\n".join([f"{argument} = [", *(f"    {line}" for line in body), "]"])


def suggested_lines(found: Sequence[FoundSpec], likely: Likely) -> list[str]:
    """Rules for all uncovered leaves, each a line of Python with a comment on what to check.

    A pattern matches only uncovered leaves with the same likely spec, so that the lines can go in
    any order, and before any rules.
    """
    by_spec: dict[str, list[FoundSpec]] = {}
    for leaf in found:
        if leaf.spec is UNCOVERED:
            by_spec.setdefault(likely(leaf), []).append(leaf)
    lines = []
    for spec, leaves in by_spec.items():
        inside = dict.fromkeys(leaf.path for leaf in leaves)
        outside = [leaf.path for leaf in found if leaf.path not in inside]
        for pattern in _cover(inside, outside):
            hit = [leaf for leaf in leaves if re.fullmatch(pattern, leaf.path)]
            count = f"{len(hit)} leaves" if len(hit) > 1 else "1 leaf"
            example = describe(hit[0].path, hit[0].shape)
            example = example if example.isprintable() else repr(example)
            lines.append(f"({_pattern_text(pattern)}, {spec}),  # check: {count}, {example}")
    return lines


def _cover(paths: Iterable[str], outside: Iterable[str]) -> list[str]:
    """Few patterns that match all `paths`, with any numbers where these match none of `outside`."""

    def any_number(path: str) -> str:
        return re.sub(r"\d+", lambda _: r"\d+", exactly(path))

    def exactly(path: str) -> str:
        return re.escape(path).replace(r"\-", "-")

    taken = set(map(any_number, outside))
    patterns = (any_number(p) if any_number(p) not in taken else exactly(p) for p in paths)
    return _merged(list(dict.fromkeys(patterns)))


def _merged(patterns: Sequence[str]) -> list[str]:
    """Merge patterns that differ in one segment, as in `layers/(gate|up)/kernel`."""
    rows = [tuple(pattern.split("/")) for pattern in patterns]
    for place in range(max(map(len, rows))):
        alike: dict[Any, list[str]] = {}
        for row in rows:
            around = row[:place], row[place + 1 :], len(row)
            alike.setdefault(around, []).extend(row[place : place + 1])
        rows = [
            (*before, *(names if len(names) < 2 else [f"({'|'.join(names)})"]), *after)
            for (before, after, _), names in alike.items()
        ]
    return ["/".join(row) for row in rows]


def _pattern_text(pattern: str) -> str:
    is_raw = pattern.isprintable() and '"' not in pattern and not pattern.endswith("\\")
    return f'r"{pattern}"' if is_raw else repr(pattern)


def spec_text(spec: Any) -> str:
    """A spec as Python, `MatrixAxes(output=-1, input=(-3, -2))`."""
    if not isinstance(spec, MatrixAxes):
        return repr(spec).replace("MuonDim", "optax.contrib.MuonDim")
    output, input = (side[0] if len(side) == 1 else side for side in (spec.output, spec.input))
    return f"MatrixAxes(output={output}, input={input})"


def likely_axes(
    path: str, shape: Shape, out_first: bool, shapes: Mapping[str, Shape] = ALONE
) -> MatrixAxes | None:
    """The likeliest axes of an uncovered leaf, for the user to check.

    `out_first` is the order for unknown names; `shapes` has the shapes of all leaves.
    """
    names = names_of(path)
    last = names[-1] if names else ""
    bias = bias_of(path, shapes) if last in WEIGHTS else None
    is_other = is_other_role(path, shapes) or _is_likely_other(path, shape, shapes)
    if sides(shape) < 2 or bias == shape or is_other:
        return None
    if last in WEIGHTS:
        out_first = last in OUT_IN_WEIGHTS
    ndim, words = len(shape), {word for name in names[-2:] for word in words_of(name)}
    if ndim == 2:
        return _dense(out_first)
    kernel = shape[-2:] if out_first else shape[:2]
    # Convolutions have a bias (n, 1).
    of_conv = bias is not None and len(bias) == ndim - 1 and set(bias[1:]) == {1}
    is_window = ndim >= 4 and kernel[0] == kernel[1] < 32
    if of_conv or is_window or any("conv" in word for word in words):
        if out_first:
            return MatrixAxes(-ndim, tuple(range(1 - ndim, 0)))
        return MatrixAxes(-1, tuple(range(-ndim, -1)))
    if not out_first and words & _QUERY_KEY_VALUE and (ndim == 4 or shape[0] >= shape[1]):
        stacked_second = ndim == 4 and shape[0] > shape[1]
        return MatrixAxes((-2, -1), -4 if stacked_second else -3)
    if not out_first and words & _OUT and (ndim == 4 or shape[0] * shape[1] == shape[2]):
        return MatrixAxes(-1, (-3, -2))
    if not out_first and ndim == 3 and shape[1] < min(shape[0], shape[2]):
        return MatrixAxes(-1, -3)  # layers along axis 1, as in MaxText
    return _dense(out_first)


def _dense(out_first: bool) -> MatrixAxes:
    return MatrixAxes(-2, -1) if out_first else MatrixAxes(-1, -2)


def _is_likely_other(path: str, shape: Shape, shapes: Mapping[str, Shape]) -> bool:
    """Whether its own name, or the name directly above a weight, makes another role likelier."""
    *above, last = names_of(path) or [""]
    if last not in WEIGHTS:
        return bool(_NOT_WEIGHTS.search(last.lower()))
    if not above or _PROJECTIONS.search(above[-1].lower()):
        return False
    # Convolutions and dense layers that are called embeddings have a kernel or a bias.
    embeds = re.search(r"(?<!un)emb(ed|edding|edder)?[_\d]*$", above[-1].lower())
    if embeds and (last != "weight" or bias_of(path, shapes) is not None):
        return False
    if len(shape) > 2 and not re.search("emb|norm|head|logit", above[-1].lower()):
        return False
    return above[-1] in role_words(path, shapes)
