import json
from pathlib import Path
from typing import Any

import pytest

from examples.llama.config import Experiment, OptimizerConfig, OptimizerName, as_json
from examples.llama.optimizers import OPTIMIZERS
from examples.llama.run.records import read_lines
from examples.measure.compare import Entry, compare, main, make_tables, tokens_to_reach

CURVE = ([100, 200, 300, 400], [4.0, 3.0, 2.0, 2.5])


@pytest.mark.parametrize(
    ("target", "tokens"), [(3.0, 200), (2.5, 250), (2.0, 300), (5.0, 100), (1.9, None)]
)
def test_tokens_to_reach_interpolates_to_the_first_crossing(
    target: float, tokens: float | None
) -> None:
    assert tokens_to_reach(target, CURVE) == tokens


def test_diverged_run_is_a_row_without_figures() -> None:
    experiment = Experiment(OptimizerConfig("sgd", learning_rate=9.0))
    (row,) = compare([Entry(experiment, ([], []), None)])
    assert row.keys() == as_json(experiment.optimizer).keys() - {"name"} | {"optimizer", "diverged"}
    assert (row["optimizer"], row["learning_rate"], row["diverged"]) == ("sgd", 9.0, True)
    learning, cost = make_tables([row])
    assert learning.rows[0][:3] == ["SGD with momentum", "9", "diverged"]
    assert not cost.rows


def _finished(name: OptimizerName, loss: float, speed: float) -> Entry:
    """A run whose curve is CURVE, moved so that it ends at `loss`."""
    summary: dict[str, Any] = dict.fromkeys(
        ("train_loss", "perplexity", "bits_per_byte", "state_bytes", "state_bytes_matrices"), 1.0
    )
    summary |= {"parameter_bytes": 1.0, "tokens": 400}
    summary |= {"validation_loss": loss, "tokens_per_second": speed}
    moved = [value + loss - CURVE[1][-1] for value in CURVE[1]]
    return Entry(Experiment(OptimizerConfig(name)), (CURVE[0], moved), summary)


def test_tokens_and_speed_are_compared_with_one_rate_of_adamw() -> None:
    entries = [_finished("sinkgd", 2.5, 80.0), _finished("adamw", 3.0, 100.0)]
    sinkgd, adamw = compare(entries)
    assert sinkgd["speed_ratio"] == pytest.approx(0.8)
    assert sinkgd["tokens_to_reach_reference"] == 200
    assert adamw["speed_ratio"] == 1
    assert adamw["tokens_to_reach_reference"] == 250
    (alone,) = compare(entries[:1])
    assert alone["speed_ratio"] is alone["tokens_to_reach_reference"] is None
    assert alone["validation_loss"] == 2.5


def test_comparison_end_to_end(
    tiny_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "compare"
    options = ["--optimizers", "sinkgd", "adamw", "--run-dir", str(folder), "--steps", "8"]
    arguments = [*options, *tiny_options]
    assert main(arguments) == 0
    assert "AdamW, one rate" in capsys.readouterr().out
    rows = json.loads((folder / "compare.json").read_text())["rows"]
    assert [row["optimizer"] for row in rows] == ["sinkgd", "adamw"]
    sinkgd, adamw = rows
    for row in rows:
        defaults = OPTIMIZERS[row["optimizer"]].defaults
        assert row["learning_rate"] == defaults["learning_rate"]
        assert row["rest_learning_rate"] == defaults.get("rest_learning_rate")
    assert sinkgd["state_bytes_matrices"] == 0 < adamw["state_bytes_matrices"]
    assert adamw["speed_ratio"] == 1.0
    assert adamw["tokens_to_reach_reference"] <= adamw["tokens"] == 8 * 4 * 16
    assert (folder / "compare.png").read_bytes().startswith(b"\x89PNG")
    # same weights, same first batch: the same loss before the first update
    first = [read_lines(folder / row["optimizer"] / "metrics.jsonl")[0]["loss"] for row in rows]
    assert first[0] == first[1]

    (folder / "compare.json").unlink()
    assert main(arguments) == 0
    assert json.loads((folder / "compare.json").read_text())["rows"] == rows
    assert "is finished" in capsys.readouterr().out
