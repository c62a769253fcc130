"""What a learning study found: one row per cell and variant, the best first."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from examples.llama.compare import tokens_to_reach
from examples.llama.plot import Curve
from examples.llama.study.file import StudyFile
from examples.llama.study.plan import CELLS, REFERENCE, SEEDS, VARIANTS
from examples.llama.study.search import Rates, edges


@dataclass(frozen=True)
class Finding:
    """What is known of a variant in a cell; all its runs are there."""

    cell: str
    variant: str
    rates: Rates
    """The best of the tries."""
    tries: int
    open_ends: Sequence[str]
    """Where the tries do not go beyond the best rates."""
    losses: Sequence[float]
    """Final validation losses, one per seed; infinite where a run diverged."""
    differences: Sequence[float]
    """The same minus the reference's with the same seed; empty without the reference, or if a run
    of either diverged."""
    curve: Curve
    """Tokens and the mean validation loss of the seeds; empty if one diverged."""
    tokens_to_reference: float | None
    """Where the curve falls to the reference's mean final loss."""

    @property
    def mean(self) -> float:
        """Of the final losses."""
        return statistics.fmean(self.losses)

    @property
    def spread(self) -> float:
        """Standard deviation of the final losses; infinite where a run diverged."""
        return statistics.stdev(self.losses) if math.isfinite(self.mean) else math.inf

    def as_json(self) -> dict[str, Any]:
        """All of it; None for what is infinite."""
        differences = list(self.differences)
        return {
            "cell": self.cell,
            "variant": self.variant,
            "rates": list(self.rates),
            "tries": self.tries,
            "open_ends": list(self.open_ends),
            "losses": [_finite(loss) for loss in self.losses],
            "mean": _finite(self.mean),
            "standard_deviation": _finite(self.spread),
            "mean_difference": statistics.fmean(differences) if differences else None,
            "tokens": self.curve[0][-1] if self.curve[0] else None,
            "tokens_to_reference": self.tokens_to_reference,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _complete(file: StudyFile, cell: str, variant: str) -> bool:
    enough = len(file.tries(cell, variant)) >= CELLS[cell].tries
    return enough and {run.seed for run in file.repetitions(cell, variant)} == set(SEEDS)


def _mean_curve(file: StudyFile, cell: str, variant: str) -> Curve:
    curves = [run.curve for run in file.repetitions(cell, variant) if run.loss is not None]
    if len(curves) < len(SEEDS):
        return [], []
    tokens = [point[0] for point in curves[0]]
    return tokens, [statistics.fmean(p[1] for p in points) for points in zip(*curves, strict=True)]


def findings(file: StudyFile, cell: str) -> list[Finding]:
    """The variants that are complete in a cell, the best first."""
    complete = [variant for variant in VARIANTS if _complete(file, cell, variant)]
    losses = {
        variant: {run.seed: run.score for run in file.repetitions(cell, variant)}
        for variant in complete
    }
    reference = losses.get(REFERENCE)
    if reference is not None and not all(map(math.isfinite, reference.values())):
        reference = None
    found = []
    for variant in complete:
        tries = [(run.rates, run.score) for run in file.tries(cell, variant)]
        curve = _mean_curve(file, cell, variant)
        found.append(
            Finding(
                cell,
                variant,
                file.best_rates(cell, variant),
                len(tries),
                edges(dict(tries)),
                [losses[variant][seed] for seed in SEEDS],
                [losses[variant][seed] - reference[seed] for seed in SEEDS]
                if reference and all(map(math.isfinite, losses[variant].values()))
                else [],
                curve,
                tokens_to_reach(statistics.fmean(reference.values()), curve) if reference else None,
            )
        )
    return sorted(found, key=lambda one: one.mean)
