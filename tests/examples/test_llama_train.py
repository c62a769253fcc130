import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest
from rich.console import Console

from examples.llama.checkpoint import load, saved_steps
from examples.llama.config import (
    CorpusConfig,
    Experiment,
    InputError,
    OptimizerConfig,
    RunConfig,
    Setup,
)
from examples.llama.evaluate import main as evaluate
from examples.llama.presets import resolve
from examples.llama.run.files import read_lines
from examples.llama.run.folder import ConfigMismatchError, RunFolder
from examples.llama.run.options import from_json
from examples.llama.run.recording import Recording, Step, Validated
from examples.llama.run.stop import StopSignals
from examples.llama.step import TrainState
from examples.llama.text.corpus import Corpus
from examples.llama.train import DIVERGED, Task, main, prepare, train
from tests.examples.trajectories import stop_after

NAMES = ["config.json", "source.json", "metrics.jsonl", "checkpoints", "summary.json", "loss.png"]


def _experiment(setup: Setup, **options: Any) -> Experiment:
    return Experiment(resolve(OptimizerConfig(**options)), setup)


def _train(experiment: Experiment, corpus: Corpus, path: Path, **run: Any) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=400)
    code = train(experiment, corpus, RunFolder(path), RunConfig(**run), console)
    return code, console.file.getvalue()  # type: ignore[attr-defined]


def _last_state(path: Path, task: Task) -> tuple[TrainState, Any]:
    """What a run saved last, and the batch that would be next."""
    batches = iter(task.batches)
    folder = path / "checkpoints"
    state, saved = load(folder, saved_steps(folder)[0], task.initial_state())
    batches.set_state(saved["position"])
    return state, next(batches)


def _without_times(path: Path) -> list[dict[str, Any]]:
    timed = {"elapsed_seconds", "tokens_per_second"}
    lines = read_lines(path / "metrics.jsonl")
    return [{key: line[key] for key in line.keys() - timed} for line in lines]


