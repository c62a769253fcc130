"""The file of a learning study: every run and what determined it, written when it is done."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from examples.llama.config import InputError, as_json
from examples.llama.environment import machine, versions
from examples.llama.records import read_json, write_json
from examples.llama.study.plan import CELLS, VARIANTS
from examples.llama.study.search import Rates, best


@dataclass(frozen=True)
class Run:
    """One training run of the study."""

    cell: str
    variant: str
    learning_rate: float
    rest_learning_rate: float | None
    seed: int
    """0 for a try of rates, else a repetition of the best ones."""
    loss: float | None
    """Final validation loss in nats per byte; None if the run diverged."""
    curve: Sequence[tuple[int, float]]
    """Tokens and validation loss on the way."""
    diverged_at_step: int | None
    seconds: float
    """Of the whole run, whatever else the machine did: no measure of speed."""
    environment: int
    """Index into the file's environments."""

    @property
    def rates(self) -> Rates:
        """The peak rates."""
        return Rates(self.learning_rate, self.rest_learning_rate)

    @property
    def score(self) -> float:
        """The loss, infinite for a run that diverged."""
        return float("inf") if self.loss is None else self.loss


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that are not left out: a file stays valid when optimizers get new ones."""
    return {name: value for name, value in options.items() if value is not None}


class StudyFile:
    """The runs of a study, in a JSON file."""

    def __init__(self, path: Path, corpus: str):
        """Read the file if it is there."""
        self.path, self._corpus = path, corpus
        stored = read_json(path) if path.exists() else {}
        self._plan: dict[str, Any] = {
            key: _given(value) if key.startswith("variant ") else value
            for key, value in stored.get("plan", {"corpus": corpus}).items()
        }
        self._environments: list[dict[str, Any]] = stored.get("environments", [])
        self.runs = [Run(**run) for run in stored.get("runs", [])]

    def _plan_of(self, cells: Sequence[str], variants: Sequence[str]) -> dict[str, Any]:
        return (
            {"corpus": self._corpus}
            | {f"cell {cell}": as_json(CELLS[cell].setup) for cell in cells}
            | {
                f"variant {variant}": _given(as_json(VARIANTS[variant].optimizer))
                for variant in variants
            }
        )

    def check(self, cells: Sequence[str], variants: Sequence[str]) -> None:
        """Check that runs of these may be added.

        Raises:
            InputError: the file's text, or one of these in it, is not that of this program.
        """
        for key, value in self._plan_of(cells, variants).items():
            if self._plan.get(key, value) != value:
                raise InputError(
                    f"{self.path} was made with another {key}: {self._plan[key]} there, {value} "
                    f"here; choose another file with --results"
                )

    def environment(self) -> int:
        """The index of this machine and these versions, added if they are new."""
        now = {"versions": versions(), "machine": machine()}
        if now not in self._environments:
            self._environments.append(now)
        return self._environments.index(now)

    def environments(self) -> Sequence[dict[str, Any]]:
        """All machines and versions that runs were made with."""
        return self._environments

    def add(self, run: Run) -> None:
        """Keep a run, and write the file.

        Raises:
            InputError: see `check`.
        """
        self.check([run.cell], [run.variant])
        self._plan |= self._plan_of([run.cell], [run.variant])
        self.runs.append(run)
        write_json(
            self.path,
            {
                "plan": self._plan,
                "environments": self._environments,
                "runs": [asdict(run) for run in self.runs],
            },
        )

    def tries(self, cell: str, variant: str) -> list[Run]:
        """The tries of rates, in order."""
        return [r for r in self.runs if (r.cell, r.variant, r.seed) == (cell, variant, 0)]

    def best_rates(self, cell: str, variant: str) -> Rates:
        """The best rates of the tries so far; there has to be one."""
        return best([(run.rates, run.score) for run in self.tries(cell, variant)])

    def repetitions(self, cell: str, variant: str) -> list[Run]:
        """The runs with the best rates and other seeds; those of rates that were best before later
        tries do not count."""
        repeated = [r for r in self.runs if (r.cell, r.variant) == (cell, variant) and r.seed]
        rates = self.best_rates(cell, variant) if repeated else None
        return [run for run in repeated if run.rates == rates]
