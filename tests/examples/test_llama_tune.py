import json
from pathlib import Path
from typing import Any

import pytest

from examples.llama.config import OptimizerConfig
from examples.llama.study import GRIDS, Grid, edges, search
from examples.llama.tune import main


def _search(grid: Grid, best: tuple[float, float | None]) -> list[tuple[float, float | None]]:
    """The rates tried when the loss is the distance from `best`."""
    tried = []

    def attempt(config: OptimizerConfig) -> float:
        assert config.learning_rate is not None
        tried.append((config.learning_rate, config.rest_learning_rate))
        return abs(config.learning_rate - best[0]) + abs(
            (config.rest_learning_rate or 0.0) - (best[1] or 0.0)
        )

    search("sinkgd", grid, attempt)
    return tried


def test_search_varies_one_rate_then_the_other() -> None:
    tried = _search(Grid((1.0, 2.0, 3.0), (0.2, 0.1, 0.3)), (3.0, 0.1))
    assert tried == [(1.0, 0.2), (2.0, 0.2), (3.0, 0.2), (3.0, 0.1), (3.0, 0.3)]
    assert _search(Grid((1.0, 2.0)), (1.0, None)) == [(1.0, None), (2.0, None)]


def test_every_optimizer_has_as_many_tries() -> None:
    counts = {name: len(_search(grid, (0.0, 0.0))) for name, grid in GRIDS.items()}
    assert set(counts.values()) == {11}
    assert counts.keys() == {"sinkgd", "swan", "adamw", "adamw2", "sgd"}


def _try(rate: float, rest: float | None, loss: float | None) -> dict[str, Any]:
    return {
        "optimizer": {"learning_rate": rate, "rest_learning_rate": rest},
        "validation_loss": loss,
    }


def test_best_at_the_edge_of_its_grid_is_called_so() -> None:
    inner = [_try(1, None, 3.0), _try(2, None, 2.0), _try(3, None, None)]
    assert edges(inner) == []
    assert edges([*inner, _try(4, None, 1.0)]) == ["learning_rate 4 is the largest tried"]
    both = [_try(1, 0.1, 1.0), _try(2, 0.1, 2.0), _try(1, 0.2, 2.0)]
    assert edges(both) == [
        "learning_rate 1 is the smallest tried",
        "rest_learning_rate 0.1 is the smallest tried",
    ]


def test_study_end_to_end(
    tiny_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "study.json"
    arguments = ["--results", str(results), "--steps", "3", *tiny_options]
    sgd = [*arguments, "--optimizers", "sgd", "--learning-rates"]
    assert main([*sgd, "0.5", "1e30"]) == 0
    first, second = json.loads(results.read_text())["tries"]
    assert first["optimizer"]["learning_rate"] == 0.5
    assert 0 < first["validation_loss"] < 10
    assert first["setup"]["steps"] == 3
    assert first["versions"].keys() >= {"jax", "optax", "python"}
    assert second["validation_loss"] is None
    assert second["diverged_at_step"] in (2, 3)
    output = capsys.readouterr().out
    assert "diverged at step" in output
    assert results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    # what is known stays as it was, what is new is added
    assert main([*sgd, "0.5", "0.25"]) == 0
    tries = json.loads(results.read_text())["tries"]
    assert tries[:2] == [first, second]
    assert [one["optimizer"]["learning_rate"] for one in tries] == [0.5, 1e30, 0.25]

    # shown without further tries
    written = results.read_bytes()
    assert main([*arguments, "--show"]) == 0
    assert "best of its tries" in capsys.readouterr().out
    assert results.read_bytes() == written
    assert main([*arguments, "--show", "--optimizers", "swan"]) == 2
    assert "no tries of swan" in capsys.readouterr().out


def test_rates_for_several_optimizers_are_refused(
    tiny_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "study.json"
    assert main(["--results", str(results), "--learning-rates", "1", *tiny_options]) == 2
    assert "single --optimizers" in capsys.readouterr().out
    assert not results.exists()
