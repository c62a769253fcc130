"""Metrics for TensorBoard and Weights & Biases."""

import errno
import io
import json
import os
import signal
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event, SessionLog

from examples.llama.config import Experiment, InputError, OptimizerConfig, RunConfig, Setup
from examples.llama.run.files import read_lines
from examples.llama.run.folder import RunFolder
from examples.llama.run.recording import Recording
from examples.llama.run.tracking import track
from examples.llama.text.corpus import Corpus
from examples.llama.train import Step, main, resolved, train

CONFIG = {"optimizer": {"name": "sinkgd"}}

Scalars = dict[str, dict[int, float]]
"""Steps and values by name."""


def _line(step: int, **values: Any) -> dict[str, Any]:
    return {"step": step, "tokens": 64 * step, **values}


def _shown_by_tensorboard(folder: Path) -> Scalars:
    """What TensorBoard shows: the event files one after another, without what was purged.

    A file is a sequence of records: length (8 bytes), checksum (4), event, checksum (4). A start at
    some step takes back that step and those after it.
    """
    scalars: Scalars = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += 12 + length + 4
            if event.session_log.status == SessionLog.START:
                for values in scalars.values():
                    for step in [step for step in values if step >= event.step]:
                        del values[step]
            for value in event.summary.value:
                scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    return scalars


def _earlier(folder: Path) -> None:
    """Make the only event file an older one: its name, which orders them, has the second."""
    (path,) = folder.glob("events.out.tfevents.*")
    path.rename(folder / "events.out.tfevents.0000000001.host")


def _in_lines(path: Path) -> Scalars:
    """The same figures from metrics.jsonl."""
    scalars: Scalars = {}
    for line in read_lines(path):
        for name in line.keys() - {"step"}:
            scalars.setdefault(name, {})[line["step"]] = pytest.approx(line[name], rel=1e-6)
    return scalars


def test_tensorboard_gets_every_number_of_a_line(tmp_path: Path) -> None:
    with track(["tensorboard"], tmp_path, "1a2b", CONFIG, done=0) as log:
        log(_line(1, loss=2.5, tokens_per_second=10.0))
        log(_line(2, loss=1.5, tokens_per_second=20.0))
        # JSON has no infinity: such a perplexity is None, and nothing to draw
        log(_line(2, validation_loss=1000.0, perplexity=None))
    assert _shown_by_tensorboard(tmp_path / "tensorboard") == {
        "tokens": {1: 64, 2: 128},
        "loss": {1: 2.5, 2: 1.5},
        "tokens_per_second": {1: 10, 2: 20},
        "validation_loss": {2: 1000},
    }


def test_tensorboard_takes_back_what_will_be_measured_anew(tmp_path: Path) -> None:
    with track(["tensorboard"], tmp_path, "1a2b", CONFIG, done=0) as log:
        for step in range(1, 8):
            log(_line(step, loss=100.0 + step))
    _earlier(tmp_path / "tensorboard")
    # killed after step 7; the newest checkpoint is that of step 4
    with track(["tensorboard"], tmp_path, "1a2b", CONFIG, done=4) as log:
        for step in range(5, 7):
            log(_line(step, loss=200.0 + step))
    shown = _shown_by_tensorboard(tmp_path / "tensorboard")["loss"]
    assert shown == {1: 101, 2: 102, 3: 103, 4: 104, 5: 205, 6: 206}


def test_events_that_cannot_be_written_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*event: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def log_until_it_fails(lines: int) -> None:
        with (
            monkeypatch.context() as patch,
            track(["tensorboard"], tmp_path, "1a2b", CONFIG, done=0) as log,
        ):
            patch.setattr("tensorboardX.record_writer.RecordWriter.write", fail)
            for step in range(lines):
                log(_line(step, loss=2.5))

    for lines in (1, 1000):
        with pytest.raises(OSError, match="No space left") as error:
            log_until_it_fails(lines)
        assert error.value.filename == str(tmp_path / "tensorboard")
    assert capsys.readouterr().err == ""


def test_other_faults_are_not_those_of_the_tracker(tmp_path: Path) -> None:
    def read_what_is_not_there() -> None:
        with track(["tensorboard"], tmp_path, "1a2b", CONFIG, done=0):
            (tmp_path / "absent").read_bytes()

    with pytest.raises(FileNotFoundError) as error:
        read_what_is_not_there()
    assert error.value.filename == str(tmp_path / "absent")


