"""The options of `bench`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import jax.numpy as jnp

from examples.llama.config import PresetName
from examples.llama.presets import PRESETS
from examples.llama.run.options import Checked, Positive

Section = Literal["step", "shapes", "baselines", "compilation", "orthogonalizers"]


@dataclass(frozen=True)
class Command(Checked):
    """Measure the time of an optimizer's update, beside the project's targets.

    Times are ratios to AdamW's: the optimizers take turns in one process, a step of each is a
    round, and ratios are taken within a round, which a machine that is now faster and now slower
    changes little. The figures go to a JSON file, with a picture of the first section beside it.
    """

    sections: tuple[Section, ...] = get_args(Section)[:2]
    """step: from gradients to new weights, on the matrices of every preset, with SinkGD, AdamW,
    SGD, Muon and SWAN. shapes: SinkGD on each shape separately, hostile ones too. baselines: as
    step, with optimizers that have less state than AdamW, some of which factorize every matrix of
    the largest models once. compilation: the time to compile an update of many unstacked matrices.
    orthogonalizers: what each arithmetic does to small singular values."""
    presets: tuple[PresetName, ...] = tuple(name for name in PRESETS if name != "cpu")
    """Models whose matrices are updated."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of weights, gradients and optimizer state that are timed."""
    gradients: Literal["gaussian", "steep"] = "gaussian"
    """Of the step. Gaussian ones are balanced after three sweeps; steep ones, whose entries span
    twelve powers of ten, are not balanced after five."""
    seconds: Positive = 20.0
    """Time for each group of optimizers on each preset, and a tenth of it for each shape,
    compilation not included; every group has at least three rounds."""
    megabytes: Positive = 128.0
    """Size of the weights that are updated: as many of a preset's layers as fit, at least one; a
    quarter of it for a shape separately."""
    results: Path = Path("runs/bench/bench.json")
    """The file of all figures; the picture is written beside it, as .png."""

    @property
    def elements(self) -> float:
        """The number of weights that are updated."""
        return 1e6 * self.megabytes / jnp.dtype(self.precision).itemsize
