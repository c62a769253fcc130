"""Tables of figures, for a terminal and for a page."""

import textwrap
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rich import box
from rich import table as rich
from rich.console import Group
from rich.text import Text

Name = TypeVar("Name", bound=Hashable)
Row = TypeVar("Row")


@dataclass(frozen=True)
class Table:
    """Names and their figures, as text."""

    heads: Sequence[str]
    """Of the names, and of each column of figures."""
    rows: Sequence[Sequence[str]]
    """A name and its figures each."""
    title: str = ""
    """Stands above it."""

    def __rich__(self) -> Group:
        """For a terminal: where it is narrow, names are broken, figures only between words."""
        table = rich.Table(
            box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False
        )
        table.add_column(self.heads[0], overflow="fold")
        for head, *figures in list(zip(self.heads, *self.rows, strict=True))[1:]:
            width = max(1, *map(len, [*head.split(), *figures, ""]))
            broken = textwrap.fill(head, width, break_on_hyphens=False)
            words = any(" " in each for each in figures)
            table.add_column(broken, justify="right", no_wrap=not words)
        for row in self.rows:
            table.add_row(*row)
        return Group(*[Text(self.title, "italic")][: bool(self.title)], table)

    def markdown(self, figures: str = "---") -> str:
        """For a page, without the title; `figures` is how Markdown aligns those."""
        lines = [self.heads, ["---", *[figures] * len(self.heads[1:])], *self.rows]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def table(
    rows: Iterable[Row], columns: Mapping[str, Callable[[Row], str]], title: str = ""
) -> Table:
    """A line for each row; the columns' functions write its cells."""
    return Table(list(columns), [[write(row) for write in columns.values()] for row in rows], title)


def pivot(
    head: str,
    rows: Sequence[Row],
    line: Callable[[Row], str],
    column: Callable[[Row], Any],
    cell: Callable[[Row], str],
    title: str = "",
) -> Table:
    """A line and a column for each value of two functions; a row is a cell, and may be missing."""
    cells = {(line(row), column(row)): cell(row) for row in rows}
    columns = unique(map(column, rows))
    lines = [
        [name, *(cells.get((name, each), "") for each in columns)]
        for name in unique(map(line, rows))
    ]
    return Table([head, *map(str, columns)], lines, title)


def unique(names: Iterable[Name]) -> list[Name]:
    """Each name once, in the order of the first ones."""
    return list(dict.fromkeys(names))