def test_run_that_is_stopped_and_goes_on_shows_the_figures_of_its_metrics(
    corpus: Corpus, tiny_setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = resolved(Experiment(OptimizerConfig("sgd"), tiny_setup))

    def run() -> int:
        config = RunConfig(track=("tensorboard", "tensorboard"), save_every=5)
        return train(experiment, corpus, RunFolder(tmp_path), config, Console(file=io.StringIO()))

    show = Recording.take

    def show_and_stop(self: Any, event: Step) -> None:
        show(self, event)
        if isinstance(event, Step) and event.number == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Recording, "take", show_and_stop)
        assert run() == 128 + signal.SIGTERM
    _earlier(tmp_path / "tensorboard")
    assert run() == 0
    shown = _shown_by_tensorboard(tmp_path / "tensorboard")
    assert shown == _in_lines(tmp_path / "metrics.jsonl")
    assert list(shown["loss"]) == list(range(1, 13))
    assert shown.keys() >= {"validation_loss", "learning_rate", "rest_learning_rate"}


class _Wandb:
    """Stands for the package wandb, and for a run of it."""

    def __init__(self) -> None:
        self.settings: list[dict[str, Any]] = []
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **settings: Any) -> "_Wandb":
        self.settings.append(settings)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.lines.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> _Wandb:
    package = _Wandb()
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=package.init))  # type: ignore[arg-type]
    return package


def test_wandb_goes_on_with_the_run_wherever_its_folder_is(wandb: _Wandb, tmp_path: Path) -> None:
    for folder, run in (("a", "1a2b"), ("b", "1a2b"), ("a", "3c4d")):
        with track(["wandb"], tmp_path / folder, run, CONFIG, done=0):
            pass
    first, moved, fresh = wandb.settings
    assert [each["id"] for each in (first, moved, fresh)] == ["1a2b", "1a2b", "3c4d"]
    for settings, name in ((first, "a"), (moved, "b"), (fresh, "a")):
        assert settings["resume"] == "allow"
        assert settings["name"] == name
        assert settings["config"] == CONFIG
        assert Path(settings["dir"]).name == name
    assert wandb.finished == 3


def test_a_run_and_a_fresh_one_in_its_place_have_ids_of_their_own(
    wandb: _Wandb, corpus: Corpus, tiny_setup: Setup, tmp_path: Path
) -> None:
    experiment = resolved(Experiment(OptimizerConfig("sgd"), tiny_setup))
    folder, console = RunFolder(tmp_path / "run"), Console(file=io.StringIO())
    for fresh in (False, True):
        config = RunConfig(track=("wandb",))
        assert train(experiment, corpus, folder, config, console, fresh=fresh) == 0
    runs = [json.loads(path.read_text())["run"] for path in tmp_path.glob("*/config.json")]
    assert {each["id"] for each in wandb.settings} == set(runs)
    assert len(set(runs)) == 2


def test_wandb_gets_every_number_of_a_line_and_its_step(wandb: _Wandb, tmp_path: Path) -> None:
    with track(["wandb"], tmp_path, "1a2b", CONFIG, done=0) as log:
        log(_line(1, loss=2.5))
        log(_line(1, validation_loss=1000.0, perplexity=None))
    assert wandb.lines == [
        (1, {"tokens": 64, "loss": 2.5}),
        (1, {"tokens": 64, "validation_loss": 1000.0}),
    ]


def test_trackers_are_closed_when_training_fails(wandb: _Wandb, tmp_path: Path) -> None:
    def fail() -> None:
        with track(["tensorboard", "wandb"], tmp_path, "1a2b", CONFIG, done=0) as log:
            log(_line(1, loss=2.5))
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        fail()
    assert wandb.finished == 1
    assert _shown_by_tensorboard(tmp_path / "tensorboard")["loss"] == {1: 2.5}


def test_both_trackers_get_the_same(wandb: _Wandb, tmp_path: Path) -> None:
    with track(["wandb", "tensorboard"], tmp_path, "1a2b", CONFIG, done=0) as log:
        log(_line(3, loss=2.5))
    assert wandb.lines == [(3, {"tokens": 192, "loss": 2.5})]
    shown = _shown_by_tensorboard(tmp_path / "tensorboard")
    assert shown == {"tokens": {3: 192}, "loss": {3: 2.5}}


def test_a_missing_package_is_said_before_there_is_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # type: ignore[arg-type]
    folder = tmp_path / "run"
    assert main(["--track", "wandb", "--run-dir", str(folder)]) == 2
    assert "--track wandb needs the package wandb" in capsys.readouterr().out
    assert not folder.exists()


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    with track([], tmp_path, "1a2b", CONFIG, done=0) as log:
        log(_line(1, loss=2.5))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tracker", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")]
)
def test_missing_package_is_named(
    tracker: Any, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    message = rf"--track {tracker} needs the package {package}: pip install {package}"
    with (
        pytest.raises(InputError, match=message),
        track([tracker], tmp_path, "1a2b", CONFIG, done=0),
    ):
        pass


def test_command_line_without_the_package_ends_with_a_message_and_can_go_on(
    tiny_options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["--optimizer", "sgd", "--steps", "1", "--run-dir", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", None)  # type: ignore[arg-type]
        assert main([*command, *tiny_options, "--track", "wandb"]) == 2
    assert "pip install wandb" in capsys.readouterr().out
    assert main([*command, *tiny_options]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 1
