"""A command line made from a frozen dataclass, and what every command does about bad input."""

import argparse
import contextlib
import dataclasses
import io
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro
from rich.console import Console

from examples.llama.config import CorpusConfig, Experiment, InputError, Setup
from examples.llama.presets import PRESETS, Preset

Command = TypeVar("Command")

BAD_INPUT = 2
"""Exit code of a command that cannot be carried out as given."""


def chosen_preset(arguments: Sequence[str]) -> Preset:
    """The preset that the arguments name; that of the CPU if none or one that does not exist."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", choices=list(PRESETS), default="cpu")
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return PRESETS[parser.parse_known_args(arguments)[0].preset]
    except SystemExit:
        return PRESETS["cpu"]  # the whole command line's parser will say what is wrong


def _with_defaults_of(preset: Preset, command_type: type[Command]) -> Command:
    """A command whose model, data, schedule and text are the preset's."""
    parts: dict[Any, Any] = {
        Setup: preset.setup,
        Experiment: Experiment(setup=preset.setup),
        CorpusConfig: preset.corpus,
    }
    fields = dataclasses.fields(command_type)  # type: ignore[arg-type]
    return command_type(**{f.name: parts[f.type] for f in fields if f.type in parts})


def run_command(
    module: str,
    command_type: type[Command],
    run: Callable[[Command, Console], int],
    arguments: Sequence[str] | None,
) -> int:
    """Parse the arguments, by default the process's own, and run; return the exit code.

    `--preset` chooses the defaults of all other options. An `InputError` ends the command with its
    message.
    """
    console = Console()
    arguments = sys.argv[1:] if arguments is None else arguments
    command = tyro.cli(
        command_type,
        args=arguments,
        default=_with_defaults_of(chosen_preset(arguments), command_type),
        prog=f"python -m {module}",
        config=(tyro.conf.OmitArgPrefixes,),
    )
    try:
        return run(command, console)
    except InputError as error:
        console.print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT
