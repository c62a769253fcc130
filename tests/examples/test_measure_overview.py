"""The tables of the READMEs are those of the results files."""

from pathlib import Path

import pytest

from examples.llama.run.command import BAD_INPUT
from examples.llama.run.files import read_json
from examples.measure import overview
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


def test_damaged_results_change_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, content = tmp_path / "README.md", "<!-- throughput -->\n\n<!-- /throughput -->\n"
    page.write_text(content)
    monkeypatch.setattr(overview, "PAGES", (page,))
    assert overview.main([]) == 0
    assert page.read_text() == with_tables(content) != content
    damaged = tmp_path / "throughput.json"
    damaged.write_bytes((RECORDED / damaged.name).read_bytes()[:500])
    monkeypatch.setattr(overview, "recorded", lambda name: read_json(tmp_path / name))
    page.write_text(content)
    assert overview.main([]) == BAD_INPUT
    assert f"{damaged} is not JSON" in capsys.readouterr().out
    assert page.read_text() == content


def test_altered_figure_is_replaced() -> None:
    made = TABLES["memory"]().markdown()
    page = f"a\n\n<!-- memory -->\n{made.replace('7.48', '7.49')}\n<!-- /memory -->\nb"
    assert with_tables(page) == page.replace("7.49", "7.48") != page
