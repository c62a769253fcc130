"""Runs whose folder was changed by something else than the run: nothing of it goes unnoticed."""

import dataclasses
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from examples.llama.config import (
    DataConfig,
    Experiment,
    InputError,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    Setup,
)
from examples.llama.run.files import read_lines
from examples.llama.run.folder import RunFolder
from examples.llama.run.recording import Recording
from examples.llama.text.corpus import Corpus
from examples.llama.text.tokenizer import Tokenizer
from examples.llama.train import main, resolved, train
from tests.examples.damage import reads_damaged, refuse_to_list
from tests.examples.trajectories import stop_after

STEPS = 12


def _experiment(seed: int = 0, **setup_options: Any) -> Experiment:
    model = ModelConfig(hidden=16, mlp=24, heads=2, layers=2)
    data = DataConfig(batch_size=4, sequence_length=16, validation_rows=12)
    options = {"steps": STEPS, "validate_every": 4, "seed": seed} | setup_options
    setup = Setup(model=model, data=data, **options)
    return resolved(Experiment(OptimizerConfig("sgd"), setup))


def _train(
    corpus: Corpus, path: Path, seed: int = 0, *, accept_changed_text: bool = False, **setup: Any
) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=400)
    run = RunConfig(save_every=5, keep=3, accept_changed_text=accept_changed_text)
    code = train(_experiment(seed, **setup), corpus, RunFolder(path), run, console)
    return code, console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def whole(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with checkpoints of steps 5, 10 and 12."""
    folder = tmp_path_factory.mktemp("altered") / "whole"
    assert _train(corpus, folder)[0] == 0
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """The same before its summary was written, to be changed."""
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    (folder / "summary.json").unlink()
    return folder


def _summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def _lines(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text().splitlines(keepends=True)


def _write(folder: Path, lines: list[str]) -> None:
    (folder / "metrics.jsonl").write_text("".join(lines))


def _losses(folder: Path, name: str) -> list[tuple[int, float]]:
    lines = read_lines(folder / "metrics.jsonl")
    return [(line["step"], line[name]) for line in lines if name in line]


def _change_loss(lines: list[str]) -> list[str]:
    line = json.loads(lines[3])
    return [*lines[:3], json.dumps(line | {"loss": 0.5}) + "\n", *lines[4:]]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1],
        lambda lines: lines[:7],
        lambda lines: [],
        _change_loss,
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [lines[0], *lines],
        lambda lines: ["[]\n", *lines[1:]],
    ],
)
def test_metrics_and_summary_follow_from_the_checkpoint(
    change: Callable[[list[str]], list[str]], corpus: Corpus, whole: Path, run: Path
) -> None:
    _write(run, change(_lines(run)))
    assert _train(corpus, run)[0] == 0
    assert _lines(run) == _lines(whole)
    for name in ("validation_loss", "train_loss", "tokens_per_second"):
        assert _summary(run)[name] == _summary(whole)[name]


def test_file_that_is_missing_is_written_again(corpus: Corpus, whole: Path, run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    shutil.rmtree(run / "checkpoints" / "12")
    assert _train(corpus, run)[0] == 0
    for name in ("loss", "validation_loss"):
        assert _losses(run, name) == _losses(whole, name)


def test_what_a_power_cut_leaves_behind_the_checkpoint_does_not_matter(
    corpus: Corpus, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(6, patch)
        _train(corpus, tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as file:
        file.write(bytes(100) + b"\n{}\n" + bytes(50))
    assert _train(corpus, tmp_path / "run")[0] == 0
    assert _losses(tmp_path / "run", "loss") == _losses(whole, "loss")


def test_metrics_are_on_the_disk_before_the_checkpoint(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file as it was when it was last written through ends with the checkpoint's step."""
    on_disk: list[bytes] = []
    synced = os.fsync

    def fsync(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if path.name == "metrics.jsonl":
            on_disk.append(path.read_bytes())
        synced(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    assert _train(corpus, tmp_path / "run")[0] == 0
    last = [json.loads(content.splitlines()[-1])["step"] for content in on_disk]
    assert last == [5, 10, 12]


@reads_damaged
@pytest.mark.parametrize(
    "change",
    [
        lambda saved: saved["position"].update(next_index=3),
        lambda saved: saved.pop("position"),
        lambda saved: saved.update(position=None),
        lambda saved: saved.update(position=[]),
        lambda saved: saved["config"]["setup"].update(seed=1),
        lambda saved: saved.update(step=10),
        lambda saved: saved.update(run="another"),
        lambda saved: saved.update(record={}),
        lambda saved: saved["record"].update(metrics=saved["record"]["metrics"].swapcase()),
        lambda saved: saved.update(seal=None),
        lambda saved: saved.pop("seal"),
        lambda saved: saved.clear(),
    ],
)
def test_checkpoint_whose_metadata_were_altered_is_passed_over(
    change: Callable[[dict[str, Any]], Any], corpus: Corpus, whole: Path, run: Path
) -> None:
    path = run / "checkpoints" / "12" / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    change(metadata["custom_metadata"])
    path.write_text(json.dumps(metadata))
    code, output = _train(corpus, run)
    assert code == 0
    assert "The checkpoint of step 12 in" in output
    assert "is not used: its metadata are" in output
    assert "after step 10" in output
    assert (run / "damaged" / "12").is_dir()
    assert _summary(run)["validation_loss"] == _summary(whole)["validation_loss"]


@reads_damaged
@pytest.mark.parametrize(
    "content",
    [
        *("[]", "7", "{", "[" * 50_000),
        *('{"init_timestamp_nsecs": "abc"}', '{"metrics": 5}', '{"item_handlers": 5}'),
    ],
)
def test_checkpoint_with_metadata_of_another_form_is_passed_over(
    content: str, corpus: Corpus, whole: Path, run: Path
) -> None:
    for step in ("5", "12"):
        (run / "checkpoints" / step / "_CHECKPOINT_METADATA").write_text(content)
    code, output = _train(corpus, run)
    assert code == 0
    assert "The checkpoint of step 12 in" in output
    assert "after step 10" in output
    assert (run / "damaged" / "12").is_dir()
    assert _summary(run)["validation_loss"] == _summary(whole)["validation_loss"]


def test_checkpoint_on_another_file_system_is_moved_aside(
    corpus: Corpus, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where `checkpoints` is a link to one."""
    rename = os.rename

    def refuse(source: Any, target: Any, **options: Any) -> None:
        if "damaged" in Path(target).parts:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", refuse)
    (run / "checkpoints" / "12" / "_CHECKPOINT_METADATA").write_text("[]")
    code, output = _train(corpus, run)
    assert code == 0
    assert "after step 10" in output
    assert (run / "damaged" / "12").is_dir()


def test_checkpoints_that_all_have_metadata_of_another_form_stay(corpus: Corpus, run: Path) -> None:
    for step in ("5", "10", "12"):
        (run / "checkpoints" / step / "_CHECKPOINT_METADATA").write_text("[]")
    before = _lines(run)
    with pytest.raises(InputError, match=r"can be used, of steps \[12, 10, 5\]; .* add --fresh"):
        _train(corpus, run)
    assert _lines(run) == before
    assert not (run / "damaged").exists()


def test_folder_of_a_checkpoint_that_may_not_be_read_is_no_damage(
    corpus: Corpus, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_to_list("state", monkeypatch)
    with pytest.raises(PermissionError):
        _train(corpus, run)
    assert not (run / "damaged").exists()


def test_checkpoint_that_may_not_be_read_is_not_damaged(
    corpus: Corpus, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def refuse(path: Path, *args: Any, **options: Any) -> Any:
        if "12" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError):
        _train(corpus, run)
    monkeypatch.undo()
    assert "after step 12" in _train(corpus, run)[1]


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text("")])
def test_metrics_that_are_lost_while_a_run_trains_are_those_of_its_checkpoint(
    change: Callable[[Path], Any],
    corpus: Corpus,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = Recording.take

    def take(recording: Recording, event: Any) -> None:
        taken(recording, event)
        if event.number == 9:
            change(tmp_path / "run" / "metrics.jsonl")

    monkeypatch.setattr(Recording, "take", take)
    assert _train(corpus, tmp_path / "run")[0] == 0
    for name in ("loss", "validation_loss"):
        assert _losses(tmp_path / "run", name) == _losses(whole, name)


@pytest.mark.parametrize("raises", [False, True])
def test_run_without_a_sample_is_finished(
    raises: bool, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(self: Tokenizer, text: str) -> Any:
        if raises:
            raise ValueError("the vocabulary has no d")
        return np.array([], np.int32)

    monkeypatch.setattr(type(corpus.tokenizer), "encode", encode)
    code, output = _train(corpus, tmp_path / "run")
    assert code == 0
    assert "There is no sample of text: the tokenizer cannot write 'def '" in output
    assert _summary(tmp_path / "run")["sample"] is None


@reads_damaged
def test_checkpoint_that_was_renamed_is_passed_over(corpus: Corpus, whole: Path, run: Path) -> None:
    (run / "checkpoints" / "10").rename(run / "checkpoints" / "99")
    code, output = _train(corpus, run)
    assert code == 0
    assert "The checkpoint of step 99 in" in output
    assert "is not used: it was saved at step 10" in output
    assert "after step 12" in output


@reads_damaged
@pytest.mark.parametrize("seed", [0, 1])
def test_checkpoint_of_another_run_is_passed_over(
    seed: int, corpus: Corpus, whole: Path, run: Path, tmp_path: Path
) -> None:
    """Even one of the same configuration: its record is elsewhere."""
    other = tmp_path / "other"
    assert _train(corpus, other, seed)[0] == 0
    shutil.rmtree(run / "checkpoints" / "12")
    shutil.copytree(other / "checkpoints" / "12", run / "checkpoints" / "12")
    code, output = _train(corpus, run)
    assert code == 0
    assert "is not used: it is of another run" in output
    assert _summary(run)["validation_loss"] == _summary(whole)["validation_loss"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda summary: summary.update(run="another"), "is not of the run in this folder"),
        (lambda summary: summary.pop("run"), "is not of the run in this folder"),
        (lambda summary: summary.update(validation_loss="low"), "'low' for validation_loss"),
        (lambda summary: summary.update(perplexity=[]), r"\[\] for perplexity"),
        (lambda summary: summary.update(steps=True), "True for steps"),
        (lambda summary: summary.pop("bits_per_byte"), "no value for bits_per_byte"),
    ],
)
def test_summary_of_something_else_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, corpus: Corpus, whole: Path, run: Path
) -> None:
    summary = _summary(whole)
    change(summary)
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match=rf"summary\.json .*{message}"):
        _train(corpus, run)


@pytest.mark.parametrize(
    "change",
    [
        lambda run: (run / "metrics.jsonl").unlink(),
        lambda run: (run / "metrics.jsonl").write_text("7\n"),
        lambda run: (run / "loss.png").unlink(),
        lambda run: (run / "summary.json").write_text(
            json.dumps(_summary(run) | {"validation_loss": 0.01})
        ),
    ],
)
def test_finished_run_is_made_whole_from_its_checkpoint(
    change: Callable[[Path], Any], corpus: Corpus, whole: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    change(folder)
    assert "after step 12" in _train(corpus, folder)[1]
    assert _lines(folder) == _lines(whole)
    assert (folder / "loss.png").exists()
    assert _summary(folder)["validation_loss"] == _summary(whole)["validation_loss"]
    assert "is finished: " in _train(corpus, folder)[1]


def test_run_whose_checkpoints_are_gone_says_that_it_starts_again(
    corpus: Corpus, whole: Path, run: Path
) -> None:
    shutil.rmtree(run / "checkpoints")
    code, output = _train(corpus, run)
    assert code == 0
    assert "has no checkpoint: starting at the beginning" in output
    assert _losses(run, "loss") == _losses(whole, "loss")


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", "summary.json", "source.json"])
def test_what_is_in_the_way_is_named(
    name: str, run: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--optimizer", "sgd", "--steps", str(STEPS), "--run-dir", str(run)]
    if (run / name).is_dir():
        shutil.rmtree(run / name)
        (run / name).write_text("a file")
    else:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()
    assert main([*tiny_options, *options]) == 3
    *_, line = capsys.readouterr().out.splitlines()
    assert line.startswith(f"Error: {run / name}: ")


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
@pytest.mark.parametrize("content", ["[]", "null", "7", '"a"', "{}", "NaN", ""])
def test_json_of_another_type_is_refused(
    name: str, content: str, corpus: Corpus, run: Path
) -> None:
    (run / name).write_text(content)
    with pytest.raises(InputError, match="run"):
        _train(corpus, run)


_HOLD = """
import sys, time
from pathlib import Path
from examples.llama.run.lock import LockedFolder
LockedFolder(Path(sys.argv[1])).lock()
print("locked", flush=True)
time.sleep(600)
"""


def test_second_process_is_told_who_has_the_folder_until_that_one_is_killed(
    corpus: Corpus, run: Path
) -> None:
    before = _lines(run)
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(run)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        for fresh in (False, True):
            with pytest.raises(InputError, match=f"is in use by process {holder.pid} on "):
                RunFolder(run).lock(fresh=fresh)
        with pytest.raises(InputError, match=f"is in use by process {holder.pid} on "):
            _train(corpus, run)
        assert _lines(run) == before
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert (run / "lock").exists()
    assert _train(corpus, run)[0] == 0
    assert not (run / "lock").exists()


def test_two_commands_at_once_make_one_record(tiny_options: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = [*tiny_options, "--optimizer", "sgd", "--steps", "40", "--run-dir", str(folder)]
    command = [sys.executable, "-m", "examples.llama.train", *options]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    codes = sorted(process.returncode for process in both)
    text = "".join(outputs)
    assert codes == [0, 2] or "is finished" in text, text  # one may come when the other is done
    assert "is in use by process" in text or "is finished" in text
    assert [step for step, _ in _losses(folder, "loss")] == list(range(1, 41))
    assert "Traceback" not in text


@pytest.mark.parametrize("name", ["lr=[1e-3]", "a*", "a?", "a\\b"])
def test_folder_whose_checkpoints_could_not_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="in its path, with which its checkpoints may not"):
        RunFolder(tmp_path / name / "run")


def test_folder_that_the_command_runs_in_is_not_moved(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    with pytest.raises(InputError, match="in which this command was started"):
        RunFolder(Path()).lock(fresh=True)
    assert (run / "config.json").exists()


def test_finished_run_is_trained_on_when_its_schedule_is_kept(
    corpus: Corpus, whole: Path, tmp_path: Path
) -> None:
    at_once, grown = tmp_path / "at_once", tmp_path / "grown"
    assert _train(corpus, at_once, steps=20, schedule_steps=STEPS)[0] == 0
    shutil.copytree(whole, grown)
    with pytest.raises(InputError, match=f"keep its schedule: --schedule-steps {STEPS}"):
        _train(corpus, grown, steps=20)
    code, output = _train(corpus, grown, steps=20, schedule_steps=STEPS)
    assert code == 0
    assert "after step 12" in output
    for name in ("loss", "validation_loss"):
        assert _losses(grown, name) == _losses(at_once, name)
    assert _summary(grown)["validation_loss"] == _summary(at_once)["validation_loss"]
    assert _summary(grown)["steps"] == 20
    assert "is finished" in _train(corpus, grown, steps=20, schedule_steps=STEPS)[1]
    with pytest.raises(InputError, match=r"setup.steps: 20 in the folder, 12 asked for"):
        _train(corpus, grown)


def test_part_of_a_schedule_is_a_run_that_can_be_trained_on(
    corpus: Corpus, whole: Path, tmp_path: Path
) -> None:
    for steps in (4, 8, STEPS):
        assert _train(corpus, tmp_path / "run", steps=steps, schedule_steps=STEPS)[0] == 0
        assert _summary(tmp_path / "run")["steps"] == steps
    assert _losses(tmp_path / "run", "loss") == _losses(whole, "loss")


def test_run_goes_on_with_a_text_that_was_repaired_if_told_so(
    corpus: Corpus, run: Path, tmp_path: Path
) -> None:
    repaired = dataclasses.replace(corpus, name="python-repaired")  # type: ignore[type-var]
    with pytest.raises(InputError, match=r"(?s)corpus: .* --accept-changed-text"):
        _train(repaired, run)
    longer = {"steps": 14, "schedule_steps": STEPS}
    assert "after step 12" in _train(repaired, run, accept_changed_text=True, **longer)[1]
    config = json.loads((run / "config.json").read_text())
    assert (config["corpus"], config["earlier_texts"]) == ("python-repaired", [corpus.name])
    (run / "summary.json").unlink()
    # what was accepted once is the run's text from then on, and its checkpoints are all used
    shutil.rmtree(run / "checkpoints" / "14")
    assert "after step 12" in _train(repaired, run, **longer)[1]
    with pytest.raises(InputError, match="corpus: python-repaired in the folder"):
        _train(corpus, run, **longer)