def _contents(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_a_signal_that_the_shell_has_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a script's `command &`
    try:
        with StopSignals(lambda line: None) as signals:
            signal.raise_signal(signal.SIGINT)
            assert signals.received is None
            signal.raise_signal(signal.SIGTERM)
            assert signals.received is signal.SIGTERM
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(
    corpus: Corpus, tiny_setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = _experiment(tiny_setup, momentum=0.9)
    assert _train(experiment, corpus, tmp_path / "whole", save_every=5)[0] == 0
    with monkeypatch.context() as patch:
        stop_after(6, patch)
        code, output = _train(experiment, corpus, tmp_path / "parts", save_every=5)
    assert code == 128 + signal.SIGINT
    assert "the same command goes on" in output
    stopped_at = int(re.search(r"Stopped after step (\d+)", output)[1])  # type: ignore[index]
    assert 6 <= stopped_at < 12
    assert not (tmp_path / "parts" / "summary.json").exists()
    # a crash after the checkpoint: lines that will be measured anew, the last one cut short
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": stopped_at + 1, "loss": 99.0}) + '\n{"step": 1')

    code, output = _train(experiment, corpus, tmp_path / "parts", save_every=5)
    assert code == 0
    assert f"after step {stopped_at}" in output
    assert _without_times(tmp_path / "parts") == _without_times(tmp_path / "whole")
    lines = read_lines(tmp_path / "parts" / "metrics.jsonl")
    elapsed = [line["elapsed_seconds"] for line in lines if "elapsed_seconds" in line]
    assert elapsed == sorted(elapsed)
    assert len(elapsed) > 6
    task = prepare(experiment, corpus)
    whole, whole_batch = _last_state(tmp_path / "whole", task)
    parts, parts_batch = _last_state(tmp_path / "parts", task)
    assert int(whole.step) == 12
    chex.assert_trees_all_equal(whole, parts)
    np.testing.assert_array_equal(whole_batch, parts_batch)


def test_run_leaves_its_records(corpus: Corpus, tiny_setup: Setup, tmp_path: Path) -> None:
    run = {"save_every": 3, "keep": 2, "log_every": 5}
    code, output = _train(_experiment(tiny_setup), corpus, tmp_path / "run", **run)
    assert code == 0
    shown = re.findall(r"(?m)^step (\d+)/12  loss \d\.\d{4}  [\d,]+ tokens/s$", output)
    assert shown == ["5", "10"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(NAMES)
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["12", "9"]
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in lines if "validation_loss" in line] == [4, 8, 12]
    assert lines[-1]["tokens"] == 12 * 4 * 16
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["validation_loss"] == lines[-1]["validation_loss"]
    assert summary["state_bytes_matrices"] == 0
    assert summary["sample"].startswith("def ")
    assert summary["config"]["optimizer"]["learning_rate"] == 1e-3
    assert summary["corpus"] == corpus.name
    assert summary["train_loss"] == lines[-2]["loss"]  # the last tenth of twelve steps is one step
    assert "optimizer state" in output
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_finished_run_is_shown_and_not_touched(
    corpus: Corpus, tiny_setup: Setup, tmp_path: Path
) -> None:
    experiment = _experiment(tiny_setup, name="sgd")
    _train(experiment, corpus, tmp_path / "run")
    before = _contents(tmp_path / "run")
    for mesh in ((1, 1, 1), (64, 1, 1)):  # the second has more devices than there are
        code, output = _train(experiment, corpus, tmp_path / "run", mesh=mesh)
        assert code == 0
        assert "is finished: validation loss" in output
        assert _contents(tmp_path / "run") == before


def test_run_that_ended_before_its_summary_needs_no_further_step(
    corpus: Corpus, tiny_setup: Setup, tmp_path: Path
) -> None:
    experiment = _experiment(tiny_setup, name="sgd")
    _train(experiment, corpus, tmp_path / "run")
    before = _contents(tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    code, output = _train(experiment, corpus, tmp_path / "run")
    assert code == 0
    assert "after step 12" in output
    assert "step 12/12" not in output
    assert _contents(tmp_path / "run") == before


def test_settings_that_change_no_result_may_change_on_the_way(
    corpus: Corpus, tiny_setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = _experiment(tiny_setup, name="sgd")
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        _train(experiment, corpus, tmp_path / "run", save_every=5)
    code, output = _train(experiment, corpus, tmp_path / "run", save_every=1, keep=3, log_every=1)
    assert code == 0
    assert "step 11/12  loss" in output
    checkpoints = sorted(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir())
    assert checkpoints == [10, 11, 12]


def test_other_configuration_is_refused_with_the_difference(
    corpus: Corpus, tiny_setup: Setup, tmp_path: Path
) -> None:
    _train(_experiment(tiny_setup, name="sgd"), corpus, tmp_path / "run")
    before = _contents(tmp_path / "run")
    with pytest.raises(ConfigMismatchError) as refusal:
        _train(_experiment(tiny_setup, name="sgd", learning_rate=9.0), corpus, tmp_path / "run")
    message = str(refusal.value)
    assert "optimizer.learning_rate: 0.5 in the folder, 9.0 asked for" in message
    assert str(tmp_path / "run") in message
    assert "--run-dir" in message
    assert "--fresh" in message
    assert _contents(tmp_path / "run") == before


def test_other_text_is_refused(corpus: Corpus, tiny_setup: Setup, tmp_path: Path) -> None:
    experiment = _experiment(tiny_setup, name="sgd")
    _train(experiment, corpus, tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer": "other"}))
    with pytest.raises(ConfigMismatchError, match="tokenizer: other in the folder, bytes asked"):
        _train(experiment, corpus, tmp_path / "run")


def test_folder_that_is_no_run_is_refused(
    corpus: Corpus, tiny_setup: Setup, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigMismatchError, match=r"has no config\.json"):
        _train(_experiment(tiny_setup), corpus, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_diverged_run_stops_and_keeps_the_last_good_checkpoint(
    corpus: Corpus, tiny_setup: Setup, tmp_path: Path
) -> None:
    experiment = _experiment(tiny_setup, name="sgd", learning_rate=1e30)
    # the warm-up's first step has rate 0, so the weights after it are finite
    code, output = _train(experiment, corpus, tmp_path / "run", save_every=1)
    assert code == DIVERGED == 1
    found = re.search(r"of step (\d) is not finite; the last good checkpoint, of step (\d)", output)
    assert found is not None
    assert int(found[2]) == int(found[1]) - 1 >= 1
    state, _ = _last_state(tmp_path / "run", prepare(experiment, corpus))
    assert int(state.step) == int(found[2])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert not (tmp_path / "run" / "summary.json").exists()


def test_command_line_trains_starts_over_and_refuses(
    tiny_options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["--optimizer", "adamw", "--steps", "2", *tiny_options]
    assert main(command) == 0
    assert main([*command, "--learning-rate", "0.1"]) == 2
    assert "--fresh" in capsys.readouterr().out
    assert main([*command, "--learning-rate", "0.1", "--fresh"]) == 0
    away = ["--learning-rate", "0.1", "--fresh", "--run-dir", "runs/adamw.1/../adamw"]
    assert main([*command, *away]) == 0
    assert main([*command, "--num-iters", "3", "--fresh"]) == 2
    assert "--num-iters has no meaning for adamw" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main([*command, "--batch-size", "4", "--microbatches", "3"])
    assert end.value.code == 2
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "adamw",
        "adamw.1",
        "adamw.2",
    ]
    old = json.loads((tmp_path / "runs" / "adamw.1" / "summary.json").read_text())
    assert old["config"]["optimizer"]["learning_rate"] != 0.1


def test_refused_run_makes_no_folder(
    tiny_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*tiny_options, "--steps", "1", "--run-dir", str(tmp_path / "run")]
    for refused in (["--validation-rows", "99999"], ["--mesh", "64", "1", "1"]):
        assert main([*command, *refused]) == 2
        assert refused[0] in capsys.readouterr().out
        assert not (tmp_path / "run").exists()
    assert main(command) == 0


def test_refused_command_leaves_the_folder_as_it_was(
    tiny_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*tiny_options, "--steps", "2", "--run-dir", str(tmp_path / "run")]
    assert main(command) == 0
    before = _contents(tmp_path / "run")
    longer = ["--steps", "4", "--schedule-steps", "2"]
    for refused in (["--validation-rows", "99999"], [*longer, "--mesh", "64", "1", "1"]):
        assert main([*command, *refused]) == 2
        assert _contents(tmp_path / "run") == before
    assert main([*command, "--steps", "1"]) == 2
    assert "--steps may grow, and not shrink" in capsys.readouterr().out
    assert main(command) == 0
    assert "is finished" in capsys.readouterr().out


def test_run_does_not_write_into_another_runs_folder(
    corpus: Corpus, tiny_setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, path = Recording.take, tmp_path / "run"

    def move_and_take(self: Recording, event: Step | Validated) -> None:
        take(self, event)
        if event.number == 3 and isinstance(event, Step):
            while not (path / "checkpoints" / "2").exists():  # which is written meanwhile
                time.sleep(0.01)
            path.rename(tmp_path / "moved")
            for step in "123456":
                (path / "checkpoints" / step).mkdir(parents=True)
            (path / "config.json").write_text("of another run")

    monkeypatch.setattr(Recording, "take", move_and_take)
    with pytest.raises(OSError, match="it was moved or removed while this run was") as error:
        _train(_experiment(tiny_setup, name="sgd"), corpus, path, save_every=2)
    assert error.value.filename == str(path)
    assert sorted(each.name for each in path.iterdir()) == ["checkpoints", "config.json"]
    assert sorted(each.name for each in (path / "checkpoints").iterdir()) == list("123456")
    assert [each.name for each in (tmp_path / "moved" / "checkpoints").iterdir()] == ["2"]


def test_metrics_that_go_nowhere_are_named(
    corpus: Corpus, tiny_setup: Setup, tmp_path: Path
) -> None:
    experiment = _experiment(tiny_setup, name="sgd")
    _train(experiment, corpus, tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/null")
    with pytest.raises(InputError, match=r"metrics\.jsonl does not have the lines"):
        _train(experiment, corpus, tmp_path)


def test_home_is_the_users_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert RunFolder(Path("~/run")).path == Path("/home/somebody/run")


def test_name_for_what_is_moved_aside_may_be_that_of_a_broken_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run.1").symlink_to("nowhere")
    folder = RunFolder(tmp_path / "run")
    assert folder.lock(fresh=True) == tmp_path / "run.2"
    folder.unlock()


def test_byte_pairs_of_a_changed_text_can_be_used_on(
    tiny_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tokenizers")
    text, cache = tmp_path / "text", tmp_path / "cache"
    text.mkdir()
    for name in "abcdefgh":
        (text / f"{name}.py").write_text(f"def {name}(x):\n    return x * {name}(x - 1)\n" * 40)
    command = [*tiny_options, "--steps", "2", "--run-dir", str(tmp_path / "run")]
    command += ["--tokenizer", "bpe", "--vocabulary", "280"]
    command += ["--corpus-root", str(text), "--cache", str(cache)]
    assert main(command) == 0
    for path in text.iterdir():
        path.write_text(path.read_text() + "repaired = 1\n")
    capsys.readouterr()
    assert main([*command, "--accept-changed-text"]) == 2
    found = re.search(
        r"Its byte pairs are in a file: --tokenizer (\S+)\. ", capsys.readouterr().out
    )
    assert found is not None
    chosen = ["--tokenizer", found[1], "--vocabulary", "280"]
    assert main([*command, "--accept-changed-text", *chosen]) == 0
    assert "is finished" in capsys.readouterr().out
    assert evaluate(["--run-dir", str(tmp_path / "run")]) == 0


def test_run_remembers_where_its_text_came_from(
    tiny_options: list[str], corpus_config: CorpusConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    options = ["--optimizer", "sgd", "--steps", "1", "--run-dir", str(folder)]
    assert main([*tiny_options, *options]) == 0
    source = from_json(
        CorpusConfig, json.loads((folder / "source.json").read_text()), "source.json"
    )
    assert source == corpus_config


@pytest.mark.slow
def test_sigterm_saves_and_ends_with_143(tiny_options: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "examples.llama.train", "--steps", "1000000"]
    options = ["--optimizer", "sgd", "--run-dir", str(tmp_path / "run")]
    process = subprocess.Popen(
        [*command, *tiny_options, *options], stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and len(read_lines(tmp_path / "run/metrics.jsonl")) < 3:
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "SIGTERM: stopping after this step" in output
    stopped_at = re.search(r"Stopped after step (\d+)", output)
    assert stopped_at is not None
    assert (tmp_path / "run" / "checkpoints" / stopped_at[1]).is_dir()
    assert read_lines(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == int(stopped_at[1])
