"""Directions that might learn more than SinkGD and SWAN: `python -m examples.measure.candidates`.

They are tried in the cells of the study.
"""

import functools
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import optax
from rich.console import Console

import multinorm_optax as mo
from examples.llama import optimizers
from examples.llama.config import CorpusConfig, InputError
from examples.llama.optimizers import Context
from examples.llama.run.command import run_command
from examples.llama.run.environment import machine, versions
from examples.llama.run.options import check_names
from examples.llama.text.corpus import load_corpus
from examples.measure.directions import (
    joint_rows_and_spectral,
    moving_scales,
    scale_by_side_variance,
)
from examples.measure.orthogonalizers import BFLOAT16, TF32, emulated, with_product
from examples.measure.study.plan import CELLS
from examples.measure.study.points import Rates
from examples.measure.study.runs import Run, RunsFile, Trial
from examples.measure.study.training import Trainer
from examples.measure.tables import Table


@dataclass(frozen=True)
class Candidate:
    """A direction for the matrices; every other parameter has Adam."""

    title: str
    direction: Callable[[Any], optax.GradientTransformation]
    """From the axes of the matrices."""
    like: str = "swan"
    """The optimizer whose best rates in the study are the center of the search."""
    momentum: float = 0.0
    """Of gradients, with Nesterov's correction."""


def _swan(title: str, orthogonalizer: Any, momentum: float = 0.0) -> Candidate:
    """Normalized rows, then the polar factor, more or less exact."""
    swan = functools.partial(mo.scale_by_swan, orthogonalizer=orthogonalizer)
    return Candidate(title, swan, momentum=momentum)


def _sweeps(title: str, orthogonalizer: Any, *after: optax.GradientTransformation) -> Candidate:
    """Two sweeps of SinkGD, then the polar factor, then root mean square 1."""

    def direction(axes: Any) -> optax.GradientTransformation:
        swan = mo.scale_by_swan(axes, orthogonalizer=orthogonalizer, num_iters=2)
        return optax.chain(swan, *after)

    return Candidate(title, direction)


def _polar(axes: Any) -> optax.GradientTransformation:
    return mo.normalize_spectral(axes, mo.polar_express())


