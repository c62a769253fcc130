import io
import json
import math
from pathlib import Path
from typing import Any, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

import multinorm_optax as mo
from examples.llama.config import PresetName
from examples.llama.presets import PRESETS
from examples.measure import bench, orthogonalizers, updates
from examples.measure.bench import TARGETS, Command, Section, Target, compare, main, ratio_table
from examples.measure.footprint import kept
from examples.measure.memory import Command as MemoryCommand
from examples.measure.memory import experiment_of
from examples.measure.results import recorded
from examples.measure.timing import REFERENCE
from examples.measure.updates import (
    BASELINES,
    FAST,
    KERNEL,
    OWN,
    SLOW,
    TITLES,
    Matrices,
    Tree,
    build,
    fitting_layers,
    layer_shapes,
    literal_sinkhorn,
)

TINY = Matrices("tiny", {"gate": (2, 16, 24), "down": (2, 24, 16)})


def test_steep_gradients_take_all_sweeps():
    for steep in (False, True):
        matrices = Matrices("tiny", {"gate": (1, 256, 512)}, steep=steep)
        rows, columns = mo.normalize_rows(KERNEL), mo.normalize_columns(KERNEL)
        trace = mo.trace_multi_normalize(matrices.gradient(), rows, columns, num_iters=4)
        assert (trace.residuals["gate"][-1, 0, 0] > 1e-5) == steep


def _new_weights(name: str, matrices: Matrices = TINY) -> tuple[Tree, Tree]:
    gradient, params = matrices.gaussian(0), matrices.gaussian(1)
    optimizer = build(name, matrices.axes)
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
def test_literal_loop_is_the_librarys(
    rng: np.random.Generator, shape: tuple[int, ...], axes: mo.MatrixAxes, num_iters: int
) -> None:
    gradient = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    plain, own = literal_sinkhorn(axes, num_iters), mo.scale_by_sinkhorn(axes, num_iters)
    found, want = (jax.jit(tx.update)(gradient, tx.init(gradient))[0] for tx in (plain, own))
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "float32") for name in TITLES), *((name, "bfloat16") for name in ("sinkgd", *OWN))],
)
def test_every_optimizer_makes_a_step_of_every_weight(name: str, dtype: str) -> None:
    old, new = _new_weights(name, Matrices("tiny", TINY.shapes, dtype))
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


def test_optimizers_take_the_axes_of_the_case() -> None:
    axes = mo.MatrixAxes(output=0, input=1)
    turned = Matrices("tiny", {"gate": (24, 16)}, axes=axes)
    params, gradient = turned.gaussian(1), turned.gaussian(0)
    optimizer = build("sinkgd-1", axes)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    # a sweep ends on the columns: every input feature has root mean square 1, times the rate
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(updates["gate"] ** 2, axis=0)), 1e-3, rtol=1e-3)


def test_gradient_and_weights_are_drawn_apart() -> None:
    gradient, params = TINY.gaussian(0), TINY.gaussian(1)
    chex.assert_trees_all_equal(gradient, TINY.gaussian(0))
    leaves = np.concatenate([np.ravel(x) for x in (*gradient.values(), *params.values())])
    assert len(np.unique(leaves)) == len(leaves) == 2 * TINY.elements == 2 * 2 * 2 * 16 * 24


def test_updates_take_turns_on_the_same_weights() -> None:
    found = TINY.timed((REFERENCE, "sgd-plain"), 1e-9, Console(file=io.StringIO()))
    times = {name: each["seconds_by_round"] for name, each in found["competitors"].items()}
    assert {name: len(each) for name, each in times.items()} == {REFERENCE: 3, "sgd-plain": 3}
    assert all(second > 0 for each in times.values() for second in each)


@pytest.mark.parametrize("preset", PRESETS)
def test_layers_are_the_presets(preset: PresetName) -> None:
    counted = kept(experiment_of(MemoryCommand(), preset, "sgd")).matrix_parameters
    layers = PRESETS[preset].setup.model.layers
    assert sum(math.prod(each) for each in layer_shapes(preset, layers).values()) == counted


def test_as_many_layers_as_fit_and_at_least_one() -> None:
    assert [fitting_layers(preset) for preset in get_args(PresetName)] == [4, 8, 4, 2, 1, 1]


