"""What all command lines have in common."""

import importlib
from dataclasses import dataclass
from typing import Any

import jax
import pytest

from examples.llama.config import InputError
from examples.llama.run.command import BAD_INPUT, NOT_SAVED, run_command


@dataclass(frozen=True)
class Command:
    """A command of these tests."""

    number: int = 1
    """Any number but 13."""

    def __post_init__(self) -> None:
        """Refuse 13."""
        if self.number == 13:
            raise InputError("13 is no number; choose --number 12")


def _run(*arguments: str, action: Any = lambda command: 0) -> int:
    return run_command("a.command", Command, lambda command, _: action(command), arguments)


def test_exit_code_is_that_of_the_command() -> None:
    assert _run("--number", "7", action=lambda command: command.number) == 7


def test_arguments_are_those_of_the_process_if_none_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["a.command", "--number", "5"])
    assert run_command("a.command", Command, lambda command, _: command.number, None) == 5


def test_input_error_ends_the_command_with_its_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(command: Command) -> int:
        # what looks like markup has to come out as it is, and nothing is wrapped
        raise InputError("no file [bold]/a[/bold]; " + "choose another one. " * 20)

    assert _run(action=refuse) == BAD_INPUT == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Error: no file [bold]/a[/bold]; choose another one. ")


def test_other_errors_are_not_hidden() -> None:
    def fail(command: Command) -> int:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        _run(action=fail)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError("Unable to allocate 1.0 TiB"), "Unable to allocate 1.0 TiB"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\n-"),
            "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.",
        ),
    ],
)
def test_lack_of_memory_ends_the_command_with_advice(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(command: Command) -> int:
        raise error

    assert _run(action=fail) == BAD_INPUT
    (found,) = capsys.readouterr().out.splitlines()
    assert found.startswith("Error: out of memory: ")
    assert "--microbatches" in found
    assert found.endswith(f"({line})")


def test_full_disk_is_no_lack_of_memory(capsys: pytest.CaptureFixture[str]) -> None:
    line = "RESOURCE_EXHAUSTED: profile/vm.xplane.pb; No space left on device"

    def fail(command: Command) -> int:
        raise jax.errors.JaxRuntimeError(line)

    assert _run(action=fail) == NOT_SAVED
    assert capsys.readouterr().out == f"Error: {line}\n"


def test_platform_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(command: Command) -> int:
        raise RuntimeError("Unable to initialize backend 'cuda': it has no devices\nmore")

    assert _run(action=fail) == BAD_INPUT
    output = capsys.readouterr().out
    assert output == "Error: Unable to initialize backend 'cuda': it has no devices\n"


def test_other_errors_of_jax_are_not_hidden() -> None:
    def fail(command: Command) -> int:
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        _run(action=fail)


def test_configuration_that_refuses_itself_is_a_readable_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        _run("--number", "13")
    assert end.value.code == 2
    assert "13 is no number; choose --number 12" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hidden", "30"], "hidden width 30 cannot be split into 4 heads"),
        (["--batch-size", "6", "--microbatches", "4"], "a batch of 6 rows cannot be divided"),
    ],
)
def test_options_that_contradict_each_other_are_readable_errors(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train = importlib.import_module("examples.llama.train")
    with pytest.raises(SystemExit) as end:
        train.main(arguments)
    assert end.value.code == 2
    written = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in written
    assert "Traceback" not in written


@pytest.mark.parametrize(
    ("module_name", "options"),
    [
        ("llama.train", ["--steps", "--corpus-root", "--batch-size", "--run-dir"]),
        ("measure.compare", ["--steps", "--corpus-root", "--batch-size", "--optimizers"]),
        ("measure.study.__main__", ["--cells", "--optimizers", "--results", "--tokens", "--show"]),
    ],
)
def test_help_is_a_page(
    module_name: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"examples.{module_name}")
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    assert end.value.code == 0
    page = capsys.readouterr().out
    command = module_name.removesuffix(".__main__")
    assert f"python -m examples.{command}" in page
    for option in options:
        assert option in page


@pytest.mark.parametrize("columns", ["1", "4"])
def test_help_ends_in_a_terminal_of_few_columns(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as end:
        importlib.import_module("examples.llama.generate").main(["--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out
