"""The candidates by name, and where the search of each one's rate begins."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

import multinorm_optax as mo
from examples.measure.candidates.directions import (
    after_sweeps,
    joint_rows_and_spectral,
    moving_scales,
    scale_by_side_variance,
)
from examples.measure.study.points import Rates


@dataclass(frozen=True)
class Candidate:
    """A direction for the matrices; every other parameter has Adam."""

    title: str
    direction: Callable[[Any], optax.GradientTransformation]
    """From the axes of the matrices."""
    like: str
    """The optimizer whose best rates in the study are the center of the search."""
    momentum: float = 0.0
    """Of gradients, with Nesterov's correction."""


def _swan(title: str, orthogonalizer: Any, momentum: float = 0.0) -> Candidate:
    return Candidate(
        title,
        lambda axes: mo.scale_by_swan(axes, orthogonalizer=orthogonalizer),
        "swan",
        momentum,
    )


def _sweeps(title: str, sweeps: int, orthogonalizer: Any) -> Candidate:
    return Candidate(title, lambda axes: after_sweeps(axes, sweeps, orthogonalizer), "swan")


def _polar(axes: Any) -> optax.GradientTransformation:
    return mo.normalize_spectral(axes, mo.polar_express())


def _unit(axes: Any, *before: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(*before, mo.normalize(mo.FrobeniusNorm(), axes))


EXACTNESS: Mapping[str, Candidate] = {
    "polar-12": _swan("12 quintics from 1e-5 (SWAN's default)", mo.polar_express()),
    "polar-8": _swan("8 quintics from 1e-4", mo.polar_express(8, 1e-4)),
    "polar-5": _swan("5 quintics from 1e-3", mo.polar_express(5, 1e-3)),
    "polar-3": _swan("3 quintics from 1e-2", mo.polar_express(3, 1e-2)),
    "polar-12-bfloat16": _swan(
        "12 quintics from 1e-5, bfloat16", mo.polar_express(dtype=jnp.bfloat16)
    ),
    "polar-5-bfloat16": _swan(
        "5 quintics from 1e-3, bfloat16", mo.polar_express(5, 1e-3, dtype=jnp.bfloat16)
    ),
    "quintic-5": _swan("5 of Muon's quintics", mo.muon_quintic()),
    "coupled-10": _swan("10 coupled steps (SWAN's paper)", mo.swan_whitening()),
    "polar-12-momentum": _swan("12 quintics from 1e-5, momentum", mo.polar_express(), 0.95),
    "polar-5-momentum": _swan("5 quintics from 1e-3, momentum", mo.polar_express(5, 1e-3), 0.95),
}
"""Normalized rows, then the polar factor, with more and less exact orthogonalizers."""

DIRECTIONS: Mapping[str, Candidate] = {
    "polar-only": Candidate("polar factor alone", lambda axes: _unit(axes, _polar(axes)), "swan"),
    "sweeps-polar": _sweeps("2 sweeps, then 12 quintics", 2, mo.polar_express()),
    "sweeps-quintic-2": _sweeps("2 sweeps, then 2 of Muon's quintics", 2, mo.muon_quintic(2)),
    "sweeps-quintic-1": _sweeps("2 sweeps, then 1 of Muon's quintics", 2, mo.muon_quintic(1)),
    "joint-scales": Candidate(
        "rows and polar factor by scales (Aurora)",
        lambda axes: _unit(axes, joint_rows_and_spectral(_polar(axes))),
        "swan",
    ),
    "side-variance": Candidate(
        "SWAN, then variance per column (NorMuon)",
        lambda axes: optax.chain(mo.scale_by_swan(axes), scale_by_side_variance()),
        "swan",
    ),
    "side-norm": Candidate(
        "SWAN, then equal columns",
        lambda axes: optax.chain(mo.scale_by_swan(axes), scale_by_side_variance(decay=0.0)),
        "swan",
    ),
    "sweeps-polar-variance": Candidate(
        "2 sweeps, then 12 quintics, then variance per column",
        lambda axes: optax.chain(
            after_sweeps(axes, 2, mo.polar_express()), scale_by_side_variance()
        ),
        "swan",
    ),
    "moving-scales": Candidate(
        "moving averages of the scales (RACS)", lambda axes: moving_scales(), "sinkgd-2"
    ),
    "sweeps": Candidate("2 sweeps", lambda axes: mo.scale_by_sinkhorn(axes, 2), "sinkgd-2"),
}
"""Other directions, with their references."""

CANDIDATES: Mapping[str, Candidate] = {**EXACTNESS, **DIRECTIONS}

CENTERS: Mapping[str, Mapping[str, Rates]] = {
    "small-8k": {"swan": Rates(4.4e-3, 4.4e-2), "sinkgd-2": Rates(2.2e-3, 8.7e-2)},
    "small-1k": {"swan": Rates(3.1e-3, 1.2e-1), "sinkgd-2": Rates(2.2e-3, 8.7e-2)},
}
"""The best rates of the study's search by cell and optimizer, two digits."""
