"""Runs that are killed, checkpoints that are damaged, disks that are full."""

import dataclasses
import io
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import pytest
from orbax.checkpoint import v1 as ocp
from rich.console import Console

from examples.llama import checkpoint as checkpoint_module
from examples.llama.checkpoint import Checkpoints, DamagedError, fingerprint, load
from examples.llama.config import Experiment, InputError, OptimizerConfig, RunConfig, Setup
from examples.llama.run.command import NOT_SAVED
from examples.llama.run.files import read_lines
from examples.llama.run.folder import RunFolder
from examples.llama.run.recording import Recording, Step, Validated
from examples.llama.step import TrainState, initial_state
from examples.llama.text.corpus import Corpus
from examples.llama.train import resolved, train
from tests.examples.damage import flip_a_bit, largest_file, reads_damaged


def _train(experiment: Experiment, corpus: Corpus, path: Path, **run: Any) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=400)
    code = train(experiment, corpus, RunFolder(path), RunConfig(**run), console)
    return code, console.file.getvalue()  # type: ignore[attr-defined]


def _metrics(path: Path) -> list[dict[str, Any]]:
    timed = {"elapsed_seconds", "tokens_per_second"}
    return [
        {key: line[key] for key in line.keys() - timed}
        for line in read_lines(path / "metrics.jsonl")
    ]


def _state(path: Path, experiment: Experiment, step: int) -> TrainState:
    return load(path / "checkpoints", step, initial_state(experiment))[0]


@pytest.fixture
def experiment(tiny_setup: Setup) -> Experiment:
    return resolved(Experiment(OptimizerConfig("sinkgd", momentum=0.9), tiny_setup))


