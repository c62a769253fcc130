import io
import json
import math
import subprocess
from pathlib import Path
from typing import get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from examples.benchmark import __main__ as command
from examples.benchmark import memory, orthogonalizers, shapes, step, turns
from examples.benchmark.__main__ import Section, main
from examples.benchmark.competitors import (
    BASELINES,
    FAST,
    REFERENCE,
    SLOW,
    TITLES,
    literal_sinkhorn,
)
from examples.benchmark.plot import plot_ratios
from examples.benchmark.report import comparison_table
from examples.benchmark.step import Timed, compare, fitting_layers, layer_shapes, product_flops
from examples.benchmark.targets import STEP_TARGETS, Target, geometric_mean
from examples.benchmark.turns import Matrices, take_turns
from examples.llama.costs.candidates import CANDIDATES
from examples.llama.costs.footprint import kept
from examples.llama.memory import Command as MemoryCommand
from examples.llama.memory import experiment_of
from rich.console import Console

import multinorm_optax as mo
from examples.llama.config import DataConfig, ModelConfig, PresetName
from examples.llama.presets import PRESETS, resolve

EVERYONE = {**FAST, **SLOW, **BASELINES}
TINY = Matrices({"gate": (2, 16, 24), "down": (2, 24, 16)}, step.KERNEL, jnp.dtype("float32"))


def _console() -> Console:
    return Console(file=io.StringIO())


def test_steep_gradients_take_all_sweeps():
    for steep in (False, True):
        matrices = Matrices({"gate": (1, 256, 512)}, step.KERNEL, jnp.dtype("float32"), steep)
        rows, columns = mo.normalize_rows(step.KERNEL), mo.normalize_columns(step.KERNEL)
        trace = mo.trace_multi_normalize(matrices.gradient(), rows, columns, num_iters=4)
        assert (trace.residuals["gate"][-1, 0, 0] > 1e-5) == steep


def _new_weights(name: str, matrices: Matrices = TINY) -> tuple[turns.Tree, turns.Tree]:
    gradient, params = matrices.gaussian(0), matrices.gaussian(1)
    optimizer = EVERYONE[name].make(matrices.axes)
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
    return params, optax.apply_updates(params, updates)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 16, 24), mo.MatrixAxes(output=-1, input=-2)),
        ((16, 3, 24), mo.MatrixAxes(output=2, input=0)),
        ((3, 16, 4, 6), mo.MatrixAxes(output=(2, 3), input=1)),
    ],
)
@pytest.mark.parametrize("num_iters", [1, 5])
def test_the_loop_written_plainly_is_the_librarys(
    rng: np.random.Generator, shape: tuple[int, ...], axes: mo.MatrixAxes, num_iters: int
) -> None:
    gradient = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    plain, own = literal_sinkhorn(axes, num_iters), mo.scale_by_sinkhorn(axes, num_iters)
    found, want = (jax.jit(tx.update)(gradient, tx.init(gradient))[0] for tx in (plain, own))
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", EVERYONE)
def test_everyone_makes_a_step_of_every_weight(name: str, dtype: str) -> None:
    old, new = _new_weights(name, Matrices(TINY.shapes, TINY.axes, jnp.dtype(dtype)))
    chex.assert_trees_all_equal_shapes_and_dtypes(old, new)
    chex.assert_tree_all_finite(new)
    for leaf, moved in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        assert not np.array_equal(leaf, moved)


def test_three_of_them_do_the_same() -> None:
    _, want = _new_weights("sinkgd")
    for name in ("multi-normalize", "literal"):
        chex.assert_trees_all_close(_new_weights(name)[1], want, atol=1e-6)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(_new_weights("sinkgd-1")[1], want, atol=1e-6)


def test_gradient_and_weights_are_drawn_apart() -> None:
    gradient, params = TINY.gaussian(0), TINY.gaussian(1)
    chex.assert_trees_all_equal(gradient, TINY.gaussian(0))
    leaves = np.concatenate([np.ravel(x) for x in (*gradient.values(), *params.values())])
    assert len(np.unique(leaves)) == len(leaves) == 2 * TINY.elements == 2 * 2 * 2 * 16 * 24


