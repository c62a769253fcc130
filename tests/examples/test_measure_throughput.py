import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from examples.llama.config import InputError, Setup
from examples.measure import throughput
from examples.measure.footprint import random_rows
from examples.measure.throughput import main, make_table
from examples.measure.timing import Spread, competitors, ratios, spread, take_turns, within

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


def _group(peak: float | None = None, **seconds: list[float]) -> dict[str, Any]:
    found = competitors(seconds, dict(zip(seconds, seconds, strict=True)))
    figures = {"tokens_per_step": 64, "flops_per_token": 1000, "peak_flops": peak}
    return {**figures, "competitors": found}


def test_ratios_are_to_the_reference() -> None:
    adamw, swan = make_table(_group(adamw=[1.0, 2.0, 1.0], swan=[2.0, 4.0, 2.0])).rows
    assert adamw == ["adamw", "64", "1.000 (1.000 to 1.000)"]
    # half as many tokens in the same time
    assert swan == ["swan", "32", "0.500 (0.500 to 0.500)"]


def test_utilization_is_shown_where_the_peak_is_known() -> None:
    group = _group(1e6, adamw=[1.0], swan=[2.0])
    assert [row[-1] for row in make_table(group).rows] == ["6.4%", "3.2%"]


def test_random_rows_predict_the_sequence_length(tiny_setup: Setup) -> None:
    rows_BxS = random_rows(tiny_setup)
    assert rows_BxS.shape == (4, 17)
    assert 0 <= rows_BxS.min() < rows_BxS.max() < tiny_setup.model.vocabulary


def test_documents_of_one_token_are_refused(tiny_setup: Setup) -> None:
    data = dataclasses.replace(tiny_setup.data, sequence_length=1)
    with pytest.raises(InputError, match="--sequence-length 1 leaves nothing to predict"):
        random_rows(dataclasses.replace(tiny_setup, preset="60m", data=data))


@pytest.mark.parametrize(
    ("name", "fault"), [("q.png", "would be replaced"), ("", "is a folder")], ids=["png", "folder"]
)
def test_results_that_cannot_be_written_are_refused_first(
    tmp_path: Path, name: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--results", str(tmp_path / name)]) == 2
    assert fault in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "fault"),
    [(["--results", ""], "--results . is not the name"), (["--optimizers"], "names none")],
)
def test_options_that_name_nothing_are_refused(
    option: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(option) == 2
    assert fault in capsys.readouterr().out


def test_results_in_a_folder_that_may_not_be_written_are_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.json").write_text("{}")
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    for name in ("there.json", "new.json"):
        assert main(["--results", str(tmp_path / name)]) == 3
        assert f"{name}: Permission denied" in " ".join(capsys.readouterr().out.split())


def test_measurement_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "throughput.json"
    arguments = ["--optimizers", "sinkgd-1", "--rounds", "3", "--results", str(results), *TINY]
    assert main(arguments) == 0
    assert "SinkGD, 1 sweep" in capsys.readouterr().out
    written = json.loads(results.read_text())
    assert written["setup"]["model"]["hidden"] == 16
    assert written["versions"].keys() >= {"jax", "optax"}
    assert written["tokens_per_step"] == 4 * 16
    weights = 2 * (4 * 16 * 16 + 3 * 16 * 24) + 16 * 256
    assert written["flops_per_token"] == 6 * weights + 12 * 2 * 16 * 16
    assert list(written["competitors"]) == ["adamw", "sinkgd-1"]
    for one in written["competitors"].values():
        assert len(one["seconds_by_round"]) == 3
        assert 0 < one["seconds"]["low"] <= one["seconds"]["high"]
    assert results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_what_does_not_fit_into_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(throughput, "device_memory", lambda what: 24 * 2**30)
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