@pytest.mark.slow
def test_run_killed_at_random_moments_ends_bit_for_bit_like_one_never_killed(
    tiny_options: list[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    steps = 40
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("killed")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1",
    }

    def start(folder: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "examples.llama.train", "--optimizer", "sinkgd"]
        options = ["--momentum", "0.9", "--steps", str(steps), "--save-every", "1"]
        where = ["--run-dir", str(tmp_path / folder)]
        return subprocess.Popen(
            [*command, *tiny_options, *options, *where],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    whole = start("whole")
    output, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, output

    checkpoints = tmp_path / "killed" / "checkpoints"
    choose = random.Random(time.time_ns())
    kills = 0
    saves_in_flight = 0
    for attempt in range(3):
        process = start("killed")
        begun = len(read_lines(tmp_path / "killed" / "metrics.jsonl"))
        wanted = begun + choose.randint(1, steps // 8)
        in_flight = attempt % 2 == 1
        deadline = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < deadline:
            trained = len(read_lines(tmp_path / "killed" / "metrics.jsonl")) >= wanted
            saving = any(checkpoints.glob("*tmp*"))
            if trained and (saving or not in_flight):
                saves_in_flight += saving
                process.kill()
                kills += 1
                break
            time.sleep(0.001)
        process.communicate(timeout=60)
    assert kills >= 2
    assert saves_in_flight >= 1
    last = start("killed")
    output, _ = last.communicate(timeout=300)
    assert last.returncode == 0, output
    assert "Going on in" in output
    assert _metrics(tmp_path / "killed") == _metrics(tmp_path / "whole")
    for name in ("train_loss", "validation_loss", "sample", "config"):
        results = [
            json.loads((tmp_path / run / "summary.json").read_text())[name]
            for run in ("whole", "killed")
        ]
        assert results[0] == results[1]
    saved = []
    for run in ("whole", "killed"):
        path = tmp_path / run / "checkpoints" / str(steps)
        metadata = ocp.checkpointables_metadata(path).custom_metadata
        saved.append((metadata["fingerprint"], metadata["position"], metadata["config"]))
    assert saved[0] == saved[1]


def _truncate(folder: Path) -> None:
    path = largest_file(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _remove_arrays(folder: Path) -> None:
    shutil.rmtree(folder / "state")


def _remove_metadata(folder: Path) -> None:
    (folder / "_CHECKPOINT_METADATA").unlink()


@reads_damaged
@pytest.mark.parametrize("damage", [flip_a_bit, _truncate, _remove_arrays, _remove_metadata])
def test_damaged_newest_checkpoint_is_reported_and_the_one_before_used(
    experiment: Experiment, corpus: Corpus, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    assert _train(experiment, corpus, whole, save_every=5, keep=3)[0] == 0
    shutil.copytree(whole, damaged)
    (damaged / "summary.json").unlink()
    damage(damaged / "checkpoints" / "12")
    code, output = _train(experiment, corpus, damaged, save_every=5, keep=3)
    assert code == 0
    assert "The checkpoint of step 12 in" in output
    assert "is not used: " in output
    assert "Going on in" in output
    assert "after step 10" in output
    assert (damaged / "damaged" / "12").is_dir()
    assert _metrics(damaged) == _metrics(whole)
    chex.assert_trees_all_equal(_state(damaged, experiment, 12), _state(whole, experiment, 12))


@reads_damaged
def test_checkpoints_that_are_all_damaged_are_an_error_that_loses_nothing(
    experiment: Experiment, corpus: Corpus, tmp_path: Path
) -> None:
    assert _train(experiment, corpus, tmp_path / "run", save_every=6)[0] == 0
    (tmp_path / "run" / "summary.json").unlink()
    for step in ("6", "12"):
        flip_a_bit(tmp_path / "run" / "checkpoints" / step)
    files = [tmp_path / "run" / name for name in ("metrics.jsonl", "config.json", "source.json")]
    before = [path.read_bytes() for path in files]
    setup = dataclasses.replace(experiment.setup, steps=14, schedule_steps=12)
    for each in (experiment, dataclasses.replace(experiment, setup=setup)):
        with pytest.raises(
            InputError, match=r"no checkpoint in .* can be used, of steps \[12, 6\].*--fresh"
        ):
            _train(each, corpus, tmp_path / "run", save_every=6)
        assert [path.read_bytes() for path in files] == before
    assert (tmp_path / "run" / "checkpoints" / "12").is_dir()


def test_only_the_runs_own_checkpoints_are_counted_and_removed(
    experiment: Experiment, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, folder = Recording.take, tmp_path / "run" / "checkpoints"

    def make_and_take(self: Recording, event: Step | Validated) -> None:
        take(self, event)
        if event.number == 5:
            for name in ("1", "2024"):
                (folder / name).mkdir(exist_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(Recording, "take", make_and_take)
        assert _train(experiment, corpus, tmp_path / "run", save_every=2, keep=1)[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["1", "12", "2024"]
    (folder / "2024").rmdir()
    setup = dataclasses.replace(experiment.setup, steps=16, schedule_steps=12)
    longer = dataclasses.replace(experiment, setup=setup)
    assert _train(longer, corpus, tmp_path / "run", save_every=2, keep=1)[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["1", "16"]


def test_full_disk_ends_the_run_and_leaves_the_older_checkpoints(
    experiment: Experiment, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Usage = namedtuple("Usage", "total used free")
    answers = iter([10**9, 0])
    with monkeypatch.context() as patch:
        patch.setattr(
            checkpoint_module.shutil, "disk_usage", lambda _: Usage(10**9, 0, next(answers))
        )
        code, output = _train(experiment, corpus, tmp_path / "run", save_every=5)
    assert code == NOT_SAVED == 3
    assert "cannot save step 10" in output
    assert "the disk is full" in output
    assert int(_state(tmp_path / "run", experiment, 5).step) == 5
    assert _train(experiment, corpus, tmp_path / "run", save_every=5)[0] == 0


_LIMITED = """
import resource, signal, sys
from examples.llama.train import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
sys.exit(main(sys.argv[1:]))
"""


def test_failed_write_of_orbax_ends_the_run_with_a_message(
    tiny_options: list[str], tmp_path: Path
) -> None:
    """Files that may not grow are the nearest to a full disk that needs no rights."""
    run_dir = ["--run-dir", str(tmp_path / "run"), "--steps", "4", "--save-every", "2"]
    process = subprocess.run(
        [sys.executable, "-c", _LIMITED, *tiny_options, *run_dir],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.returncode == NOT_SAVED, process.stdout + process.stderr
    assert "cannot save step 2" in process.stdout
    assert "Traceback" not in process.stdout  # what orbax's threads say on standard error is theirs
    assert not (tmp_path / "run" / "summary.json").exists()
    assert not any(path.name.isdigit() for path in (tmp_path / "run" / "checkpoints").iterdir())


def test_folder_of_a_run_killed_before_its_configuration_was_written_is_usable(
    experiment: Experiment, corpus: Corpus, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.json.x1.unfinished").write_text("{")
    assert _train(experiment, corpus, tmp_path / "run")[0] == 0
    assert not list((tmp_path / "run").glob(".*"))


def test_fingerprint_tells_any_bit_and_any_place(experiment: Experiment) -> None:
    state = initial_state(experiment)
    first = fingerprint(state)
    kernel = state.params["head"]["kernel"]
    swapped = kernel.at[:2].set(kernel[1::-1])
    for other in (kernel.at[3, 5].multiply(1 + 2**-23), -kernel, swapped):
        params = state.params | {"head": {"kernel": other}}
        assert (fingerprint(state._replace(params=params)) != first).sum() == 1


@reads_damaged
def test_checkpoint_carries_its_configuration(
    experiment: Experiment, corpus: Corpus, tmp_path: Path
) -> None:
    _train(experiment, corpus, tmp_path / "run", save_every=6)
    folder = tmp_path / "run" / "checkpoints"
    _, saved = load(folder, 6, initial_state(experiment))
    with pytest.raises(DamagedError):
        load(folder, 7, initial_state(experiment))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["config"] | {"run": saved["run"], "earlier_texts": []} == config


def test_saves_give_back_their_descriptors_and_threads(
    experiment: Experiment, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with a save at every step holds no more of them later than at its tenth save."""
    held: list[tuple[int, int]] = []
    save = Checkpoints.save

    def counting_save(checkpoints: Checkpoints, *arguments: Any) -> None:
        checkpoints._finish_save()  # nothing is under way then
        held.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
        save(checkpoints, *arguments)

    monkeypatch.setattr(Checkpoints, "save", counting_save)
    setup = dataclasses.replace(experiment.setup, steps=24, validate_every=24)
    longer = dataclasses.replace(experiment, setup=setup)
    assert _train(longer, corpus, tmp_path / "run", save_every=1)[0] == 0
    assert len(held) == 24
    for early, late in zip(held[10], held[-1], strict=True):
        assert late <= early + 3  # each save that is not ended keeps three descriptors, one thread
