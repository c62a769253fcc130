"""A command line made from a frozen dataclass, and what every command does about bad input."""

import argparse
import contextlib
import dataclasses
import errno
import inspect
import io
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console

from examples.llama.config import CorpusConfig, Experiment, InputError, OptimizerConfig, Setup
from examples.llama.optimizers import OPTIMIZERS
from examples.llama.presets import PRESETS, Preset, defaults
from examples.llama.run.files import fault

Command = TypeVar("Command")

BAD_INPUT = 2
"""Exit code of a command that cannot be carried out as given."""

NOT_SAVED = 3
"""Exit code of a command that could not read or write a file, on a full disk for example."""


_TOO_LARGE = (
    "out of memory: a smaller model or batch needs less, and so does training with more "
    "--microbatches, with --remat or with --layerwise"
)


_NARROWEST = 10
"""Columns of a terminal; with less than five, tyro's help would never end."""


def chosen(arguments: Sequence[str]) -> tuple[Preset, OptimizerConfig]:
    """The preset and the optimizer that the arguments name, with the optimizer's defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset", choices=list(PRESETS), default="cpu")
    parser.add_argument("--optimizer", choices=list(OPTIMIZERS), default=OptimizerConfig().name)
    try:
        found, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        found = parser.parse_args([])  # the parser of the whole command line reports the error
    return PRESETS[found.preset], defaults(found.optimizer, found.preset)


def _with_defaults(arguments: Sequence[str], command_type: type[Command]) -> Command:
    preset, optimizer = chosen(arguments)
    parts: dict[Any, Any] = {
        Setup: preset.setup,
        Experiment: Experiment(optimizer, preset.setup),
        CorpusConfig: preset.corpus,
    }
    fields = dataclasses.fields(command_type)  # type: ignore[arg-type]
    return command_type(**{f.name: parts[f.type] for f in fields if f.type in parts})


def _description(command_type: type[Any]) -> str:
    """The docstring, wrapped by words: tyro leaves that to the terminal, which cuts them.

    tyro joins lines again, but not those that begin with a space.
    """
    width = shutil.get_terminal_size().columns - 1
    paragraphs = inspect.cleandoc(command_type.__doc__ or "").split("\n\n")
    return "\n\n".join(
        textwrap.fill(paragraph, width, subsequent_indent=" ") for paragraph in paragraphs
    )


class _Console(Console):
    """A console that leaves a closed pipe to `run_command`."""

    def on_broken_pipe(self) -> None:
        raise


def run_command(
    module: str,
    command_type: type[Command],
    run: Callable[[Command, Console], int],
    arguments: Sequence[str] | None,
) -> int:
    """Parse the arguments, by default the process's own, and run; return the exit code.

    `--preset` chooses the defaults of all other options, those of an optimizer together with
    `--optimizer`. An `InputError` ends the command with its message, and so do a file that cannot
    be read or written and a lack of memory.
    """
    if sys.stdout is None:  # closed by the caller
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path need not be valid text
    console = _Console(markup=False, emoji=False)
    arguments = sys.argv[1:] if arguments is None else arguments
    if shutil.get_terminal_size().columns < _NARROWEST:
        os.environ["COLUMNS"] = str(_NARROWEST)
    try:
        try:
            command = tyro.cli(
                command_type,
                args=arguments,
                default=_with_defaults(arguments, command_type),
                prog=f"python -m {module}",
                description=_description(command_type),
                config=(tyro.conf.OmitArgPrefixes,),
            )
        finally:
            sys.stdout.flush()  # what --help has printed
        code = run(command, console)
        sys.stdout.flush()
        return code
    except InputError as error:
        message, code = str(error), BAD_INPUT
    except BrokenPipeError:  # whoever read the output has seen enough
        _drop_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        message, code = fault(error), NOT_SAVED
    except (MemoryError, RuntimeError) as error:  # JAX's errors too
        first = (str(error).splitlines() or [""])[0]
        if os.strerror(errno.ENOSPC) in first:  # of a trace, for example
            message, code = first, NOT_SAVED
        elif isinstance(error, MemoryError) or first.startswith("RESOURCE_EXHAUSTED"):
            message, code = f"{_TOO_LARGE} ({first})", BAD_INPUT
        elif first.startswith("Unable to initialize backend"):  # that JAX_PLATFORMS names
            message, code = first, BAD_INPUT
        else:
            raise
    try:
        console.print(f"Error: {message}", style="red", highlight=False, soft_wrap=True)
        sys.stdout.flush()
    except OSError:  # the output may be what cannot be written
        _drop_output()
        with contextlib.suppress(OSError):
            print(f"Error: {message}", file=sys.stderr)
    return code


def _drop_output() -> None:
    """Let nothing more be written, at the end of the process for example."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
