"""Tables of figures in a terminal of 80 columns, the narrowest there usually is."""

import io
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from examples.llama.optimizers import OPTIMIZERS
from examples.measure import bench
from examples.measure.compare import make_tables
from examples.measure.memory import largest_table, memory_table
from examples.measure.tables import Table, pivot
from examples.measure.updates import TITLES

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
    text = _shown(Table(["", "rate"], [["n" * 200, "1.25"]]))
    assert text.count("n") == 200
    assert "1.25" in text


def test_page_has_a_row_per_line() -> None:
    table = Table(["a", "b"], [["c", "1"], ["d", "2"]], "not on the page")
    assert table.markdown() == "| a | b |\n| --- | --- |\n| c | 1 |\n| d | 2 |"


def test_pivot_leaves_out_what_is_missing() -> None:
    cells = [("a", 1, "x"), ("b", 2, "y"), ("a", 2, "z")]
    table = pivot("", cells, lambda c: c[0], lambda c: c[1], lambda c: c[2])
    assert (table.heads, table.rows) == (["", "1", "2"], [["a", "x", "z"], ["b", "", "y"]])


def test_memory_of_every_optimizer() -> None:
    figures = {"precision": "bfloat16", "parameters": 6738415616}
    figures |= {"matrix_parameters": 6476005376, "weight_bytes": 13476831232}
    figures |= {"state_bytes": 14538539008, "temporary_bytes": 79998765432}
    figures |= {"total_bytes": 108014135672, "published_gib": 37.65, "layers": 128}
    figures |= {"weights_and_float32_state_gib": 39.63}
    figures |= {"state_per_weight": 2.16, "matrix_state_per_weight": 2.16, "preset": "7b"}
    rows = [{**figures, "title": f"{one.title}, layer-wise"} for one in OPTIMIZERS.values()]
    text = _shown(memory_table(rows))
    assert text.count(" 2.16  ") == 2 * len(rows)
    assert text.count("13.540 ") == text.count("26.091 ") == text.count("74.505 ") == len(rows)
    found = [row | {"card_gib": card} for row in rows for card in (24, 80)]
    assert _shown(largest_table(found)).count("6.74 B (128)") == 2 * len(rows)


def test_comparison_of_every_optimizer() -> None:
    summary = {"validation_loss": 1.5, "bits_per_byte": 2.1661, "tokens": 1e9}
    summary |= {"tokens_per_second": 123456, "state_bytes": 2**34, "state_bytes_matrices": 2**33}
    run = {"rates": "0.0057 / 0.0014", "curve": [(1e6, 9.0), (123.45e6, 1.5)], "summary": summary}
    runs = {name: run | {"title": one.title} for name, one in OPTIMIZERS.items()}
    learning, cost = (_shown(table) for table in make_tables(runs))
    assert learning.count("0.0057 / 0.0014") == learning.count("123.45 M (12%)") == len(runs)
    assert cost.count("16384.00 MiB") == cost.count("123,456 (1.00)") == len(runs)


def test_ratios_to_all_targets() -> None:
    times = {"seconds_by_round": [12.34, 12.34]}
    competitors = {name: {"title": title, **times} for name, title in TITLES.items()}
    presets = ("60m", "130m", "350m", "1b", "7b")
    groups = [{"name": preset, "competitors": competitors} for preset in presets]
    compared = bench.compare(groups)
    assert compared.keys() >= bench.TARGETS.keys()
    text = _shown(bench.ratio_table(groups))
    assert sum(line.count(" 1 ") >= 5 for line in text.splitlines()) == len(compared)
