import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest

from examples.llama.config import Experiment, OptimizerConfig, PresetName, Setup
from examples.llama.costs.candidates import CANDIDATES
from examples.llama.costs.footprint import GIB, PUBLISHED, Compiled, Kept, compiled, kept
from examples.llama.costs.largest import deepest
from examples.llama.costs.table import Row, make_table, state_table
from examples.llama.memory import Command, experiment_of, main
from examples.llama.optimizers import BASE_OPTIMIZERS
from examples.llama.presets import PRESETS, resolve


def _kept(preset: PresetName, name: str, **options: str) -> Kept:
    command = Command(**options)  # type: ignore[arg-type]
    return kept(experiment_of(command, preset, resolve(CANDIDATES[name].optimizer, preset)))


@pytest.mark.parametrize(
    ("preset", "adam", "stateless"),
    [
        ("60m", 0.325, 0.230),
        ("130m", 0.749, 0.433),
        ("350m", 2.056, 0.930),
        ("1b", 7.483, 2.983),
    ],
)
def test_weights_and_state_are_the_published_ones(
    preset: PresetName, adam: float, stateless: float
) -> None:
    for name, gib in {
        "adamw": adam,
        "adamw2": adam,
        "sinkgd": stateless,
        "swan": stateless,
    }.items():
        counted = _kept(preset, name).total_bytes / GIB
        assert round(counted, 3) == gib
        # printed with two digits, some rounded and some cut off
        assert PUBLISHED[name][preset] == pytest.approx(counted, abs=0.01)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("adamw", (2.00, 2.00, 2.00, 2.00, 2.00)),
        ("adam-mini", (1.00, 1.00, 1.00, 1.00, 1.00)),
        ("lion", (1.00, 1.00, 1.00, 1.00, 1.00)),
        ("muon", (1.56, 1.37, 1.18, 1.10, 1.04)),
        ("sinkgd", (1.13, 0.73, 0.36, 0.20, 0.08)),
        ("swan", (1.13, 0.73, 0.36, 0.20, 0.08)),
    ],
)
def test_state_is_so_many_numbers_per_weight(name: str, numbers: Sequence[float]) -> None:
    counted = [_kept(preset, name).state_per_weight / 2 for preset in get_args(PresetName)[1:]]
    assert counted == pytest.approx(numbers, abs=0.006)


def test_table_of_state_has_a_line_per_optimizer_and_a_column_per_preset() -> None:
    rows = [_row(1, name=name) for name in ("sinkgd", "adamw")]
    table = state_table("title", rows, lambda kept: kept.state_per_weight)
    assert [column.header for column in table.columns] == ["", rows[0].preset]
    assert list(table.columns[1].cells) == [f"{row.kept.state_per_weight:.2f}" for row in rows]


@pytest.mark.parametrize("preset", ["60m", "130m", "350m", "1b"])
def test_weights_and_state_follow_from_the_number_of_weights(preset: PresetName) -> None:
    adam, sinkgd = _kept(preset, "adamw"), _kept(preset, "sinkgd")
    number, rest = adam.parameters, adam.parameters - adam.matrix_parameters
    counts = 64  # bytes enough for every count of steps: nothing beside a billion weights
    assert 0 < adam.total_bytes - 2 * 3 * number <= counts
    assert 0 < sinkgd.total_bytes - 2 * (number + 2 * rest) <= counts


@pytest.mark.parametrize(
    ("preset", "millions", "in_matrices"),
    [
        ("60m", 58.1, 25.3),
        ("130m", 134.1, 84.9),
        ("350m", 368.0, 302.4),
        ("1b", 1339.1, 1207.9),
        ("7b", 6738.4, 6476.0),
    ],
)
def test_models_have_the_papers_sizes(
    preset: PresetName, millions: float, in_matrices: float
) -> None:
    counted = _kept(preset, "sgd")
    assert round(counted.parameters / 1e6, 1) == millions
    assert round(counted.matrix_parameters / 1e6, 1) == in_matrices
    assert counted.weight_bytes == 2 * counted.parameters


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_precision_doubles_the_bytes(precision: str) -> None:
    wide, half = _kept("60m", "adamw", precision=precision), _kept("60m", "adamw")
    assert wide.weight_bytes == 2 * half.weight_bytes
    assert wide.state_bytes == pytest.approx(2 * half.state_bytes, abs=64)


