"""A trace of a few steps."""

from pathlib import Path
from typing import Any

import jax
import pytest

from examples.llama.run.recording import Recording, Step, Validated
from examples.llama.train import main


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of JAX's profiler, which is not started."""
    made: list[str] = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: made.append(f"start {folder}"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: made.append("stop"))
    return made


@pytest.mark.parametrize(("steps", "stopped"), [(20, 13), (7, 7), (3, None)])
def test_ten_steps_are_traced_after_the_first_few(
    steps: int,
    stopped: int | None,
    calls: list[str],
    tiny_options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take = Recording.take

    def number_and_take(self: Any, event: Step | Validated) -> None:
        take(self, event)
        if isinstance(event, Step):
            calls.append(str(event.number))

    monkeypatch.setattr(Recording, "take", number_and_take)
    command = ["--optimizer", "sgd", "--run-dir", str(tmp_path / "run"), "--steps", str(steps)]
    assert main([*command, *tiny_options, "--profile"]) == 0
    expected = [str(number) for number in range(1, steps + 1)]
    if stopped is not None:
        expected.insert(stopped, "stop")
        expected.insert(3, f"start {tmp_path / 'run' / 'profile'}")
    assert calls == expected


def test_command_line_writes_a_trace_into_the_runs_folder(
    tiny_options: list[str], tmp_path: Path
) -> None:
    def train(name: str, *options: str) -> list[Path]:
        folder = tmp_path / name
        command = ["--optimizer", "sgd", "--run-dir", str(folder), "--steps", "8"]
        assert main([*command, *tiny_options, *options]) == 0
        return list(folder.rglob("*.xplane.pb"))

    assert train("plain") == []
    # with eight steps the training ends before the trace is complete, which closes it: else the
    # second one could not be started
    for name in ("first", "second"):
        (trace,) = train(name, "--profile")
        assert trace.is_relative_to(tmp_path / name / "profile")
        assert trace.stat().st_size > 0
