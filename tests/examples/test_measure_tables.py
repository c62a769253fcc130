"""Tables of figures in a terminal of 80 columns, the narrowest there usually is."""

import io
from collections.abc import Sequence

import pytest
from examples.measure.largest import largest_table
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from examples.llama.config import PresetName
from examples.llama.optimizers import OPTIMIZERS
from examples.llama.presets import PRESETS
from examples.measure.bench import step
from examples.measure.compare import make_tables
from examples.measure.memory import memory_table, state_table
from examples.measure.tables import Table

_words = st.text(st.characters(categories=["Lu", "Ll", "Nd"]), min_size=1, max_size=9)


def _shown(table: Table) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
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
    text = _shown(Table(heads, [[name, *figures] for name in names], "A title"))
    for name in names:
        assert set(name.split()) <= set(text.split())
    for figure in figures:
        assert text.split().count(figure) >= len(names)
    for head in heads[1:]:
        assert set(head.split()) <= set(text.split())


def test_names_longer_than_the_terminal_keep_every_letter() -> None:
    table = Table(["", "rate"], [["n" * 200, "1.25"]], notes=["below", "at last"])
    text = _shown(table)
    assert text.count("n") == 200
    assert "1.25" in text
    assert [line.strip() for line in text.splitlines()[-2:]] == ["below", "at last"]


def test_page_has_a_row_per_line() -> None:
    table = Table(["a", "b"], [["c", "1"], ["d", "2"]], "not on the page")
    assert table.markdown() == "| a | b |\n| --- | --- |\n| c | 1 |\n| d | 2 |"


@pytest.mark.parametrize("preset", PRESETS)
def test_memory_of_every_optimizer(preset: PresetName) -> None:
    figures = {"preset": preset, "precision": "bfloat16", "parameters": 6738415616}
    figures |= {"matrix_parameters": 6476005376, "weight_bytes": 13476831232}
    figures |= {"state_bytes": 14538539008, "temporary_bytes": 79998765432}
    figures |= {"total_bytes": 108014135672, "fits_gib": None, "published_gib": 37.65}
    figures |= {"weights_and_float32_state_gib": 39.63, "layers": 128, "card_gib": 24}
    figures |= {"state_per_weight": 2.16, "matrix_state_per_weight": 2.16}
    rows = [{**figures, "title": f"{one.title}, layer-wise"} for one in OPTIMIZERS.values()]
    text = _shown(memory_table(rows))
    assert text.count("13.540 ") == text.count("26.091 ") == text.count("74.505 ") == len(rows)
    assert _shown(state_table(rows)).count("2.16 / 2.16") == len(rows)
    found = [row | {"card_gib": card} for row in rows for card in (24, 80)]
    assert _shown(largest_table(found)).count("6.74 B (128)") == 2 * len(rows)


def test_comparison_of_every_optimizer() -> None:
    figures = {"diverged": False, "learning_rate": 5.7e-3, "rest_learning_rate": 1.4e-3}
    figures |= {"validation_loss": 1.5014, "bits_per_byte": 2.1661, "speed_ratio": 0.99}
    figures |= {"tokens_to_reach_reference": 123.45e6, "tokens": 1e9, "tokens_per_second": 123456}
    figures |= {"state_bytes": 2**34, "state_bytes_matrices": 2**33}
    rows = [{"optimizer": name, **figures} for name in OPTIMIZERS]
    learning, cost = (_shown(table) for table in make_tables(rows))
    assert learning.count("0.0057 / 0.0014") == learning.count("123.45 M (12%)") == len(rows)
    assert cost.count("16384.00 MiB") == cost.count("123,456 (0.99)") == len(rows)


def test_ratios_to_all_targets() -> None:
    times = {"seconds_by_round": [12.34, 12.34]}
    competitors = {name: {"title": title, **times} for name, title in step.TITLES.items()}
    presets = ("60m", "130m", "350m", "1b", "7b")
    groups = [{"preset": preset, "competitors": competitors} for preset in presets]
    comparisons = step.compare(groups)
    compared = {(one["over"], one["under"]) for one in comparisons}
    assert compared >= step.STEP_TARGETS.keys()
    text = _shown(step.make_table({"groups": groups, "comparisons": comparisons}))
    assert sum(line.count(" 1 ") >= 5 for line in text.splitlines()) == len(comparisons)