@pytest.mark.parametrize(
    ("target", "ratios", "reached"),
    [
        (Target("≤ 2", high=2.0), [1.0, 2.0], True),
        (Target("≤ 2", high=2.0), [1.0, 2.1], False),
        (Target("≥ 30", low=30.0), [29.0, 99.0], False),
        (Target("0.95 to 1.05", low=0.95, high=1.05), [0.94], False),
        (Target("mean 1.6", high=1.6, of_mean=True), [1.3, 1.9], True),
        (Target("mean 1.6", high=1.6, of_mean=True), [1.5, 1.9], False),
    ],
)
def test_targets(target: Target, ratios: list[float], reached: bool) -> None:
    assert target.reached(ratios) is reached


def test_targets_say_their_bounds() -> None:
    for target in TARGETS.values():
        numbers = {float(word) for word in target.text.split() if word[0].isdigit()}
        assert numbers == {target.low, target.high} - {0.0, math.inf}


def _group(preset: str, **seconds: list[float]) -> dict[str, Any]:
    times = {name.replace("_", "-"): each for name, each in seconds.items()}
    competitors = {n: {"title": TITLES[n], "seconds_by_round": t} for n, t in times.items()}
    return {"name": preset, "competitors": competitors}


GROUPS = (
    _group("60m", adamw=[1.0, 2.0, 1.0], sinkgd=[1.5, 3.0, 1.5], sinkgd_1=[0.8, 1.6, 0.8]),
    _group("60m", adamw=[1.0, 1.0, 1.0], sinkgd=[9.0, 9.0, 9.0], muon=[360.0, 360.0, 360.0]),
    _group("7b", adamw=[1.0, 1.0, 1.0], sinkgd=[2.0, 2.0, 2.0], sinkgd_1=[0.5, 0.5, 0.5]),
)


def test_ratios_are_compared_with_their_targets() -> None:
    found = compare(GROUPS)
    assert list(found) == [
        ("sinkgd", "adamw"),
        ("sinkgd-1", "adamw"),
        ("muon", "adamw"),
        ("muon", "sinkgd"),
    ]
    medians = {preset: one.median for preset, one in found["sinkgd", "adamw"].items()}
    assert medians == {"60m": 1.5, "7b": 2.0}
    assert found["muon", "sinkgd"]["60m"].median == 40.0  # of the group that has both
    five, one_sweep, muon, to_sinkgd = (row[1:] for row in ratio_table(GROUPS).rows)
    assert five == ["1.5", "2", "1.73", "mean 2.2", "yes"]
    assert one_sweep[-2:] == ["≤ 0.9", "yes"]
    assert muon[-2:] == ["", ""]
    assert to_sinkgd == ["40", "not run", "40", "≥ 30", "yes"]


def test_each_shape_of_a_preset_by_itself_and_the_hostile_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Matrices, "timed", lambda self, *_: vars(self))
    console = Console(file=io.StringIO())
    found = list(bench.shape_groups(Command(presets=("1b", "60m")), console))
    shapes = [one["shapes"]["kernel"] for one in found]
    assert shapes[: -len(bench.HOSTILE)] == [
        *((1, 2048, 2048), (1, 2048, 5461), (1, 5461, 2048)),
        *((8, 512, 512), (8, 512, 1376), (8, 1376, 512)),
    ]
    for one, shape in zip(found, shapes, strict=True):
        m, n = one["axes"].matrix_shape(shape)
        assert math.prod(shape) % (m * n) == 0
    assert {(1, 256, 32_000), (8, 64, 64), (1, 1, 100_000)} <= set(shapes)


def test_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    middle = mo.MatrixAxes(output=2, input=0)
    hostile = (("middle", (8, 3, 12), middle), ("small", (2, 8, 8), KERNEL))
    monkeypatch.setattr(bench, "HOSTILE", hostile)
    monkeypatch.setattr(updates, "FAST", (REFERENCE, "sinkgd-1"))
    monkeypatch.setattr(updates, "SLOW", (REFERENCE, "sgd-plain"))
    monkeypatch.setattr(updates, "BASELINES", (REFERENCE, "lion", "adam-mini"))
    results = tmp_path / "bench.json"
    options = ["--presets", "cpu", "--seconds", "0.2", "--results", str(results)]
    assert main(["--sections", "step", "shapes", "baselines", *options]) == 0
    output = capsys.readouterr().out
    for text in ("cpu, 0.8 M weights", "SinkGD, 1 sweep", "≤ 0.9", "Adam-mini"):
        assert text in output
    written = json.loads(results.read_text())
    assert written.keys() == {"step", "shapes", "baselines", "versions", "machine"}
    assert len(written["shapes"]["groups"]) == 3 + len(hostile)
    fast, slow = written["step"]["groups"]
    assert fast["competitors"].keys() == {REFERENCE, "sinkgd-1"}
    assert slow["competitors"].keys() == {REFERENCE, "sgd-plain"}
    adamw = fast["competitors"][REFERENCE]
    assert adamw["ratio"] == {"low": 1.0, "median": 1.0, "high": 1.0}
    assert len(adamw["seconds_by_round"]) >= 3
    (baselines,) = written["baselines"]["groups"]
    assert baselines["competitors"].keys() == {REFERENCE, "lion", "adam-mini"}
    assert results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_slowest_shapes_come_first() -> None:
    groups = recorded("benchmark.json")["shapes"]["groups"]
    ratios = [float(row[3].split()[0]) for row in bench.shape_table(groups).rows]
    assert ratios == sorted(ratios, reverse=True)
    assert len(ratios) == len(groups)