def test_state_of_the_matrices() -> None:
    assert _kept("1b", "sinkgd").matrix_state_bytes == 0
    assert _kept("1b", "swan").matrix_state_bytes == 0
    matrices = 2 * _kept("1b", "adamw").matrix_parameters
    assert _kept("1b", "adamw").matrix_state_bytes == 2 * matrices
    assert _kept("1b", "muon").matrix_state_bytes == matrices
    # stateless tables leave Adam the norms alone
    assert _kept("1b", "sinkgd-tokens").state_bytes < 1e6


def _row(total_gib: float, temporary: int | None = 0, name: str = "adamw") -> Row:
    counted = Kept(10, 8, int(total_gib * GIB), 0, 0)
    step = None if temporary is None else Compiled(temporary, 0, 0, 0, 1.0)
    return Row("1b", name, "AdamW", "bfloat16", counted, step, 2 * counted.state_bytes)


def test_what_fits_is_the_smallest_card_that_holds_the_total() -> None:
    assert _row(24).fits_gib == 24
    assert _row(24, temporary=1).fits_gib == 80
    assert _row(80, temporary=1).fits_gib is None
    assert _row(1, temporary=None).fits_gib is None
    assert make_table([_row(80, temporary=GIB)]).columns[-1].header == "fits"


def test_temporary_memory_of_a_step(tiny_setup: Setup) -> None:
    def measured(name: str) -> tuple[Kept, Compiled]:
        experiment = Experiment(resolve(OptimizerConfig(name)), tiny_setup)  # type: ignore[arg-type]
        return kept(experiment), compiled(experiment, tiny_setup.data.sequence_length + 1)

    adamw, step = measured("adamw")
    assert step.temporary_bytes > 0
    # all gradients exist at once
    assert step.temporary_bytes > adamw.weight_bytes
    assert adamw.state_bytes == pytest.approx(2 * adamw.weight_bytes, abs=64)
    rows_and_counts = tiny_setup.data.batch_size * (tiny_setup.data.sequence_length + 1) * 4 + 64
    assert 0 <= step.argument_bytes - adamw.total_bytes <= rows_and_counts
    # donated: the new state takes the place of the old
    assert step.alias_bytes >= adamw.total_bytes


def test_layerwise_step_keeps_as_much_and_takes_less(tiny_setup: Setup) -> None:
    setup = dataclasses.replace(
        tiny_setup, model=dataclasses.replace(tiny_setup.model, hidden=64, mlp=160, layers=12)
    )
    experiment = Experiment(resolve(OptimizerConfig("sinkgd")), setup)
    ordinary, layerwise = (
        compiled(experiment, 17, layerwise=layerwise) for layerwise in (False, True)
    )
    # Each layer, the embedding and the head have three counts of steps of their own.
    counts = 3 * 4 * (setup.model.layers + 2 - 1)
    assert 0 <= layerwise.argument_bytes - ordinary.argument_bytes <= counts
    assert 0 <= layerwise.alias_bytes - ordinary.alias_bytes <= counts
    assert layerwise.temporary_bytes < ordinary.temporary_bytes
    assert _row(1).published_gib == _row(1, name="adamw-layerwise").published_gib


