"""Tables of figures for a terminal: where it is narrow names are broken, figures never are."""

import textwrap
from collections.abc import Sequence

from rich import box
from rich.table import Table


def figures_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    notes: Sequence[str] = (),
) -> Table:
    """Lay out names and their figures.

    Args:
        heads: of the names, and of each column of figures.
        rows: a name and its figures each.
        title: stands above.
        notes: stand below, a line each.
    """
    table = Table(
        title=title,
        title_justify="left",
        caption="\n".join(notes) or None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    table.add_column(heads[0], overflow="fold")
    for number, head in enumerate(heads[1:], start=1):
        words = max((len(word) for word in head.split()), default=0)
        figures = max((len(row[number]) for row in rows), default=0)
        broken = textwrap.fill(head, max(1, words, figures), break_on_hyphens=False)
        table.add_column(broken, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