@pytest.mark.parametrize(("seconds", "count"), [(1e-9, 3), (1e9, 41)])
def test_the_budget_decides_how_many_rounds_count(seconds: float, count: int) -> None:
    pair = {name: FAST[name] for name in (REFERENCE, "sgd")}
    found = take_turns("tiny", TINY, pair, seconds, _console())
    assert {name: len(each) for name, each in found.items()} == {REFERENCE: count, "sgd": count}
    assert all(second > 0 for each in found.values() for second in each)


@pytest.mark.parametrize("preset", PRESETS)
def test_layers_are_the_presets(preset: PresetName) -> None:
    candidate = resolve(CANDIDATES["sgd"].optimizer, preset)
    counted = kept(experiment_of(MemoryCommand(), preset, candidate)).matrix_parameters
    layers = PRESETS[preset].setup.model.layers
    assert sum(math.prod(each) for each in layer_shapes(preset, layers).values()) == counted


def test_as_many_layers_as_fit_and_at_least_one() -> None:
    fitting = [fitting_layers(preset, 128e6, 4) for preset in ("60m", "130m", "350m", "1b", "7b")]
    assert fitting == [8, 4, 2, 1, 1]
    assert fitting_layers("130m", 128e6, 2) == 9
    assert fitting_layers("60m", 1e12, 4) == 8


def test_operations_of_matrix_products() -> None:
    d, f = 512, 1376
    square, wide = 2 * d**3 + 2 * d**3 + 2 * d**3, 2 * d * d * f + 2 * d**3 + 2 * d * d * f
    assert product_flops("60m") == 5 * (4 * square + 3 * wide)


@pytest.mark.parametrize(
    ("target", "text", "ratios", "reached"),
    [
        (Target(at_most=2.0), "≤ 2", [1.0, 2.0], True),
        (Target(at_most=2.0), "≤ 2", [1.0, 2.1], False),
        (Target(at_least=30.0), "≥ 30", [29.0, 99.0], False),
        (Target(at_least=0.95, at_most=1.05), "0.95 to 1.05", [0.94], False),
        (Target(at_most=2.0, mean_at_most=1.6), "≤ 2, mean 1.6", [1.3, 1.9], True),
        (Target(at_most=2.0, mean_at_most=1.6), "≤ 2, mean 1.6", [1.5, 1.9], False),
    ],
)
def test_targets(target: Target, text: str, ratios: list[float], reached: bool) -> None:
    assert str(target) == text
    assert target.reached(ratios) is reached


def test_the_geometric_mean_of_a_ratio_and_its_inverse_is_one() -> None:
    assert geometric_mean([4.0, 0.25, 1.0]) == pytest.approx(1.0)


def _timed(preset: PresetName, **seconds: list[float]) -> Timed:
    return Timed(preset, 1, 100, {name.replace("_", "-"): each for name, each in seconds.items()})


GROUPS = (
    _timed("60m", adamw=[1.0, 2.0, 1.0], sinkgd=[1.5, 3.0, 1.5], sinkgd_1=[0.8, 1.6, 0.8]),
    _timed("60m", adamw=[1.0, 1.0, 1.0], sinkgd=[9.0, 9.0, 9.0], muon=[360.0, 360.0, 360.0]),
    _timed("7b", adamw=[1.0, 1.0, 1.0], sinkgd=[2.0, 2.0, 2.0], sinkgd_1=[0.5, 0.5, 0.5]),
)


def test_ratios_are_compared_with_their_targets() -> None:
    found = {(one.over, one.under): one for one in compare(GROUPS)}
    assert list(found) == [
        ("sinkgd", "adamw"),
        ("sinkgd-1", "adamw"),
        ("muon", "adamw"),
        ("muon", "sinkgd"),
    ]
    five = found["sinkgd", "adamw"]
    assert {preset: one.median for preset, one in five.ratios.items()} == {"60m": 1.5, "7b": 2.0}
    assert five.mean == pytest.approx(math.sqrt(3.0))
    assert five.target == Target(mean_at_most=2.2)
    assert five.reached is True
    assert found["sinkgd-1", "adamw"].reached is True
    assert found["muon", "adamw"].reached is None
    assert found["muon", "sinkgd"].mean == 40.0  # of the group that has both
    assert found["muon", "sinkgd"].reached is True
    console = Console(file=io.StringIO(), width=80)
    console.print(comparison_table(compare(GROUPS)))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "SinkGD / AdamW" in output
    assert "mean 2.2" in output


