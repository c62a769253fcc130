import functools
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import jax
import pytest
from rich.console import Console

from examples.llama.config import (
    DataConfig,
    Experiment,
    ModelConfig,
    OptimizerConfig,
    PresetName,
    Setup,
)
from examples.llama.optimizers import BASE_OPTIMIZERS
from examples.llama.presets import PRESETS, resolve
from examples.llama.step import make_train_step
from examples.measure.footprint import GIB, CompiledStep, Kept, deepest, kept
from examples.measure.memory import PUBLISHED, Command, experiment_of, main, measure


def _kept(preset: PresetName, name: str, **options: str) -> Kept:
    return kept(experiment_of(Command(**options), preset, name))  # type: ignore[arg-type]


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
    found = [_kept(preset, name) for preset in get_args(PresetName)[1:]]
    counted = [one.state_bytes / one.parameters / 2 for one in found]
    assert counted == pytest.approx(numbers, abs=0.006)


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


def test_layerwise_step_has_the_same_published_figures() -> None:
    console, command = Console(file=io.StringIO()), Command(compile=False)
    rows = [measure(command, "60m", name, console) for name in ("adamw", "adamw-layerwise")]
    assert [row["published_gib"] for row in rows] == [0.32, 0.32]


@pytest.fixture(scope="module")
def deep() -> Experiment:
    model = ModelConfig(hidden=64, mlp=160, heads=2, layers=12)
    data = DataConfig(batch_size=4, sequence_length=16)
    return Experiment(resolve(OptimizerConfig("sinkgd")), Setup(model=model, data=data))


@pytest.fixture(scope="module")
def ordinary(deep: Experiment) -> CompiledStep:
    return CompiledStep(deep)


@pytest.fixture(scope="module")
def layerwise(deep: Experiment) -> CompiledStep:
    return CompiledStep(deep, layerwise=True)


def test_temporary_memory_of_a_step(deep: Experiment, ordinary: CompiledStep) -> None:
    needed, plan = kept(deep), ordinary.plan()
    # all gradients exist at once
    assert plan["temporary_bytes"] > needed.weight_bytes
    rows_and_counts = 4 * 17 * 4 + 64
    assert 0 <= plan["argument_bytes"] - needed.total_bytes <= rows_and_counts
    # donated: the new state takes the place of the old
    assert plan["alias_bytes"] >= needed.total_bytes


def test_layerwise_step_keeps_as_much_and_takes_less(
    deep: Experiment, ordinary: CompiledStep, layerwise: CompiledStep
) -> None:
    plans = ordinary.plan(), layerwise.plan()
    # Each layer, the embedding and the head have three counts of steps of their own.
    counts = 3 * 4 * (deep.setup.model.layers + 2 - 1)
    for key in ("argument_bytes", "alias_bytes"):
        assert 0 <= plans[1][key] - plans[0][key] <= counts
    assert plans[1]["temporary_bytes"] < plans[0]["temporary_bytes"]