def test_products_of_matrices_that_take_too_long_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Matrices, "timed", lambda self, names, *_: (self.name, names))
    command, console = Command(presets=("350m", "1b")), Console(file=io.StringIO())
    found = list(bench.preset_groups(command, console, FAST, SLOW))
    assert found == [("350m", FAST), ("350m", SLOW), ("1b", FAST)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sections"], "--sections names none"),
        (["--presets"], "--presets names none"),
    ],
)
def test_bad_input_is_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "bench.json"
    assert main(["--results", str(results), *options]) == 2
    assert message in capsys.readouterr().out
    assert not results.exists()


def test_help_says_what_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--help"])
    assert exit_info.value.code == 0
    output = capsys.readouterr().out
    for word in (*get_args(Section), "--seconds", "AdamW", "bfloat16"):
        assert word in output


def test_recorded_files_have_what_the_targets_need() -> None:
    for file in ("benchmark.json", "steep.json"):
        assert compare(recorded(file)["step"]["groups"]).keys() >= TARGETS.keys()
    baselines = recorded("baselines.json")["baselines"]["groups"][0]["competitors"]
    assert baselines.keys() == set(BASELINES)


class TestOrthogonalizers:
    """The emulated products, against the formats that they stand for."""

    def test_one_part_rounds_the_operands(self, rng):
        x, y = (
            jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((8, 32), (32, 8))
        )
        found = orthogonalizers.emulated(orthogonalizers.BFLOAT16, 1)(x, y)
        rounded = [np.float64(each.astype(jnp.bfloat16)) for each in (x, y)]
        np.testing.assert_allclose(found, rounded[0] @ rounded[1], atol=1e-5)

    @pytest.mark.parametrize(
        ("bits", "parts", "kept"), [(7, 1, 8), (10, 1, 11), (7, 2, 16), (10, 2, 22), (7, 3, 24)]
    )
    def test_error_is_that_of_the_bits_kept(self, rng, bits, parts, kept):
        x, y = (np.float32(rng.standard_normal((1, 1000))) for _ in range(2))
        # Entry by entry, or the rounding of the sum would count.
        entries = orthogonalizers.emulated(bits, parts)(x.T[..., None], y.T[..., None])
        exact = np.float64(x) * np.float64(y)
        error = np.max(np.abs(np.ravel(entries) / exact[0] - 1))
        assert 2.0 ** -(kept + 1) / 4 < error < 4 * 2.0**-kept

    def test_arithmetic_reaches_the_iteration(self, monkeypatch):
        monkeypatch.setattr(orthogonalizers, "SHAPE", (7, 9))
        monkeypatch.setattr(orthogonalizers, "MATRICES", 1)
        chosen = {"muon_quintic()": mo.muon_quintic}
        monkeypatch.setattr(orthogonalizers, "ORTHOGONALIZERS", chosen)
        arithmetics = {name: orthogonalizers.ARITHMETICS[name] for name in ("float32", "TF32")}
        monkeypatch.setattr(orthogonalizers, "ARITHMETICS", arithmetics)
        exact, rounded = orthogonalizers.measure(Console(file=io.StringIO()))["rows"]
        assert exact["value"][0] == pytest.approx(rounded["value"][0], abs=0.01)
        assert max(exact["sine"][:3]) < 1e-4 < max(rounded["sine"][:3])

    def test_table_has_every_choice(self):
        rows = recorded("orthogonalizers.json")["orthogonalizers"]["rows"]
        found = {(row["orthogonalizer"], row["arithmetic"]) for row in rows}
        want = {
            (title, arithmetic)
            for title in orthogonalizers.ORTHOGONALIZERS
            for arithmetic in orthogonalizers.ARITHMETICS
        }
        assert {each for each in want if each[0] != "exact_svd()"} <= found <= want
        assert {len(cells) for cells in orthogonalizers.make_table(rows).rows} == {9}