def test_everything_that_is_wanted_can_be_measured_and_fits_into_the_terminal() -> None:
    for over, under in STEP_TARGETS:
        assert any(over in group and under in group for group in (FAST, SLOW))
    presets: list[PresetName] = ["60m", "130m", "350m", "1b", "7b"]
    seconds = {name: [12.34, 12.34] for name in TITLES}
    groups = [Timed(preset, 1, 1, seconds) for preset in presets]
    console = Console(file=io.StringIO(), width=80)
    console.print(comparison_table(compare(groups)))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == len(compare(groups)) + 3  # title, heads and a line; none is broken


def test_picture(tmp_path: Path) -> None:
    plot_ratios(tmp_path / "picture.png", "Title", compare(GROUPS))
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_each_shape_of_a_preset_by_itself_and_the_hostile_ones() -> None:
    found = shapes.cases(["1b", "60m"], 32e6, 4)
    own = [case.shape for case in found[: -len(shapes.HOSTILE)]]
    assert own == [
        *((1, 2048, 2048), (1, 2048, 5461), (1, 5461, 2048)),
        *((8, 512, 512), (8, 512, 1376), (8, 1376, 512)),
    ]
    for case in found:
        m, n = case.axes.matrix_shape(case.shape)
        assert math.prod(case.shape) % (m * n) == 0
    assert {(1, 256, 32_000), (8, 64, 64), (1, 1, 100_000)} <= {case.shape for case in found}


@pytest.fixture
def small_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    middle = mo.MatrixAxes(output=2, input=0)
    hostile = (shapes.Case("middle", (8, 3, 12), middle), shapes.Case("small", (2, 8, 8)))
    monkeypatch.setattr(shapes, "HOSTILE", hostile)


def test_the_worst_shape(small_cases: None) -> None:
    measured = [
        shapes.measure(case, jnp.dtype("float32"), 1e-9, _console()) for case in shapes.HOSTILE
    ]
    worst = shapes.worst(measured)
    assert worst.ratio.median == max(one.ratio.median for one in measured)
    assert worst.as_json()["elements"] == math.prod(worst.case.shape)


def test_temporary_memory_is_a_ratio_to_that_of_sgd(tiny_model: ModelConfig) -> None:
    data = DataConfig(batch_size=2, sequence_length=16)
    found = {one.name: one for one in memory.measure(_console(), tiny_model, data)}
    assert found.keys() == memory.STEPS.keys()
    assert found[memory.REFERENCE].ratio == 1.0
    assert all(one.temporary_bytes > 0 for one in found.values())
    assert str(found["sinkgd"].target) == "≤ 1.01"
    assert found["adamw"].reached is None


