"""A trace of a few steps."""

from collections.abc import Iterable
from pathlib import Path

import jax
import pytest

from examples.llama.run.profile import profile_steps
from examples.llama.train import main


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of JAX's profiler, which is not started."""
    made: list[str] = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: made.append(f"start {folder}"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: made.append("stop"))
    return made


def _train(steps: Iterable[int], folder: Path | None, calls: list[str]) -> None:
    with profile_steps(folder) as step:
        for number in steps:
            step(number)
            calls.append(str(number))


@pytest.mark.parametrize("first", [1, 57])
def test_ten_steps_are_traced_after_the_first_few(first: int, calls: list[str]) -> None:
    _train(range(first, first + 20), Path("trace"), calls)
    begin, end = calls.index("start trace"), calls.index("stop")
    traced = [int(number) for number in calls[begin + 1 : end]]
    assert traced == list(range(first + 3, first + 13))
    assert calls.count("stop") == calls.count("start trace") == 1


def test_run_shorter_than_the_trace_closes_it(calls: list[str]) -> None:
    _train(range(1, 8), Path("trace"), calls)
    assert calls[-1] == "stop"
    assert calls.count("start trace") == calls.count("stop") == 1


def test_run_that_fails_closes_the_trace(calls: list[str]) -> None:
    def steps() -> Iterable[int]:
        yield from range(1, 8)
        raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        _train(steps(), Path("trace"), calls)
    assert calls[-1] == "stop"


@pytest.mark.parametrize(("steps", "folder"), [(3, Path("trace")), (20, None)])
def test_nothing_is_traced_in_a_few_steps_or_without_a_folder(
    steps: int, folder: Path | None, calls: list[str]
) -> None:
    _train(range(1, steps + 1), folder, calls)
    assert calls == [str(number) for number in range(1, steps + 1)]


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
