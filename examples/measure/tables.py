"""Tables of figures, for a terminal and for a page."""

import textwrap
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich import box
from rich import table as rich
from rich.console import Group
from rich.text import Text

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Table:
    """Names and their figures, as text."""

    heads: Sequence[str]
    """Of the names, and of each column of figures."""
    rows: Sequence[Sequence[str]]
    """A name and its figures each."""
    title: str | None = None
    """Stands above it."""
    notes: Sequence[str] = ()
    """Stand below it, a line each."""

    def __rich__(self) -> Group:
        """For a terminal: where it is narrow, names are broken, figures never are."""
        table = rich.Table(
            box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False
        )
        table.add_column(self.heads[0], overflow="fold")
        for number, head in enumerate(self.heads[1:], start=1):
            words = max((len(word) for word in head.split()), default=0)
            figures = max((len(row[number]) for row in self.rows), default=0)
            broken = textwrap.fill(head, max(1, words, figures), break_on_hyphens=False)
            table.add_column(broken, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        above = [Text(self.title, "italic")] if self.title else []
        return Group(*above, table, *map(Text, self.notes))

    def markdown(self) -> str:
        """For a page; without title and notes."""
        lines = [self.heads, ["---"] * len(self.heads), *self.rows]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def short(value: float) -> str:
    """Three digits, without an exponent below a million."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def yes(reached: bool | None) -> str:
    """Whether a target is reached; nothing without one."""
    return {True: "yes", False: "no", None: ""}[reached]


def unique(names: Iterable[Name]) -> list[Name]:
    """Each name once, in the order of the first ones."""
    return list(dict.fromkeys(names))