@pytest.mark.parametrize("bend", [0, 3, -3])
@pytest.mark.parametrize("limit", [99, 100, 109, 110, 119, 1000, 12345])
def test_deepest_model_fits_and_a_deeper_one_does_not(limit: int, bend: int) -> None:
    def total(layers: int) -> int:
        return 100 + 10 * layers + (bend * (layers - 16) // 4 if layers > 16 else 0)

    layers = deepest(total, limit)
    assert layers == 0 or total(layers) <= limit
    assert total(layers + 1) > limit


def test_largest_models_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def of_depth(experiment: Experiment, row_length: int, *, layerwise: bool) -> Compiled:
        asked.append((experiment.setup.model.layers, row_length, layerwise))
        return Compiled(0 if layerwise else kept(experiment).weight_bytes, 0, 0, 0, 1.0)

    monkeypatch.setattr("examples.llama.costs.largest.compiled", of_depth)
    results = tmp_path / "memory.json"
    options = ["--no-compile", "--presets", "cpu", "--largest", "7b", "--results", str(results)]
    assert main([*options, "--optimizers", "adamw", "sgd-plain", "sgd-layerwise"]) == 0
    found = json.loads(results.read_text())["largest"]
    for one, share in zip(found, (4, 4, 2, 2, 2, 2), strict=True):
        # bytes per weight: AdamW 2 + 4 + 2, SGD 2 + 2, layer-wise with momentum 2 + 2
        assert one["total_bytes"] == pytest.approx(2 * share * one["parameters"], abs=64)
        assert (
            one["card_gib"] * GIB - 2 * share * 203e6 < one["total_bytes"] <= one["card_gib"] * GIB
        )
        assert (one["layers"] + 1, 256, one["optimizer"] == "sgd-layerwise") in asked
    output = capsys.readouterr().out
    assert "layers of 7b" in output
    assert "in 80 GiB" in output


def test_figures_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "memory.json"
    arguments = ["--presets", "cpu", "--optimizers", "sgd", "--results", str(results)]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "0.9 M parameters, 0.8 M of them in the matrices" in output
    assert "backend" in output
    assert "activations" in output
    written = json.loads(results.read_text())
    assert written["microbatch_rows"] == written["microbatches"] == 1
    assert written["backend"] == "cpu"
    assert written["versions"].keys() >= {"jax", "optax"}
    (row,) = written["rows"]
    assert row["preset"] == "cpu"
    assert row["precision"] == "float32"
    assert row["parameters"] == 857_216
    assert row["temporary_bytes"] > 0
    kept_bytes = row["weight_bytes"] + row["state_bytes"]
    assert row["total_bytes"] == kept_bytes + row["temporary_bytes"]
    assert row["fits_gib"] == 24
    assert results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_without_compiling_every_preset_and_optimizer_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "memory.json"
    assert main(["--no-compile", "--results", str(results)]) == 0
    rows = json.loads(results.read_text())["rows"]
    assert [(row["preset"], row["optimizer"]) for row in rows] == [
        (preset, name)
        for preset in PRESETS
        for name in (*BASE_OPTIMIZERS, "sgd-plain", "ldadam-plain", "sinkgd-layerwise")
    ]
    assert all("temporary_bytes" not in row for row in rows)
    assert all(row["fits_gib"] is None for row in rows)
    output = capsys.readouterr().out
    assert "7.483" in output
    assert "papers" in output
    assert "temporary" not in output.lower()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--optimizers", "adam"],
            "--optimizers: adam is none of adalomo, adam-mini, adamw, adamw2",
        ),
        (["--optimizers"], "--optimizers names none"),
        (["--presets"], "--presets names none"),
        (
            ["--optimizers", "sgd-layerwise", "--microbatches", "2"],
            "a layer-wise step has no microbatches; leave --microbatches out",
        ),
    ],
)
def test_bad_input_is_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "memory.json"
    assert main(["--results", str(results), *options]) == 2
    assert message in capsys.readouterr().out
    assert not results.exists()


def test_help_says_what_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--help"])
    assert exit_info.value.code == 0
    output = capsys.readouterr().out
    for word in (*get_args(PresetName), "--microbatch-rows", "--no-compile", "weights"):
        assert word in output
