import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from examples.llama.config import Experiment, OptimizerConfig, Setup
from examples.llama.presets import resolve
from examples.measure import throughput
from examples.measure.footprint import random_rows
from examples.measure.throughput import compare, main, make_table
from examples.measure.timing import Spread, ratios, spread, take_turns, within

TINY = [
    *("--hidden", "16", "--mlp", "24", "--heads", "2", "--layers", "2"),
    *("--sequence-length", "16", "--batch-size", "4", "--microbatches", "2"),
]


def test_spread_is_median_and_quartiles() -> None:
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(2.0, 3.0, 4.0)
    assert str(Spread(0.5, 1.0, 2.0)) == "1.000 (0.500 to 2.000)"


def test_slow_rounds_do_not_change_ratios() -> None:
    over, under, slowness = [1.0, 1.1, 0.9], [2.0, 2.2, 1.8], [1.0, 9.0, 3.0]

    def slowed(seconds: list[float]) -> list[float]:
        return [one * factor for one, factor in zip(seconds, slowness, strict=True)]

    assert ratios(slowed(over), slowed(under)).median == pytest.approx(0.5)
    assert ratios(over, over) == Spread(1.0, 1.0, 1.0)


def test_everything_has_one_turn_a_round_in_changing_order() -> None:
    taken: list[str] = []
    turns = {name: lambda name=name: taken.append(name) for name in "abcd"}
    seconds = take_turns("turns", turns, lambda one: 5, Console(file=io.StringIO()))
    assert all(len(each) == 5 and min(each) >= 0 for each in seconds.values())
    assert list(seconds) == list("abcd")
    # one turn of each to compile, one round that does not count, five that do
    orders = [tuple(taken[start : start + 4]) for start in range(0, 28, 4)]
    assert len(taken) == 28
    assert all(set(order) == set("abcd") for order in orders)
    assert len(set(orders[1:])) > 1


@pytest.mark.parametrize(("seconds", "rounds"), [(1e-9, 3), (10.0, 5), (1e9, 41)])
def test_the_budget_decides_how_many_rounds_count(seconds: float, rounds: int) -> None:
    assert within(seconds)(2.0) == rounds


def test_ratios_are_to_the_reference(tiny_setup: Setup) -> None:
    experiments = {
        name: Experiment(resolve(OptimizerConfig(name)), tiny_setup) for name in ("adamw", "swan")
    }
    steps = {"adamw": [1.0, 2.0, 1.0], "swan": [2.0, 4.0, 2.0]}
    adamw, swan = compare(experiments, steps)
    assert adamw["speed_ratio"] == {"low": 1.0, "median": 1.0, "high": 1.0}
    assert swan["speed_ratio"]["median"] == 0.5  # half as many tokens in the same time
    assert swan["tokens_per_second"]["median"] == 4 * 16 / 2.0


def test_utilization_is_shown_where_the_peak_is_known(
    tiny_setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiments = {"adamw": Experiment(resolve(OptimizerConfig("adamw")), tiny_setup)}
    (row,) = compare(experiments, {"adamw": [1.0]})
    assert row["utilization"] is None
    assert len(make_table([row]).heads) == len(make_table([row]).rows[0]) == 3
    monkeypatch.setattr("examples.llama.run.flops.peak_flops", lambda kind: 1e9)
    (row,) = compare(experiments, {"adamw": [1.0]})
    model = tiny_setup.model
    weights = 2 * (4 * 16 * 16 + 3 * 16 * 24) + 16 * model.vocabulary
    per_token = 6 * weights + 12 * 2 * 16 * 16
    assert row["utilization"] == pytest.approx(64 * per_token / 1e9)
    assert make_table([row]).rows[0][-1] == f"{64 * per_token / 1e9:.1%}"


def test_random_rows_predict_the_sequence_length(tiny_setup: Setup) -> None:
    rows_BxS = random_rows(tiny_setup)
    assert rows_BxS.shape == (4, 17)
    assert 0 <= rows_BxS.min() < rows_BxS.max() < tiny_setup.model.vocabulary


def test_measurement_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "throughput.json"
    arguments = ["--optimizers", "sinkgd-1", "--rounds", "3", "--results", str(results), *TINY]
    assert main(arguments) == 0
    assert "SinkGD, 1 sweep" in capsys.readouterr().out
    written = json.loads(results.read_text())
    assert written["reference"] == "adamw"
    assert written["setup"]["model"]["hidden"] == 16
    assert written["versions"].keys() >= {"jax", "optax"}
    adamw, sinkgd = written["rows"]
    assert (adamw["optimizer"], sinkgd["optimizer"]) == ("adamw", "sinkgd-1")
    assert adamw["speed_ratio"] == {"low": 1, "median": 1, "high": 1}
    assert sinkgd["options"]["num_iters"] == 1
    for row in written["rows"]:
        assert len(row["step_seconds_by_round"]) == 3
        assert min(row["step_seconds_by_round"]) > 0
        assert row["tokens_per_second"]["low"] <= row["tokens_per_second"]["high"]
    assert results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_what_does_not_fit_into_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(throughput, "device_memory", lambda: 24 * 2**30)
    results = tmp_path / "throughput.json"
    arguments = ["--preset", "1b", "--optimizers", "sinkgd", "muon", "swan", "sgd", "adamw2"]
    assert main([*arguments, "--results", str(results)]) == 2
    output = capsys.readouterr().out
    assert "6 optimizers take turns" in output
    assert "at least 33.6 GiB together, but there are 24.0" in output
    assert "fewer --optimizers" in output
    assert not results.exists()


def test_help_says_what_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--help"])
    assert exit_info.value.code == 0
    output = capsys.readouterr().out
    for word in ("tokens per second", "--rounds", "--batch-size", "sinkgd-momentum"):
        assert word in output
