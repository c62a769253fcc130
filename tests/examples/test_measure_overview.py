"""The tables of the READMEs are those of the results files."""

from pathlib import Path

import pytest

from examples.measure.overview import PAGES, TABLES, with_tables


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_tables_of_the_page_are_made_from_the_results(page: Path) -> None:
    assert page.read_text() == with_tables(page.read_text())


def test_every_table_stands_on_a_page() -> None:
    text = "".join(page.read_text() for page in PAGES)
    for name in TABLES:
        assert f"<!-- {name} -->\n| " in text


def test_altered_figure_is_replaced() -> None:
    made = TABLES["memory"]().markdown()
    page = f"a\n\n<!-- memory -->\n{made.replace('7.48', '7.49')}\n<!-- /memory -->\nb"
    assert with_tables(page) == page.replace("7.49", "7.48") != page
