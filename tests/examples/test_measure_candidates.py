"""The candidates: their directions beside NumPy, the search of a rate, and the command."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import multinorm_optax as mo
from examples.llama.config import DataConfig, InputError, ModelConfig, Setup
from examples.measure.candidates import CANDIDATES, due_trials, main, tabulate
from examples.measure.directions import (
    joint_rows_and_spectral,
    moving_scales,
    scale_by_side_variance,
)
from examples.measure.study import plan
from examples.measure.study.plan import CELLS
from examples.measure.study.points import Rates
from examples.measure.study.runs import Run, Trial

CELL = "small-8k"
AXES = mo.MatrixAxes((-2,), (-1,))
SHAPES = [(6, 10), (10, 6), (7, 7)]


def _root_mean_square(x: np.ndarray, axis: int | None = None) -> np.ndarray:
    return np.sqrt(np.mean(x**2, axis=axis, keepdims=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_moving_scales_follow_their_paper(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    tx = moving_scales()
    gradients = [rng.standard_normal(shape) * scale for scale in (1.0, 0.2, 30.0)]
    state = tx.init(jnp.zeros((1, *shape)))
    rows = columns = size = None
    for g in gradients:
        q = np.ones((shape[0], 1))
        for _ in range(5):
            s = np.sum(q * g**2, axis=0, keepdims=True) / np.sum(q**2)
            q = np.sum(s * g**2, axis=1, keepdims=True) / np.sum(s**2)
        rows = q if rows is None else 0.9 * rows + 0.1 * q
        columns = s if columns is None else 0.9 * columns + 0.1 * s
        expected = g / np.sqrt(rows * columns)
        found = _root_mean_square(expected)
        size = found if size is None else np.minimum(found, 1.01 * size)
        expected *= size / found
        update, state = jax.jit(tx.update)(jnp.asarray(g[None], jnp.float32), state)
        np.testing.assert_allclose(update[0], expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_side_variance_follows_its_paper(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    tx, short = scale_by_side_variance(), 1 if shape[1] <= shape[0] else 0
    state = tx.init(jnp.zeros((1, *shape)))
    average = 0.0
    for step in (1, 2, 3):
        x = rng.standard_normal(shape)
        average = 0.95 * average + 0.05 * np.mean(x**2, axis=short, keepdims=True)
        expected = x / np.sqrt(average / (1 - 0.95**step))
        expected *= _root_mean_square(x) / _root_mean_square(expected)
        update, state = tx.update(jnp.asarray(x[None], jnp.float32), state)
        np.testing.assert_allclose(update[0], expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_joint_scales_approach_equal_vectors_of_a_polar_factor(
    rng: np.random.Generator, shape: tuple[int, int]
) -> None:
    x = jnp.asarray(rng.standard_normal((1, *shape)), jnp.float32)
    short = 1 if shape[1] <= shape[0] else 0
    uneven = []
    for iterations in (0, 1, 30):
        spectral = mo.normalize_spectral(AXES, mo.exact_svd())
        tx = joint_rows_and_spectral(spectral, iterations)
        update = np.asarray(tx.update(x, tx.init(x))[0][0])
        values = np.linalg.svd(update, compute_uv=False)
        np.testing.assert_allclose(values, np.sqrt(max(shape)), rtol=1e-4)
        uneven.append(np.std(_root_mean_square(update, short)))
    assert uneven[2] <= uneven[1] + 1e-6 <= uneven[0] + 2e-6
    assert uneven[2] < 1e-3


@pytest.mark.parametrize("name", sorted(set(CANDIDATES) - {"moving-scales"}))
def test_every_candidate_has_unit_size(rng: np.random.Generator, name: str) -> None:
    gradient = jnp.asarray(rng.standard_normal((1, *SHAPES[0])), jnp.float32)
    tx = CANDIDATES[name].direction(AXES)
    update, _ = jax.jit(tx.update)(gradient, tx.init(gradient))
    assert _root_mean_square(np.asarray(update)) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "error"), [("polar-12-tf32", 2.0**-11), ("polar-12-split", 2.0**-16)]
)
def test_emulated_arithmetic_reaches_the_update(
    rng: np.random.Generator, name: str, error: float
) -> None:
    g = jnp.asarray(rng.standard_normal((1, 60, 100)), jnp.float32)

    def update(name: str) -> np.ndarray:
        tx = CANDIDATES[name].direction(AXES)
        return np.asarray(jax.jit(tx.update)(g, tx.init(g))[0])

    found = _root_mean_square(update(name) - update("polar-12"))
    assert error / 8 < found < 8 * error


def _run(trial: Trial, loss: float) -> Run:
    return Run(trial, loss, None, 1.0, 0)


@pytest.mark.parametrize("best", [-3, -1, 0, 2])
def test_search_ends_with_the_best_rate_inside(best: int) -> None:
    runs: list[Run] = []
    while due := due_trials(CELL, ["polar-8"], runs):
        trial = due[0]
        runs.append(_run(trial, (trial.point - best) ** 2 + trial.seed))
    powers = sorted(run.trial.point for run in runs if run.trial.seed == 0)
    assert powers[0] < best < powers[-1]
    assert powers == list(range(powers[0], powers[-1] + 1))
    assert [(run.trial.point, run.trial.seed) for run in runs[-2:]] == [(best, 1), (best, 2)]


def test_a_diverged_rate_is_no_best_one() -> None:
    runs: list[Run] = []
    while (due := due_trials(CELL, ["polar-8"], runs)) and due[0].seed == 0:
        diverged = due[0].point >= 0
        loss = None if diverged else float(-due[0].point)
        runs.append(Run(due[0], loss, 1 if diverged else None, 1.0, 0))
        if len(runs) == 5:
            break
    assert [run.trial.point for run in runs] == [0, -1, 1, -2]


def test_a_repetition_that_diverges_is_said() -> None:
    runs: list[Run] = []
    while due := due_trials(CELL, ["polar-8"], runs):
        loss = None if due[0].seed == 2 else due[0].point ** 2 + 1.0
        runs.append(Run(due[0], loss, None if loss else 5, 1.0, 0))
    (row,) = tabulate(CELL, ["polar-8"], runs).rows
    assert row[-2:] == ["1.000", "diverged"]


@pytest.mark.parametrize("option", ["--cells", "--candidates"])
def test_unknown_names_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([option, "nope"])
    assert f"{option}: nope is not one of" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("change", [{"steps": 7}, {"rates": Rates(9.9, 9.9)}])
def test_runs_of_another_search_are_refused(change: dict[str, Any]) -> None:
    trial = due_trials(CELL, ["polar-8"], [])[0]
    with pytest.raises(InputError, match="is not of this search; choose other --results"):
        due_trials(CELL, ["polar-8"], [_run(trial._replace(**change), 1.0)])


def test_show_needs_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--show", "--results", "absent.jsonl"])
    assert "absent.jsonl does not exist" in " ".join(capsys.readouterr().err.split())


def test_command_trains_searches_and_goes_on(
    tmp_path: Path,
    source_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = ModelConfig(hidden=16, mlp=24, heads=2, layers=1)
    data = DataConfig(batch_size=4, sequence_length=16, validation_rows=8)
    cell = dataclasses.replace(CELLS[CELL], setup=Setup(model=model, data=data, steps=3))
    monkeypatch.setitem(plan.CELLS, CELL, cell)
    results = tmp_path / "candidates.jsonl"
    arguments = ["--cells", CELL, "--candidates", "moving-scales"]
    arguments += ["--results", str(results), "--corpus-root", str(source_folder)]
    assert main([*arguments, "--cache", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "RACS" in printed
    assert "±" in printed
    before = results.read_bytes()
    assert main([*arguments, "--cache", str(tmp_path)]) == 0
    assert results.read_bytes() == before
    shutil.copytree(source_folder, tmp_path / "other")
    for path in (tmp_path / "other").rglob("*.py"):
        path.write_text("# changed\n" + path.read_text())
    other = [*arguments[:-1], str(tmp_path / "other"), "--cache", str(tmp_path / "cache")]
    assert main(other) != 0
    assert "losses do not compare" in " ".join(capsys.readouterr().out.split())
