"""The README's tables are those of the results files."""

from pathlib import Path

import pytest

from examples.overview import memory_table, table

README = (Path(__file__).parent.parent.parent / "README.md").read_text()


@pytest.mark.parametrize(("name", "made"), [("optimizers", table), ("memory", memory_table)])
def test_table_of_the_readme_is_made_from_the_results(name: str, made) -> None:
    _, start, rest = README.partition(f"<!-- {name} -->\n")
    found, end, _ = rest.partition(f"\n<!-- /{name} -->")
    assert start
    assert end
    assert found == made()