def test_real_step_reports_loss_and_peaks(
    ordinary: CompiledStep, layerwise: CompiledStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = iter([3 * GIB, 5 * GIB])
    with monkeypatch.context() as patch:
        patch.setattr("examples.measure.footprint.device_memory", lambda _: next(peaks))
        found = ordinary.run()
    assert (found["peak_bytes_before"], found["peak_bytes"]) == (3 * GIB, 5 * GIB)
    again = layerwise.run()
    assert again["peak_bytes"] is None  # a CPU does not count
    assert found["loss"] == pytest.approx(again["loss"]) == pytest.approx(math.log(256))


ROW = 256
MODEL = ModelConfig(hidden=1024, mlp=2736, heads=16, layers=24, vocabulary=4096)
"""Its gradients, 1243 MB, are nearly all that a step of one row needs."""
LONG_ROWS = ModelConfig(hidden=512, mlp=8256, heads=8, layers=3)
"""Sums over its gate and up matrices are taken in chunks."""


@functools.cache
def temporary_bytes(model: ModelConfig, optimizer: OptimizerConfig) -> int:
    setup = Setup(model=model, data=DataConfig(batch_size=1, sequence_length=ROW))
    return CompiledStep(Experiment(resolve(optimizer), setup)).plan()["temporary_bytes"]


@pytest.mark.skipif(
    jax.__version_info__ < (0, 10), reason="XLA plans one more copy of the gradients on a CPU"
)
@pytest.mark.parametrize("num_iters", [1, 5])
@pytest.mark.parametrize("model", [MODEL, LONG_ROWS], ids=["24_layers", "long_rows"])
def test_sinkgd_needs_no_more_than_sgd(model: ModelConfig, num_iters: int) -> None:
    gradient_descent = temporary_bytes(model, OptimizerConfig("sgd-plain"))
    sinkgd = temporary_bytes(model, OptimizerConfig("sinkgd", num_iters=num_iters))
    assert sinkgd < 1.01 * gradient_descent


@pytest.mark.parametrize("gib", [0, 1, 2, 3, 9, 10, 24, 79])
def test_deepest_model_fits_and_a_deeper_one_does_not(
    gib: int, deep: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(experiment: Experiment, *, layerwise: bool) -> SimpleNamespace:
        layers = experiment.setup.model.layers
        temporary = (1 + layers + layers // 7) * GIB - kept(experiment).total_bytes
        return SimpleNamespace(plan=lambda: {"temporary_bytes": temporary})

    monkeypatch.setattr("examples.measure.footprint.CompiledStep", step)
    (found,) = deepest(deep, [gib], layerwise=False)
    layers = found["layers"]
    assert layers == 0 or found["total_bytes"] == (1 + layers + layers // 7) * GIB <= gib * GIB
    assert 1 + (layers + 1) + (layers + 1) // 7 > gib
    assert (found["parameters"] > 0) == (layers > 0)


def test_largest_models_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class OfDepth:
        def __init__(self, experiment: Experiment, *, layerwise: bool):
            asked.append((experiment.setup.model.layers, layerwise))
            self._bytes = 0 if layerwise else kept(experiment).weight_bytes

        def plan(self) -> dict[str, int]:
            return {"temporary_bytes": self._bytes}

    monkeypatch.setattr("examples.measure.footprint.CompiledStep", OfDepth)
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
        assert (one["layers"] + 1, one["optimizer"] == "sgd-layerwise") in asked
    output = capsys.readouterr().out
    assert "layers of 7b" in output
    assert "in 80 GiB" in output


def test_figures_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "memory.json"
    arguments = ["--presets", "cpu", "--optimizers", "sgd", "--vocabulary", "64", "--run"]
    assert main([*arguments, "--results", str(results)]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "One step was made, with loss 4." in output
    assert "the device reports no memory, so that the peak is unknown" in output
    assert "0.8 M parameters, 0.8 M of them in the matrices" in output
    assert "activations" in output
    written = json.loads(results.read_text())
    assert written["compiled_for"] == "cpu"
    assert written["versions"].keys() >= {"jax", "optax"}
    (row,) = written["rows"]
    assert row["preset"] == "cpu"
    assert row["precision"] == "float32"
    assert row["parameters"] == 857_216 - 2 * 128 * (256 - 64)
    assert row["temporary_bytes"] > 0
    kept_bytes = row["weight_bytes"] + row["state_bytes"]
    assert row["total_bytes"] == kept_bytes + row["temporary_bytes"]
    assert results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def _h100(tmp_path: Path) -> dict[str, Any]:
    results = tmp_path / "memory.json"
    arguments = ["--h100", "--presets", "cpu", "--optimizers", "sinkgd", "--results", str(results)]
    jax.clear_caches()
    make_train_step.cache_clear()
    assert main(arguments) == 0
    jax.clear_caches()
    make_train_step.cache_clear()
    return json.loads(results.read_text())


def test_a_step_is_compiled_for_a_gpu_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a device of the CPU in its place: what is traced is a GPU's."""
    device, asked = jax.devices()[0], []

    def describe(name: str, platform: str, **options: str) -> SimpleNamespace:
        asked.append((platform, "H100" in options["target_config"]))
        return SimpleNamespace(devices=[device])

    backends = set()

    def served(query: jax.Array) -> bool:
        backends.add(jax.default_backend())
        return False

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", describe)
    monkeypatch.setattr("examples.llama.model.cudnn_serves", served)
    written = _h100(tmp_path)
    assert asked == [("cuda", True)]
    assert backends == {"gpu"}
    assert jax.default_backend() == "cpu"
    assert written["compiled_for"] == device.device_kind


@pytest.mark.parametrize(
    "options", [[], ["--no-compile", "--largest", "cpu"]], ids=["step", "largest"]
)
def test_a_missing_compiler_for_gpus_is_said(
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", missing)
    assert main(["--h100", *options, "--results", str(tmp_path / "memory.json")]) == 2
    output = " ".join(capsys.readouterr().out.split())
    assert 'install "jax[cuda12]"' in output
    assert "topology not implemented" in output


def test_without_compiling_every_preset_and_optimizer_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "memory.json"
    assert main(["--no-compile", "--results", str(results)]) == 0
    rows = json.loads(results.read_text())["rows"]
    assert [(row["preset"], row["optimizer"]) for row in rows] == [
        (preset, name)
        for preset in PRESETS
        for name in (
            *BASE_OPTIMIZERS,
            "sinkgd-tokens",
            "sgd-plain",
            "ldadam-plain",
            "sinkgd-layerwise",
        )
    ]
    assert all("temporary_bytes" not in row for row in rows)
    assert all(row["total_bytes"] is None for row in rows)
    output = capsys.readouterr().out
    assert "7.483" in output
    assert "papers" in output
    assert "temporary" not in output.lower()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--optimizers", "adam"],
            "--optimizers: adam is not one of sinkgd, sinkgd-1,",
        ),
        (["--optimizers"], "--optimizers names none"),
        (["--presets"], "--presets names none"),
        (["--optimizers", "galore-layerwise"], "galore-layerwise is not one of"),
        (["--run"], "--run needs one of --presets and one of --optimizers, compiled"),
        (["--run", "--h100"], "--run needs a device that is there; leave out --h100"),
    ],
)
def test_bad_input_is_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "memory.json"
    with pytest.raises(SystemExit) as exit_info:
        main(["--results", str(results), *options])
    assert exit_info.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not results.exists()


def test_help_says_what_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--help"])
    assert exit_info.value.code == 0
    output = capsys.readouterr().out
    for word in (*get_args(PresetName), "--largest", "--no-compile", "weights"):
        assert word in output
