"""What a package index shows of the project."""

import importlib.util
import tomllib
from pathlib import Path

import pytest

import multinorm_optax as mo

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def metadata():
    spec = importlib.util.spec_from_file_location("hatch_metadata", ROOT / "hatch_metadata.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TEXT = "![A map](docs/idea.png) and [docs](docs/index.md#here), [a site](https://a.b/c), [up](#top)"


def test_links_are_absolute_once_there_is_an_address(metadata):
    assert metadata.absolute(TEXT, "https://example.org/o/n") == (
        "![A map](https://example.org/o/n/raw/main/docs/idea.png) and"
        " [docs](https://example.org/o/n/blob/main/docs/index.md#here), [a site](https://a.b/c),"
        " [up](#top)"
    )


def test_without_an_address_their_words_are_left(metadata):
    assert metadata.absolute(TEXT, "") == "*A map* and docs, [a site](https://a.b/c), [up](#top)"


def test_the_hook_fills_in_readme_and_links(metadata):
    hook = metadata.CustomMetadataHook(str(ROOT), {"repository": "https://example.org/o/n/"})
    found = {}
    hook.update(found)
    assert found["urls"]["Issues"] == "https://example.org/o/n/issues"
    assert "](docs/" not in found["readme"]["text"]


def test_one_version():
    assert f"\nversion: {mo.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {mo.__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_the_wheel_is_the_library_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["multinorm_optax"]
