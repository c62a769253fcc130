"""Tries of learning rates: which ones, and the file that keeps them."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console

from examples.llama.config import Experiment, OptimizerConfig, OptimizerName, Setup, as_json
from examples.llama.corpus import Corpus
from examples.llama.environment import machine, versions
from examples.llama.loop import DivergedError, Step, Validated, fit, prepare
from examples.llama.optimizers import RECIPES, rates_text, settle
from examples.llama.progress import Reporter
from examples.llama.records import read_json, write_json

_LINE_EVERY = 100
"""Steps between lines where the output is not a terminal."""


@dataclass(frozen=True)
class Grid:
    """The rates that a study tries for one optimizer."""

    learning_rates: tuple[float, ...]
    """Rates of the matrices, or of every parameter."""
    rest_learning_rates: tuple[float, ...] = ()
    """Rates of embedding, head and norms. The matrices' rates are tried at the first of them, then
    the others at the best rate of the matrices."""


_REST = (2e-2, 5e-3, 1e-2, 4e-2, 8e-2)
GRIDS: Mapping[OptimizerName, Grid] = {
    "sinkgd": Grid((2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3), (*_REST, 1.6e-1, 3.2e-1)),
    "swan": Grid((2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3), (*_REST, 1.6e-1, 3.2e-1)),
    "adamw": Grid((2.5e-4, 5e-4, 7e-4, 1e-3, 1.4e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)),
    "adamw2": Grid((4e-4, 8e-4, 1.5e-3, 3e-3, 6e-3), (*_REST, 1.5e-2, 3e-2)),
    "sgd": Grid((0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)),
}
"""Eleven tries for every optimizer, at factors of about two. Where nine of them bracket the best,
the others are close to it; where they do not, they go on."""


class Study:
    """A file of tries, and the means to add to it."""

    def __init__(self, path: Path, setup: Setup, corpus: Corpus, console: Console):
        """Read the file if it is there."""
        self._path, self._corpus, self._console = path, corpus, console
        # a try is judged by its last validation alone
        self._setup = dataclasses.replace(setup, validate_every=setup.steps)
        self._all: list[dict[str, Any]] = read_json(path)["tries"] if path.exists() else []
        self._shared = {"setup": as_json(self._setup), "corpus": corpus.name}

    def tries(self, name: OptimizerName) -> list[dict[str, Any]]:
        """What is known of an optimizer in this set-up."""
        return [
            one
            for one in self._all
            if one["optimizer"]["name"] == name
            and {key: one[key] for key in self._shared} == self._shared
        ]

    def attempt(self, optimizer: OptimizerConfig) -> float:
        """The validation loss of one try, infinite if it diverged; train unless it is known."""
        optimizer = settle(optimizer)
        for known in self.tries(optimizer.name):
            if known["optimizer"] == as_json(optimizer):
                return loss_of(known)
        self._console.print(f"{RECIPES[optimizer.name].title}, {rates_text(as_json(optimizer))}")
        outcome = self._train(optimizer)
        environment = {"versions": versions(), "machine": machine()}
        done = {"optimizer": as_json(optimizer), **outcome, **self._shared, **environment}
        self._all.append(done)
        write_json(self._path, {"tries": self._all})
        return loss_of(done)

    def _train(self, optimizer: OptimizerConfig) -> dict[str, Any]:
        task = prepare(Experiment(optimizer, self._setup), self._corpus)
        tokens = self._setup.data.tokens_per_step
        bar = Reporter(self._console, optimizer.name, self._setup.steps, 0, tokens, _LINE_EVERY)
        outcome: dict[str, Any] = {"validation_loss": None, "diverged_at_step": None}
        start = perf_counter()
        try:
            with bar:
                for event in fit(task, task.initial_state(), iter(task.batches)):
                    match event:
                        case Step():
                            bar.step(event)
                        case Validated():
                            bar.validation(event.number, event.validation)
                            outcome["validation_loss"] = event.validation.loss
        except DivergedError as error:
            self._console.print(f"Diverged: {error}")
            outcome["diverged_at_step"] = error.step
        return outcome | {"seconds": round(perf_counter() - start, 1)}


def search(name: OptimizerName, grid: Grid, attempt: Callable[[OptimizerConfig], float]) -> None:
    """Try the grid: the matrices' rates at the first rate of the rest, then the rest's others."""
    first = grid.rest_learning_rates[0] if grid.rest_learning_rates else None
    config = OptimizerConfig(name, rest_learning_rate=first)
    losses = {
        rate: attempt(dataclasses.replace(config, learning_rate=rate))
        for rate in grid.learning_rates
    }
    best = min(losses, key=losses.__getitem__)
    for rest in grid.rest_learning_rates[1:]:
        attempt(OptimizerConfig(name, learning_rate=best, rest_learning_rate=rest))


def loss_of(one: dict[str, Any]) -> float:
    """The final validation loss of a try; infinite if it diverged."""
    return math.inf if one["validation_loss"] is None else one["validation_loss"]


def edges(tries: Sequence[dict[str, Any]]) -> list[str]:
    """Which rates of the best try are the smallest or largest tried, so that the study is too
    narrow to call it the best."""
    best = min(tries, key=loss_of)
    found = []
    for key in ("learning_rate", "rest_learning_rate"):
        rate, rates = best["optimizer"][key], {one["optimizer"][key] for one in tries} - {None}
        if len(rates) > 1 and rate in (min(rates), max(rates)):
            side = "smallest" if rate == min(rates) else "largest"
            found.append(f"{key} {rate:g} is the {side} tried")
    return found