@pytest.fixture
def fake_collectives(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The other process; the list holds its exit code."""
    code = [0]

    def run(arguments: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        assert arguments[1:3] == ["-m", "examples.benchmark.collectives"]
        if not code[0]:
            Path(arguments[arguments.index("--json") + 1]).write_text('{"sent": 1}')
        return subprocess.CompletedProcess(arguments, code[0])

    monkeypatch.setattr(command.subprocess, "run", run)
    return code


def test_end_to_end(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    small_cases: None,
    fake_collectives: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = {name: FAST[name] for name in (REFERENCE, "sinkgd-1")}
    monkeypatch.setattr(step, "FAST", pair)
    monkeypatch.setattr(step, "SLOW", {REFERENCE: FAST[REFERENCE], "sgd": FAST["sgd"]})
    results = tmp_path / "benchmark.json"
    options = ["--presets", "cpu", "--seconds", "0.5", "--results", str(results)]
    assert main(["--sections", "step", "shapes", "collectives", *options]) == 0
    output = capsys.readouterr().out
    for text in ("cpu: 4 layers, 0.8 M weights", "SinkGD L=1", "≤ 0.9", "Worst: "):
        assert text in output
    written = json.loads(results.read_text())
    assert written.keys() == {"step", "shapes", "collectives", "versions", "machine"}
    assert written["collectives"] == {"sent": 1}
    assert len(written["shapes"]["shapes"]) == 3 + len(shapes.HOSTILE)
    fast = written["step"]["groups"][0]
    assert fast["competitors"].keys() == pair.keys()
    adamw = fast["competitors"][REFERENCE]
    assert adamw["ratio"] == {"low": 1.0, "median": 1.0, "high": 1.0}
    assert len(adamw["seconds_by_round"]) >= turns.MIN_ROUNDS
    sgd, one = written["step"]["comparisons"]
    assert (sgd["over"], sgd["target"], sgd["reached"]) == ("sgd", None, None)
    assert (one["over"], one["target"]) == ("sinkgd-1", "≤ 0.9")
    assert one["geometric_mean"] == pytest.approx(one["ratios"]["cpu"]["median"])
    assert results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_baselines_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {name: BASELINES[name] for name in (REFERENCE, "lion", "adam-mini")}
    monkeypatch.setattr(step, "BASELINES", some)
    results = tmp_path / "baselines.json"
    options = ["--presets", "cpu", "--seconds", "0.2", "--results", str(results)]
    assert main(["--sections", "baselines", *options]) == 0
    assert "Adam-mini" in capsys.readouterr().out
    written = json.loads(results.read_text())["baselines"]
    assert written["groups"][0]["competitors"].keys() == some.keys()
    assert [one["over"] for one in written["comparisons"]] == ["adam-mini", "lion"]


def test_products_of_matrices_that_take_too_long_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step, "product_speed", lambda dtype: 1.0)
    monkeypatch.setattr(step, "take_turns", lambda *_: {name: [1.0] for name in FAST})
    console = _console()
    (only,) = step.measure("cpu", jnp.dtype("float32"), 1e6, 1.0, console)
    assert only.seconds.keys() == FAST.keys()
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Muon and SWAN are left out" in " ".join(output.split())


def test_the_other_process_can_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fake_collectives: list[int]
) -> None:
    fake_collectives[0] = 3
    results = tmp_path / "benchmark.json"
    assert main(["--sections", "collectives", "--results", str(results)]) == 2
    output = capsys.readouterr().out
    assert "python -m examples.benchmark.collectives" in output
    assert "ended with code 3" in output
    assert not results.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sections"], "--sections names none"),
        (["--presets"], "--presets names none"),
        (["--seconds", "0"], "--seconds is 0, but must be positive"),
        (["--megabytes", "-1.5"], "--megabytes is -1.5, but must be positive"),
    ],
)
def test_bad_input_is_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "benchmark.json"
    assert main(["--results", str(results), *options]) == 2
    assert message in capsys.readouterr().out
    assert not results.exists()


def test_help_says_what_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--help"])
    assert exit_info.value.code == 0
    output = capsys.readouterr().out
    for word in (*get_args(Section), "--megabytes", "AdamW", "bfloat16"):
        assert word in output


class TestOrthogonalizers:
    """The emulated products, against the formats that they stand for."""

    def test_one_part_rounds_the_operands(self, rng):
        x, y = (
            jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((8, 32), (32, 8))
        )
        found = orthogonalizers.emulated(orthogonalizers.BFLOAT16, 1)(x, y, None)
        rounded = [np.float64(each.astype(jnp.bfloat16)) for each in (x, y)]
        np.testing.assert_allclose(found, rounded[0] @ rounded[1], atol=1e-5)

    @pytest.mark.parametrize(
        ("bits", "parts", "kept"), [(7, 1, 8), (10, 1, 11), (7, 2, 16), (10, 2, 22), (7, 3, 24)]
    )
    def test_error_is_that_of_the_bits_kept(self, rng, bits, parts, kept):
        x, y = (np.float32(rng.standard_normal((1, 1000))) for _ in range(2))
        # Entry by entry, or the rounding of the sum would count.
        entries = orthogonalizers.emulated(bits, parts)(x.T[..., None], y.T[..., None], None)
        exact = np.float64(x) * np.float64(y)
        error = np.max(np.abs(np.ravel(entries) / exact[0] - 1))
        assert 2.0 ** -(kept + 1) / 4 < error < 4 * 2.0**-kept

    def test_table_has_every_choice(self):
        rows = json.loads(orthogonalizers.RESULTS.read_text())["rows"]
        found = {(row["orthogonalizer"], row["arithmetic"]) for row in rows}
        want = {
            (title, arithmetic)
            for title in orthogonalizers.ORTHOGONALIZERS
            for arithmetic in orthogonalizers.ARITHMETICS
        }
        assert {each for each in want if each[0] != "exact_svd()"} <= found <= want
        assert {len(cells) for cells in orthogonalizers.table(rows)} == {9}
