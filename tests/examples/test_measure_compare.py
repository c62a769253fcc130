import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.llama.optimizers import OPTIMIZERS
from examples.llama.run.files import read_lines
from examples.measure.compare import main, make_tables

CURVE = [(100, 4.0), (200, 3.0), (400, 2.5)]


def _run(name: str, loss: float | None, speed: float | None) -> dict[str, Any]:
    """A run whose curve is CURVE, moved so that it ends at `loss`."""
    run = {"title": OPTIMIZERS[name].title, "rates": "9", "curve": CURVE[:1], "summary": None}
    if loss is None:
        return run
    summary = {"validation_loss": loss, "bits_per_byte": 1.0, "tokens": 400}
    summary |= {"state_bytes": 1.0, "state_bytes_matrices": 1.0, "tokens_per_second": speed}
    moved = [(tokens, value + loss - CURVE[-1][1]) for tokens, value in CURVE]
    return run | {"curve": moved, "summary": summary}


def test_diverged_run_is_a_row_without_figures() -> None:
    for table in make_tables({"sgd": _run("sgd", None, None), "adamw": _run("adamw", 3.0, 9.0)}):
        title, *cells = table.rows[0]
        assert title == "SGD with momentum"
        assert set(cells) <= {"-", "9"}


def test_tokens_and_speed_are_compared_with_one_rate_of_adamw() -> None:
    runs = {"sinkgd": _run("sinkgd", 2.5, 80.0), "adamw": _run("adamw", 3.0, 100.0)}
    learning, cost = make_tables(runs)
    # AdamW ends at 3.0, where SinkGD is after 200 tokens
    assert [row[-1] for row in learning.rows] == ["0.00 M (50%)", "0.00 M (100%)"]
    assert [row[-1] for row in cost.rows] == ["80 (0.80)", "100 (1.00)"]
    assert learning.rows[0][2:5] == ["2.5000", "12.182", "1.0000"]
    short = runs["sinkgd"] | {"curve": runs["sinkgd"]["curve"][-1:]}
    # where the loss is lower at the first validation already, it may have been reached before
    limit = make_tables({"sinkgd": short, "adamw": runs["adamw"]})[0].rows[0][-1]
    assert limit == "at most 0.00 M (100%)"
    worse = {"sinkgd": _run("sinkgd", 3.5, None), "adamw": _run("adamw", 3.0, 100.0)}
    assert [table.rows[0][-1] for table in make_tables(worse)] == ["not reached", "unknown"]
    alone = make_tables({"sinkgd": _run("sinkgd", 2.5, 80.0)})
    assert [table.rows[0][-1] for table in alone] == ["-", "80"]


def test_comparison_end_to_end(
    tiny_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "compare"
    options = ["--optimizers", "sinkgd", "adamw", "--run-dir", str(folder), "--steps", "8"]
    arguments = [*options, *tiny_options]
    assert main(arguments) == 0
    assert "AdamW, one rate" in capsys.readouterr().out
    runs = json.loads((folder / "compare.json").read_text())["runs"]
    assert list(runs) == ["sinkgd", "adamw"]
    for name, run in runs.items():
        assert run["rates"] == {"sinkgd": "0.001 / 0.08", "adamw": "0.0014"}[name]
        assert run["curve"][-1] == [8 * 4 * 16, run["summary"]["validation_loss"]]
    sinkgd, adamw = (run["summary"] for run in runs.values())
    assert sinkgd["state_bytes_matrices"] == 0 < adamw["state_bytes_matrices"]
    assert (folder / "compare.png").read_bytes().startswith(b"\x89PNG")
    # same weights, same first batch: the same loss before the first update
    first = [read_lines(folder / name / "metrics.jsonl")[0]["loss"] for name in runs]
    assert first[0] == first[1]

    (folder / "compare.json").unlink()
    metrics = (folder / "sinkgd" / "metrics.jsonl").read_bytes()
    (folder / "sinkgd" / "checkpoints").rename(tmp_path / "checkpoints")
    (folder / "sinkgd" / "metrics.jsonl").write_bytes(b"")
    assert main(arguments) == 2
    assert "metrics.jsonl has no validation of a finished run" in capsys.readouterr().out
    (folder / "sinkgd" / "metrics.jsonl").write_bytes(metrics)
    (tmp_path / "checkpoints").rename(folder / "sinkgd" / "checkpoints")
    assert main(arguments) == 0
    assert json.loads((folder / "compare.json").read_text())["runs"] == runs
    assert "is finished" in capsys.readouterr().out
    assert main([*arguments, "--fresh"]) == 0
    assert (folder / "sinkgd.1" / "summary.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optimizers"], "--optimizers names none"),
        (["--optimizers", "sgd", "galore", "--layerwise"], "galore"),
        (["--optimizers", "sgd", "ldadam", "--hidden", "8"], "--rank is 16"),
        (["--optimizers", "sgd", "--track", "wandb"], "wandb"),
    ],
)
def test_what_does_not_work_is_refused_before_any_run(
    options: list[str],
    message: str,
    tiny_options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    folder = tmp_path / "compare"
    assert main([*tiny_options, "--run-dir", str(folder), *options]) == 2
    assert message in capsys.readouterr().out
    assert not folder.exists()


def test_run_that_diverged_before_a_validation_is_a_row_without_figures(
    tiny_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "compare"
    rates = {"learning_rate": 1e30, "rest_learning_rate": 1e30}
    sgd = OPTIMIZERS["sgd-plain"]
    diverging = dataclasses.replace(sgd, own_options={**sgd.own_options, **rates})
    monkeypatch.setitem(OPTIMIZERS, "sgd-plain", diverging)
    options = ["--optimizers", "sgd-plain", "--run-dir", str(folder), "--steps", "8"]
    assert main([*tiny_options, *options]) == 0
    run = json.loads((folder / "compare.json").read_text())["runs"]["sgd-plain"]
    assert run["curve"] == []
    assert run["summary"] is None
