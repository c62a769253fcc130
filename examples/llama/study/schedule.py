"""Which runs a learning study still needs, and what each of them trains."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from examples.llama.config import Experiment
from examples.llama.optimizers import settle
from examples.llama.study.file import StudyFile
from examples.llama.study.plan import CELLS, SEEDS, VARIANTS
from examples.llama.study.search import Rates, propose

_CURVE_POINTS = 10
"""Validations of a repetition, the last one included."""


@dataclass(frozen=True)
class Due:
    """A run that the study still needs."""

    cell: str
    variant: str
    rates: Rates
    seed: int


def next_run(file: StudyFile, cell: str, variant: str) -> Due | None:
    """The next run of a variant in a cell; None when it is complete there.

    First the tries, each chosen by what the ones before gave; they begin at the best rates of the
    last cell before this one that has any. Then the repetitions.
    """
    tries = [(run.rates, run.score) for run in file.tries(cell, variant)]
    if len(tries) < CELLS[cell].tries:
        order = list(CELLS)
        tuned = [other for other in order[: order.index(cell)] if file.tries(other, variant)]
        start = file.best_rates(tuned[-1], variant) if tuned else VARIANTS[variant].start
        return Due(cell, variant, propose(start, tries), 0)
    seeds = {run.seed for run in file.repetitions(cell, variant)}
    missing = [seed for seed in SEEDS if seed not in seeds]
    return Due(cell, variant, file.best_rates(cell, variant), missing[0]) if missing else None


def due_runs(file: StudyFile, cells: Sequence[str], variants: Sequence[str]) -> Iterator[Due]:
    """Everything that is still to do; each run is to be added to the file before the next."""
    for cell in cells:
        for variant in variants:
            while (due := next_run(file, cell, variant)) is not None:
                yield due


def experiment_of(due: Due) -> Experiment:
    """What a run trains; all that its seed decides is decided by one number."""
    optimizer = dataclasses.replace(
        VARIANTS[due.variant].optimizer,
        learning_rate=due.rates.matrices,
        rest_learning_rate=due.rates.rest,
    )
    setup = CELLS[due.cell].setup
    every = setup.steps // _CURVE_POINTS if due.seed else setup.steps
    data = dataclasses.replace(setup.data, data_seed=due.seed)
    setup = dataclasses.replace(setup, data=data, seed=due.seed, validate_every=every)
    return Experiment(settle(optimizer), setup)
