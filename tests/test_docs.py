"""The documentation: its examples run, it has every symbol and every error, and it builds."""

import ast
import doctest
import functools
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import multinorm_optax as mo
from tests.site import DOCS, build

PACKAGE = Path(mo.__file__).parent
PAGES = [DOCS / "index.md", DOCS / "quickstart.md", *sorted((DOCS / "guide").glob("*.md"))]
API = {page.stem: page.read_text() for page in sorted((DOCS / "api").glob("*.md"))}
FRAMEWORKS = ["Flax NNX", "LoRA in Flax NNX", "Flax Linen", "Equinox", "Haiku", "Keras on JAX"]
FRAMEWORKS += ["Levanter and haliax", "MaxText", "Tunix"]
RECIPES = DOCS.parent / "examples" / "recipes"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SYMBOL = re.compile(r"^\.\. auto\w+:: (\w+)$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run_one_after_another(page):
    text, names = page.read_text(), {}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        if ">>>" not in block[1]:
            exec(compile("\n" * line + block[1], str(page), "exec"), names)
            continue
        title = f"{page.stem}, line {line}"
        example = doctest.DocTestParser().get_doctest(block[1], names, title, str(page), line)
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=FLAGS)
        runner.run(example, out=report.append, clear_globs=False)
        assert not runner.failures, "".join(report)
        names = example.globs


@functools.cache
def folders():
    """The folder of each name that a module defines, without its underscore: its page."""
    found = {}
    for path in sorted(PACKAGE.glob("_[a-z]*/**/*.py")):
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [node]
            if isinstance(node, ast.AnnAssign):
                targets = [node.target]
            for each in targets:
                name = getattr(each, "id", getattr(each, "name", None))
                found.setdefault(name, path.relative_to(PACKAGE).parts[0][1:])
    return found


class TestReference:
    def test_every_symbol_once(self):
        documented = [name for text in API.values() for name in SYMBOL.findall(text)]
        assert sorted(documented) == sorted(mo.__all__)

    @pytest.mark.parametrize("page", [page for page in API if page not in ("index", "types")])
    def test_has_the_tree_of_the_package(self, page):
        assert {folders()[name] for name in SYMBOL.findall(API[page])} == {page}

    def test_index_lists_pages_in_the_order_of_the_package(self):
        listed = re.findall(r"^\w+$", API["index"], re.MULTILINE)
        modules = re.findall(r"`_(\w+)`", mo.__doc__)
        assert listed == [*(module for module in modules if module in API), "types"]
        assert {*listed, "index"} == set(API)


@pytest.mark.parametrize("name", ["sinkgd", "swan", "mngd", "auxiliary_adam", "ldadam"])
def test_every_parameter_is_explained_on_the_spot(name):
    function = getattr(mo, name)
    arguments = inspect.getdoc(function).partition("Args:\n")[2].partition("\n\n")[0]
    explained = re.findall(r"^  (\w+): \S", arguments, re.MULTILINE)
    assert explained == list(inspect.signature(function).parameters)
    assert not re.search(r"\bsee\b", arguments)


def test_every_recipe_is_on_a_page():
    pages = sorted((DOCS / "frameworks").glob("*.md"))
    shown = re.findall(
        r"^```{literalinclude} .*/(\w+)\.py$", "".join(map(Path.read_text, pages)), re.M
    )
    recipes = [path.stem for path in RECIPES.glob("[a-z]*.py")]
    assert sorted(shown) == sorted(recipes)


def raised_texts():
    """(file and line, the first words written out) of every error that the library raises."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                texts = [
                    each.value
                    for each in ast.walk(node.exc)
                    if isinstance(each, ast.Constant) and isinstance(each.value, str)
                ]
                words = [text.strip(" :;,") for text in texts if len(text.split()) > 2]
                if words:
                    yield f"{path.name}:{node.lineno}", words[0][:25]


def test_every_error_is_explained():
    page = " ".join((DOCS / "guide" / "errors.md").read_text().split())
    missing = [f"{place}: {words}" for place, words in raised_texts() if words not in page]
    assert not missing


def test_errors_are_found():
    words = [words for _, words in raised_texts()]
    assert "this leaf is not a matrix" in words
    assert len(words) > 40


@pytest.mark.skipif(importlib.util.find_spec("myst_nb") is None, reason="needs the extra docs")
class TestSite:
    def test_builds_without_a_warning(self):
        site = build()
        for page in ("index", "quickstart", "guide/errors", "api/norms", "changelog"):
            assert (site / f"{page}.html").stat().st_size > 5000

    @pytest.mark.parametrize("name", FRAMEWORKS)
    def test_frameworks_are_found_by_their_name(self, name):
        titles = [
            re.search(r"<h1>(.*?)<", page.read_text())[1]
            for page in (build() / "frameworks").glob("*.html")
        ]
        assert name in titles

    def test_signatures_are_those_of_the_source(self):
        signature = re.sub(r"<[^>]+>|\s+", "", (build() / "api" / "optimizers.html").read_text())
        assert "learning_rate:optax.ScalarOrSchedule=0.02" in signature
        assert "adam_b2:jax.typing.ArrayLike=0.999" in signature

    def test_types_are_links(self):
        page = (build() / "api" / "optimizers.html").read_text()
        for name, place in {
            "AxesLike": "types.html#multinorm_optax.AxesLike",
            "optax.ScalarOrSchedule": "https://optax.readthedocs.io/",
            "jax.typing.ArrayLike": "https://docs.jax.dev/",
        }.items():
            assert re.search(
                rf'href="{re.escape(place)}[^"]*"[^>]*><span class="pre">{re.escape(name)}<', page
            )

    def test_code_is_linked(self):
        page = (build() / "api" / "optimizers.html").read_text()
        for name in ("sinkgd", "swan", "mngd"):
            source = f"../_modules/multinorm_optax/_optimizers/{name}.html"
            assert f'href="{source}#{name}"' in page

    def test_formulas_have_script_style_and_fonts_of_one_version(self):
        static = build() / "_static"
        style = (static / "katex" / "katex.min.css").read_text()
        version = re.search(r'katex-version:after{content:"([\d.]+)"}', style)[1]
        assert f'"{version}"' in (static / "katex.min.js").read_text()
        fonts = set(re.findall(r"fonts/[\w-]+\.woff2", style))
        assert fonts == {f"fonts/{each.name}" for each in (static / "katex" / "fonts").iterdir()}
        page = (build() / "guide" / "mathematics.html").read_text()
        assert page.count('class="math') > 50
        assert not re.search(r'(<script[^>]*src|<link[^>]*stylesheet[^>]*href)="https?:', page)
