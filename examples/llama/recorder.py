"""From what happened in training to lines of metrics."""

from time import perf_counter
from typing import Any

from examples.llama.config import Experiment
from examples.llama.loop import Step, Validated
from examples.llama.schedule import scheduled_rates


class Recorder:
    """Makes the lines of metrics.jsonl."""

    def __init__(self, experiment: Experiment, elapsed: float):
        """For a resolved experiment that has taken `elapsed` seconds already."""
        self._tokens_per_step = experiment.setup.data.tokens_per_step
        self._rates = scheduled_rates(experiment.optimizer, experiment.setup)
        self._start = perf_counter() - elapsed

    @property
    def elapsed_seconds(self) -> float:
        """Seconds that the run took up to now."""
        return round(perf_counter() - self._start, 3)

    def _where(self, number: int) -> dict[str, Any]:
        return {
            "step": number,
            "tokens": number * self._tokens_per_step,
            "elapsed_seconds": self.elapsed_seconds,
        }

    def step(self, step: Step) -> dict[str, Any]:
        """The line of a step."""
        return {
            **self._where(step.number),
            "loss": step.loss,
            **{name: float(rates[step.number - 1]) for name, rates in self._rates.items()},
            "tokens_per_second": round(self._tokens_per_step / step.seconds, 1),
        }

    def validation(self, event: Validated) -> dict[str, Any]:
        """The line of a validation."""
        return {**self._where(event.number), **event.validation.as_json()}