def _unit(axes: Any, before: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(before, mo.normalize(mo.FrobeniusNorm(), axes))


def _swan_then_variance(axes: Any, decay: float = 0.95) -> optax.GradientTransformation:
    return optax.chain(mo.scale_by_swan(axes), scale_by_side_variance(decay))


_EXACT, _COARSE = mo.polar_express(), functools.partial(mo.polar_express, 5, 1e-3)
_TF32, _SPLIT = emulated(TF32, 1), emulated(BFLOAT16, 2)

CANDIDATES: Mapping[str, Candidate] = {
    "polar-12": _swan("12 quintics from 1e-5 (SWAN's default)", _EXACT),
    "polar-8": _swan("8 quintics from 1e-4", mo.polar_express(8, 1e-4)),
    "polar-5": _swan("5 quintics from 1e-3", _COARSE()),
    "polar-3": _swan("3 quintics from 1e-2", mo.polar_express(3, 1e-2)),
    "polar-12-bfloat16": _swan(
        "12 quintics from 1e-5, bfloat16", mo.polar_express(dtype=jnp.bfloat16)
    ),
    "polar-5-bfloat16": _swan("5 quintics from 1e-3, bfloat16", _COARSE(dtype=jnp.bfloat16)),
    "polar-12-tf32": _swan("12 quintics from 1e-5, TF32", with_product(_EXACT, _TF32)),
    "polar-5-tf32": _swan("5 quintics from 1e-3, TF32", with_product(_COARSE(), _TF32)),
    "polar-12-split": _swan("12 quintics from 1e-5, bfloat16 x 3", with_product(_EXACT, _SPLIT)),
    "quintic-5": _swan("5 of Muon's quintics", mo.muon_quintic()),
    "coupled-10": _swan("10 coupled steps (SWAN's paper)", mo.swan_whitening()),
    "polar-12-momentum": _swan("12 quintics from 1e-5, momentum", _EXACT, 0.95),
    "polar-5-momentum": _swan("5 quintics from 1e-3, momentum", _COARSE(), 0.95),
    "polar-only": Candidate("polar factor alone", lambda axes: _unit(axes, _polar(axes))),
    "sweeps-polar": _sweeps("2 sweeps, then 12 quintics", _EXACT),
    "sweeps-quintic-2": _sweeps("2 sweeps, then 2 of Muon's quintics", mo.muon_quintic(2)),
    "sweeps-quintic-1": _sweeps("2 sweeps, then 1 of Muon's quintics", mo.muon_quintic(1)),
    "joint-scales": Candidate(
        "rows and polar factor by scales (Aurora)",
        lambda axes: _unit(axes, joint_rows_and_spectral(_polar(axes))),
    ),
    "side-variance": Candidate("SWAN, then variance per column (NorMuon)", _swan_then_variance),
    "side-norm": Candidate(
        "SWAN, then equal columns", functools.partial(_swan_then_variance, decay=0.0)
    ),
    "sweeps-polar-variance": _sweeps(
        "2 sweeps, then 12 quintics, then variance per column", _EXACT, scale_by_side_variance()
    ),
    "moving-scales": Candidate(
        "moving averages of the scales (RACS)", lambda axes: moving_scales(), "sinkgd-2"
    ),
    "sweeps": Candidate("2 sweeps", lambda axes: mo.scale_by_sinkhorn(axes, 2), "sinkgd-2"),
}
"""By name: SWAN with more and less exact orthogonalizers, then other directions.

TF32 and bfloat16 split into two parts are emulated, see `examples.measure.orthogonalizers`.
"""

CENTERS: Mapping[str, Mapping[str, Rates]] = {
    "small-8k": {"swan": Rates(4.4e-3, 4.4e-2), "sinkgd-2": Rates(2.2e-3, 8.7e-2)},
    "small-1k": {"swan": Rates(3.1e-3, 1.2e-1), "sinkgd-2": Rates(2.2e-3, 8.7e-2)},
}
"""The best rates of the study's search by cell and optimizer, two digits."""


FACTORS = (0, -1, 1)
"""The first rates of the matrices, as powers of two of the center."""
SEEDS = (1, 2)
"""At the best rate, besides the search's seed 0."""


def _search(
    cell: str, name: str, runs: Sequence[Run]
) -> tuple[list[Trial], dict[int, Run], Run | None]:
    """The rates to try next, what was tried by its power of two, and the best inside, if known."""
    own = [run for run in runs if (run.trial.cell, run.trial.optimizer) == (cell, name)]
    center, steps = CENTERS[cell][CANDIDATES[name].like], CELLS[cell].setup.steps

    def trial(power: int) -> Trial:
        rates = Rates(float(f"{center.matrices * 2.0**power:.5g}"), center.rest)
        return Trial(cell, name, 0, power, rates, 0, steps)

    for run in own:
        if run.trial != trial(run.trial.point)._replace(seed=run.trial.seed):
            raise InputError(f"{run.trial} is not of this search; choose other --results")
    done = {run.trial.point: run for run in own if run.trial.seed == 0}
    if missing := [power for power in FACTORS if power not in done]:
        return [trial(power) for power in missing], done, None
    best = min(done, key=lambda power: done[power].score)
    if best in (min(done), max(done)):
        return [trial(best + (1 if best == max(done) else -1))], done, None
    return [], done, done[best]


def due_trials(cell: str, names: Sequence[str], runs: Sequence[Run]) -> list[Trial]:
    """What can be run now in a cell: every candidate's search, then the best rates' repetitions."""
    searches = [_search(cell, name, runs) for name in names]
    again = [best.trial._replace(seed=seed) for seed in SEEDS for _, _, best in searches if best]
    made = {run.trial.key for run in runs}
    first = [trial for trials, _, _ in searches for trial in trials]
    return first + [trial for trial in again if trial.key not in made]


def tabulate(cell: str, names: Sequence[str], runs: Sequence[Run]) -> Table:
    """The candidates of one cell whose best rate was found, best first."""
    rows, made = [], {run.trial.key: run.score for run in runs}
    for name in names:
        _, done, best = _search(cell, name, runs)
        if best is None:
            continue
        keys = [best.trial._replace(seed=seed).key for seed in (0, *SEEDS)]
        scores, mean = [made[key] for key in keys if key in made], "-"
        if math.isinf(max(scores)):
            mean = "diverged"
        elif len(scores) == len(keys):
            mean = f"{statistics.fmean(scores):.3f} ± {statistics.stdev(scores):.3f}"
        figures = [str(len(done)), str(best.trial.rates), f"{best.score:.3f}", mean]
        rows.append((best.score, [CANDIDATES[name].title, *figures]))
    heads = ["", "rates tried", "best rates", "final loss, nats: seed 0", "three seeds"]
    return Table(heads, [cells for _, cells in sorted(rows)], CELLS[cell].title)


@dataclass(frozen=True)
class Command:
    """Search the matrices' rate of each candidate by factors of two, and repeat the best one.

    The search goes on while its best rate lies at an end. Embedding, head and norms have the rate
    that was best in the study. The same command goes on with what was stopped; started twice, two
    processes share the runs.
    """

    cells: tuple[str, ...] = tuple(CENTERS)
    """Model and batch sizes, in this order."""
    candidates: tuple[str, ...] = tuple(CANDIDATES)
    """In this order."""
    results: Path = Path("runs/candidates/candidates.jsonl")
    """The file of all runs."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    show: bool = False
    """Train nothing; show what the results file holds."""

    def __post_init__(self) -> None:
        if self.show and not self.results.exists():
            raise InputError(f"{self.results} does not exist; --show shows a file that is there")
        check_names("--cells", self.cells, CENTERS)
        check_names("--candidates", self.candidates, CANDIDATES)


def _build(name: str, context: Context) -> optax.GradientTransformation:
    candidate = CANDIDATES[name]
    momentum = {"momentum": candidate.momentum, "nesterov": candidate.momentum > 0}
    options = {**context.options, **momentum}
    return optimizers.with_adam(candidate.direction, replace(context, options=options))


def carry_out(command: Command, file: RunsFile, console: Console) -> None:
    """Make all runs that are due."""
    vocabulary = CELLS[command.cells[0]].setup.model.vocabulary
    corpus = load_corpus(command.corpus, vocabulary, console)
    for cell in command.cells:
        file.check_text(cell, corpus.name)
    environment = file.environment({"corpus": corpus.name, **versions(), **machine()})

    @functools.lru_cache(maxsize=1)
    def trainer(cell: str, name: str) -> Trainer:
        return Trainer(CELLS[cell], "swan", corpus, functools.partial(_build, name))

    def due(runs: Sequence[Run]) -> list[Trial]:
        return [t for cell in command.cells for t in due_trials(cell, command.candidates, runs)]

    def make(trial: Trial) -> Run:
        run = trainer(trial.cell, trial.optimizer).run(trial, environment)
        console.print(
            f"{trial.cell}, {CANDIDATES[trial.optimizer].title}, {trial.rates}, seed "
            f"{trial.seed}: {run.score:.4f}, {run.seconds:.0f} s",
            soft_wrap=True,
            highlight=False,
        )
        return run

    file.carry_out(due, make)


def run(command: Command, console: Console) -> int:
    """Carry out what is missing, then report; return the exit code."""
    file = RunsFile(command.results)
    make = functools.partial(carry_out, command, file, console)
    if not command.show and (code := file.until_stopped(make, console)):
        return code
    runs = file.runs()
    for cell in command.cells:
        console.print(tabulate(cell, command.candidates, runs), "")
    return 0


main = functools.partial(run_command, "examples.measure.candidates", Command, run)
"""Run the command line with these arguments; return the exit code."""

if __name__ == "__main__":
    sys.exit(main(None))
