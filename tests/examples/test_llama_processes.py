"""Training in two processes with four devices each, by the trainer's command."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from examples.llama.config import CorpusConfig, InputError
from examples.llama.run.command import NOT_SAVED
from examples.llama.run.files import read_lines
from examples.llama.run.processes import (
    LOST,
    Agreement,
    DistributedConfig,
    from_main_process,
    is_main_process,
    join_processes,
    meet,
)
from examples.llama.text.corpus import Corpus
from examples.llama.train import main

STEPS = 24


class _Pair:
    """Two processes that train in one folder."""

    def __init__(
        self,
        options: list[str],
        folder: Path,
        compiled: Path,
        others: Sequence[str] = (),
        program: Sequence[str] = ("-m", "examples.llama.train"),
    ):
        """Start them; `others` are further options of process 1."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        command = [sys.executable, *program, *options, "--run-dir", str(folder)]
        joint = ["--coordinator", address, "--processes", "2", "--process-id"]
        environment = os.environ | {
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4",
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
        }
        self._folder = folder
        self._outputs = [folder.with_name(f"{folder.name}-{number}.txt") for number in range(2)]
        self.processes = []
        for number, path in enumerate(self._outputs):
            with path.open("w") as output:
                self.processes.append(
                    subprocess.Popen(
                        [*command, *joint, str(number), *(others if number else [])],
                        env=environment,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )

    @property
    def step(self) -> int:
        """The last step in the metrics."""
        return max((line["step"] for line in read_lines(self._folder / "metrics.jsonl")), default=0)

    def output(self, number: int) -> str:
        """What a process has printed."""
        return self._outputs[number].read_text()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return as soon as something is so, while both train."""
        deadline = time.monotonic() + 300
        while not condition():
            for number, process in enumerate(self.processes):
                assert process.poll() is None, self.output(number)
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def end(self) -> list[int]:
        """The exit codes."""
        return [process.wait(timeout=300) for process in self.processes]

    def kill(self) -> None:
        """End both, if they are not."""
        for process in self.processes:
            process.kill()
        self.end()


@pytest.fixture
def options(corpus_config: CorpusConfig, corpus: Corpus) -> list[str]:
    """A tiny run; the text is in the cache by then."""
    return [
        *("--optimizer", "sinkgd", "--momentum", "0.9", "--num-iters", "2"),
        *("--hidden", "16", "--mlp", "24", "--heads", "2", "--layers", "2"),
        *("--sequence-length", "16", "--batch-size", "16", "--microbatches", "2"),
        *("--validation-rows", "12", "--validate-every", "4"),
        *("--steps", str(STEPS), "--save-every", "5"),
        *("--corpus-root", str(corpus_config.corpus_root), "--cache", str(corpus_config.cache)),
    ]


def _figures(folder: Path, name: str) -> np.ndarray:
    lines = [line for line in read_lines(folder / "metrics.jsonl") if name in line]
    every = 1 if name == "loss" else 4
    assert [line["step"] for line in lines] == list(range(every, STEPS + 1, every))
    return np.array([line[name] for line in lines])


@pytest.mark.slow
def test_pair_killed_and_stopped_on_changing_meshes_trains_as_one_device_does(
    options: list[str], tmp_path: Path
) -> None:
    alone, together, compiled = tmp_path / "alone", tmp_path / "together", tmp_path / "compiled"
    assert main([*options, "--run-dir", str(alone)]) == 0

    pair = _Pair([*options, "--mesh", "2", "2", "2"], together, compiled)
    try:
        pair.wait_until(lambda: (together / "checkpoints" / "5").is_dir() and pair.step >= 7)
    finally:
        pair.kill()
    assert pair.end() == [-signal.SIGKILL] * 2
    killed_after = pair.step
    assert killed_after < STEPS - 8

    on_another = [*options, "--mesh", "1", "4", "2"]
    pair = _Pair(on_another, together, compiled)
    try:
        pair.wait_until(lambda: pair.step >= killed_after + 2)
        pair.processes[1].send_signal(signal.SIGTERM)
        codes = pair.end()
    finally:
        pair.kill()
    assert codes[1] == 128 + signal.SIGTERM, pair.output(1)
    assert "Going on in" in pair.output(0)
    assert f"Stopped after step {pair.step}" in pair.output(0)
    assert killed_after + 2 <= pair.step < STEPS
    assert (together / "checkpoints" / str(pair.step)).is_dir()

    single = tmp_path / "single"
    shutil.copytree(together, single)
    assert main([*options, "--mesh", "1", "8", "1", "--run-dir", str(single)]) == 0
    pair = _Pair(on_another, together, compiled)
    try:
        assert pair.end() == [0, 0], pair.output(0) + pair.output(1)
    finally:
        pair.kill()
    for folder in (single, together):
        assert (folder / "summary.json").exists()
        for name in ("loss", "validation_loss"):
            # every loss is a mean over hundreds of tokens, whose roundings average out
            tolerance = 30 * np.finfo(np.float32).eps
            np.testing.assert_allclose(_figures(folder, name), _figures(alone, name), tolerance)


@pytest.mark.slow
def test_process_whose_other_is_killed_ends_with_a_line(options: list[str], tmp_path: Path) -> None:
    longer = [*options, "--steps", "100000", "--mesh", "8", "1", "1"]
    pair = _Pair(longer, tmp_path / "run", tmp_path / "compiled")
    try:
        pair.wait_until(lambda: pair.step >= 2)
        pair.processes[1].kill()
        code, _ = pair.end()
    finally:
        pair.kill()
    if code in (-signal.SIGABRT, 1):  # JAX's own watch noticed it before a collective failed
        assert "another task died" in pair.output(0)
        return
    assert code in (NOT_SAVED, LOST), pair.output(0)  # whichever it was doing
    assert "Stopped: " in pair.output(0)
    assert "Traceback" not in pair.output(0)


_FULL_DISK = """
import errno, sys
from examples.llama.run import recording
from examples.llama.train import main

take = recording.Recording.take

def fail(self, event):
    take(self, event)
    if event.number == 8 and recording.is_main_process():
        raise OSError(errno.ENOSPC, "No space left on device", "the metrics")

recording.Recording.take = fail
sys.exit(main())
"""


@pytest.mark.slow
def test_process_0_that_fails_after_a_save_ends_both(options: list[str], tmp_path: Path) -> None:
    pair = _Pair(
        [*options, "--mesh", "8", "1", "1"],
        tmp_path / "run",
        tmp_path / "compiled",
        program=("-c", _FULL_DISK),
    )
    try:
        assert pair.end() == [LOST, LOST]
        assert "Error: the metrics: No space left on device" in pair.output(0)
        assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["5"]
    finally:
        pair.kill()


def test_what_process_0_refuses_ends_both(options: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    pair = _Pair([*options, "--mesh", "8", "1", "1"], folder, tmp_path / "compiled")
    try:
        assert pair.end() == [2, 2], pair.output(0) + pair.output(1)
    finally:
        pair.kill()
    assert "thesis is not empty" in pair.output(0)


@pytest.mark.parametrize(
    ("others", "found"),
    [
        (["--learning-rate", "0.01"], "optimizer.learning_rate is 0.01, not "),
        (["--batch-size", "12"], "setup.data.batch_size is 12, not 16"),
        (["--run-dir", "elsewhere"], "run_dir is "),
    ],
)
def test_processes_with_other_options_end_both(
    others: list[str], found: str, options: list[str], tmp_path: Path
) -> None:
    command = [*options, "--mesh", "8", "1", "1"]
    pair = _Pair(command, tmp_path / "run", tmp_path / "compiled", others)
    try:
        assert pair.end() == [2, 2], pair.output(0) + pair.output(1)
    finally:
        pair.kill()
    assert "need the same options and the same text" in pair.output(0)
    assert found in pair.output(1)
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_package_that_process_0_needs_and_lacks_ends_both(
    options: list[str], tmp_path: Path
) -> None:
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    command = [*options, "--mesh", "8", "1", "1", "--track", "wandb"]
    pair = _Pair(command, tmp_path / "run", tmp_path / "compiled")
    try:
        assert pair.end() == [2, 2], pair.output(0) + pair.output(1)
    finally:
        pair.kill()
    assert "needs the package wandb" in pair.output(0)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def test_process_0_says_who_is_missing() -> None:
    port = _free_port()
    came = threading.Thread(target=_meet_quietly, args=(port, 2))
    came.start()
    with pytest.raises(InputError, match=r"2 of 4 .* within 2 seconds: --process-id 1, 3; start"):
        meet("localhost", port, 4, 0, 2)
    came.join()


def _meet_quietly(port: int, number: int) -> None:
    with contextlib.suppress(InputError):
        meet("localhost", port, 4, number, 2)


def test_others_say_that_process_0_is_missing() -> None:
    with pytest.raises(InputError, match=r"process 1 was not joined .* within 0\.5 seconds"):
        meet("localhost", _free_port(), 2, 1, 0.5)


def test_all_go_on_once_all_are_there_whoever_else_comes() -> None:
    port, done = _free_port(), []

    def one(number: int) -> None:
        meet("localhost", port, 3, number, 60)
        done.append(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in (1, 0)]
    for thread in threads:
        thread.start()
    for content in (b"GET / HTTP/1.1\n\n", b"0\n", b"7\n", b""):
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port)) as foreign:
            foreign.sendall(content)
    assert not done
    threads.append(threading.Thread(target=one, args=(2,)))
    threads[-1].start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == [0, 1, 2]


def test_command_whose_others_never_come_ends_with_a_line(options: list[str]) -> None:
    for number in (0, 1):
        joint = ["--coordinator", f"localhost:{_free_port()}", "--processes", "2"]
        joint += ["--process-id", str(number), "--join-timeout", "1"]
        process = subprocess.run(
            [sys.executable, "-m", "examples.llama.train", *options, *joint],
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert process.returncode == 2
        (line,) = process.stdout.splitlines()
        assert line.startswith("Error: ")
        assert "within 1 seconds" in line
        assert not process.stderr


def test_one_process_is_its_own_master() -> None:
    join_processes(DistributedConfig())
    assert is_main_process()
    assert from_main_process(lambda: [1]) == [1]
    answers = iter([False, True, True])
    agreement = Agreement(lambda: next(answers))
    assert [agreement.soon(), agreement.soon(), agreement.now()] == [False, True, True]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DistributedConfig(processes=2), "no meaning without --coordinator"),
        (DistributedConfig("localhost"), "not host:port"),
        (DistributedConfig("localhost:0", 2, 0), "not host:port"),
        (DistributedConfig("localhost:1"), "needs --processes"),
        (DistributedConfig("localhost:1", 2, 2), "from 0 to one less; they are 2 and 2"),
    ],
)
def test_incomplete_options_are_refused(config: DistributedConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        join_processes(config)
