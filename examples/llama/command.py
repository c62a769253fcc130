"""A command line made from a frozen dataclass, and what every command does about bad input."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro
from rich.console import Console

from examples.llama.config import InputError

Command = TypeVar("Command")

BAD_INPUT = 2
"""Exit code of a command that cannot be carried out as given."""


def run_command(
    module: str,
    command_type: type[Command],
    run: Callable[[Command, Console], int],
    arguments: Sequence[str] | None,
) -> int:
    """Parse the arguments, by default the process's own, and run; return the exit code.

    An `InputError` ends the command with its message.
    """
    console = Console()
    command = tyro.cli(
        command_type,
        args=arguments,
        prog=f"python -m {module}",
        config=(tyro.conf.OmitArgPrefixes,),
    )
    try:
        return run(command, console)
    except InputError as error:
        console.print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT
