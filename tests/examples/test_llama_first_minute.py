"""What a run shows before and while it trains, and how it ends when it is told to."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from examples.llama.config import Experiment, OptimizerConfig, RunConfig, Setup
from examples.llama.run import recording
from examples.llama.run.command import NOT_SAVED
from examples.llama.run.flops import flops_per_token
from examples.llama.run.folder import RunFolder
from examples.llama.text.corpus import Corpus
from examples.llama.train import main, resolved, train

COMMAND = [sys.executable, "-m", "examples.llama.train", "--optimizer", "sgd"]


@pytest.mark.parametrize("terminal", [False, True])
def test_header_and_compilation_come_first(
    terminal: bool, corpus: Corpus, tiny_setup: Setup, tmp_path: Path
) -> None:
    console = Console(file=io.StringIO(), width=300, force_terminal=terminal, color_system=None)
    experiment = resolved(Experiment(OptimizerConfig("sgd"), tiny_setup))
    assert train(experiment, corpus, RunFolder(tmp_path / "run"), RunConfig(), console) == 0
    output = console.file.getvalue()  # type: ignore[attr-defined]
    expected = (
        "sgd trains a LLaMA of 12,624 parameters: 2 layers, width 16, 2 heads, 256 tokens, "
        r"float32\n12 steps of 4 x 16 tokens on 1 of \d devices \(cpu\); run folder \S+/run\n"
        r"Compiling the train step \.\.\.\nCompiled in \d+\.\d s\n"
    )
    assert re.search(expected, output)
    assert output.index("Compiled in") < output.index("validation loss")
    assert not re.search(r"\d MB", output)


@pytest.mark.parametrize(("used", "shown"), [(0.4, "  40.0% of the peak FLOP/s"), (None, "")])
def test_line_of_a_step_has_loss_speed_and_utilization(
    used: float | None, shown: str, tiny_setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    flops = flops_per_token(tiny_setup.model, 16) * 4 * 16 / 0.5
    peak = None if used is None else flops / (8 * used)
    monkeypatch.setattr(recording, "peak_flops", lambda kind: peak)
    text = recording.figures(tiny_setup, 8, recording.Step(1, 2.5, 0.5))
    assert text == f"loss 2.5000  128 tokens/s{shown}"


LISTENING = [
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.argv[1], sys.argv[1:])",
]
"""Runs a command that takes Ctrl-C, which background jobs of a shell, as tests may be, ignore."""


@pytest.mark.slow
def test_lines_come_through_a_pipe_as_they_happen(tiny_options: list[str], tmp_path: Path) -> None:
    command = [*COMMAND, *tiny_options, "--run-dir", str(tmp_path / "run")]
    process = subprocess.Popen(
        [*command, "--steps", "1000000", "--log-every", "1"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:  # ends only with the process if they were held back
            if line.startswith("step 3/"):
                break
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=100)
    assert "SIGINT: stopping after this step" in rest
    assert process.returncode == 128 + signal.SIGINT


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["imports", "Compiling", "step 2/"])
def test_ctrl_c_is_quiet(moment: str, tiny_options: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*LISTENING, *COMMAND, *tiny_options, "--steps", "100000", "--log-every", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output = ""
    assert process.stdout is not None
    if moment == "imports":
        while "numpy" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.01)
    else:
        while moment not in output:
            output += process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=100)
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    for noise in ("Traceback", "KeyboardInterrupt", "Exception ignored"):
        assert noise not in output + rest


def test_reader_that_has_seen_enough_is_no_fault(tiny_options: list[str], tmp_path: Path) -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for options in (["--help"], [*tiny_options, "--steps", "20", "--run-dir", str(tmp_path / "r")]):
        process = subprocess.Popen(
            [*COMMAND, *options],
            env=buffered,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        process.stderr.close()
        # help may have been written before the pipe was closed
        assert process.wait(100) in {128 + signal.SIGPIPE, *([0] if options == ["--help"] else [])}


def test_output_that_cannot_be_written_is_an_error_of_one_line(
    tiny_options: list[str], tmp_path: Path
) -> None:
    command = [*COMMAND, *tiny_options, "--steps", "4", "--run-dir", str(tmp_path / "run")]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            command, check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100
        )
    assert ended.returncode == NOT_SAVED
    assert ended.stderr == "Error: [Errno 28] No space left on device\n"


def test_help_is_wrapped_by_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["--help"])
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    assert "and shows the\n result of a finished one" in page


def test_folder_that_looks_like_markup_is_named_as_it_is(
    tiny_options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--optimizer", "sgd", "--steps", "2", "--run-dir"]
    assert main([*tiny_options, *options, "b :smile:"]) == 0
    assert "see b :smile:" in capsys.readouterr().out
    assert main([*tiny_options, *options, "b :smile:", "--seed", "1"]) == 2
    assert "b :smile: holds a run" in capsys.readouterr().out
    assert main([*tiny_options, *options, "a[/]b"]) == 2
    assert "a[/]b has [ in its path" in capsys.readouterr().out


def test_output_may_be_closed(tiny_options: list[str], tmp_path: Path) -> None:
    command = [*COMMAND, *tiny_options, "--steps", "4", "--run-dir", str(tmp_path / "run")]
    ended = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], check=False, timeout=100)
    assert ended.returncode == 0
    assert (tmp_path / "run" / "summary.json").exists()
