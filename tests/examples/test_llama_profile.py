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
    capsys: pytest.CaptureFixture[str],
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
    assert ("there will be no trace" in capsys.readouterr().out) == (stopped is None)


def test_resumed_run_is_traced_from_where_it_goes_on(
    calls: list[str], tiny_options: list[str], tmp_path: Path
) -> None:
    run = ["--optimizer", "sgd", "--run-dir", str(tmp_path / "run"), "--schedule-steps", "30"]
    assert main([*run, *tiny_options, "--steps", "12"]) == 0
    take, numbers = Recording.take, []

    def number_and_take(self: Any, event: Step | Validated) -> None:
        before = len(calls)
        take(self, event)
        if len(calls) > before:
            numbers.append(event.number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recording, "take", number_and_take)
        assert main([*run, *tiny_options, "--steps", "30", "--profile"]) == 0
    assert calls == [f"start {tmp_path / 'run' / 'profile'}", "stop"]
    assert numbers == [16, 26]


def test_run_that_fails_closes_the_trace(
    calls: list[str], tiny_options: list[str], tmp_path: Path
) -> None:
    command = ["--optimizer", "sgd", "--run-dir", str(tmp_path / "run"), "--steps", "20"]
    take = Recording.take

    def fail(self: Any, event: Step | Validated) -> None:
        take(self, event)
        if event.number == 7:
            raise RuntimeError("a fault")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recording, "take", fail)
        with pytest.raises(RuntimeError, match="a fault"):
            main([*command, *tiny_options, "--profile"])
    assert calls[-1] == "stop"
    assert len(calls) == 2


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
