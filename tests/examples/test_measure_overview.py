"""The tables of the READMEs are those of the results files."""

from pathlib import Path

import pytest

from examples.measure.overview import PAGES, TABLES, with_tables
from examples.measure.results import RECORDED
from examples.measure.study.plan import CPU_CELLS, SPACES
from examples.measure.study.runs import RunsFile
from examples.measure.study.search import search


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_tables_of_the_page_are_made_from_the_results(page: Path) -> None:
    assert page.read_text() == with_tables(page.read_text())


def test_every_table_stands_on_a_page() -> None:
    text = "".join(page.read_text() for page in PAGES)
    for name in TABLES:
        assert f"<!-- {name} -->\n| " in text


@pytest.mark.parametrize("cell", CPU_CELLS)
def test_no_reported_rate_is_the_lowest_or_highest_that_was_tried(cell: str) -> None:
    found = [search(cell, name, RunsFile(RECORDED / "study.jsonl").runs()) for name in SPACES]
    reported = [one for one in found if one.winner]
    assert len(reported) > 7
    for one in reported:
        tried = zip(*(run.trial.rates.each for run in one.tries), strict=True)
        for rate, others in zip(one.winner[0].trial.rates.each, tried, strict=True):
            assert min(others) < rate < max(others), one.optimizer


def test_altered_figure_is_replaced() -> None:
    made = TABLES["memory"]().markdown()
    page = f"a\n\n<!-- memory -->\n{made.replace('7.48', '7.49')}\n<!-- /memory -->\nb"
    assert with_tables(page) == page.replace("7.49", "7.48") != page
