"""Tables of figures in a terminal of 80 columns, the narrowest there usually is."""

import io
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from examples.llama.config import PresetName
from examples.llama.costs.candidates import FOR_MEMORY, choose
from examples.llama.costs.footprint import Compiled, Kept
from examples.llama.costs.largest import Largest
from examples.llama.costs.largest import make_table as table_of_largest
from examples.llama.costs.table import Row, make_table, state_table
from examples.llama.figures import figures_table
from examples.llama.presets import PRESETS

_words = st.text(st.characters(categories=["Lu", "Ll", "Nd"]), min_size=1, max_size=9)


def _shown(table: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    return text


@given(
    heads=st.lists(st.lists(_words, max_size=4).map(" ".join), min_size=5, max_size=5),
    names=st.lists(st.lists(_words, min_size=1, max_size=8).map(" ".join), max_size=4),
    figures=st.lists(_words, min_size=4, max_size=4),
)
def test_figures_are_whole_and_names_are_broken(
    heads: Sequence[str], names: Sequence[str], figures: Sequence[str]
) -> None:
    text = _shown(figures_table(heads, [[name, *figures] for name in names], title="A title"))
    for name in names:
        assert set(name.split()) <= set(text.split())
    for figure in figures:
        assert text.split().count(figure) >= len(names)
    for head in heads[1:]:
        assert set(head.split()) <= set(text.split())


def test_names_longer_than_the_terminal_keep_every_letter() -> None:
    table = figures_table(["", "rate"], [["n" * 200, "1.25"]], notes=["below", "at last"])
    text = _shown(table)
    assert text.count("n") == 200
    assert "1.25" in text
    assert [line.strip() for line in text.splitlines()[-2:]] == ["below", "at last"]


@pytest.mark.parametrize("preset", PRESETS)
def test_memory_of_every_optimizer(preset: PresetName) -> None:
    kept = Kept(6738415616, 6476005376, 13476831232, 14538539008, 14538539008)
    step = Compiled(79998765432, 1, 1, 1, 1.0)
    rows = [
        Row(preset, name, one.title, "bfloat16", kept, step, 2 * kept.state_bytes)
        for name, one in choose(tuple(FOR_MEMORY), preset, FOR_MEMORY).items()
    ]
    text = _shown(make_table(rows))
    assert text.count("13.540 ") == text.count("26.091 ") == text.count("74.505 ") == len(rows)
    shown = _shown(state_table("Bytes", rows, lambda kept: kept.state_per_weight))
    assert shown.count("2.16") == len(rows)
    found = [
        Largest(preset, row.optimizer, row.title, card, 128, 25_000_000_000, 1)
        for row in rows
        for card in (24, 80)
    ]
    assert _shown(table_of_largest(found)).count("25.00 B (128)") == 2 * len(rows)
