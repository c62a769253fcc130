"""The notebooks run from a clean kernel, and what is committed is what they show."""

import ast
import os
import re

import matplotlib
import nbformat
import pytest
from execute_notebooks import FOLDER, WIDGET, cleaned, execute, notebooks

NOTEBOOKS = notebooks()
PATH = re.compile(r"(/(home|root|Users|tmp|work|usr|opt|private)/|[A-Z]:\\\\)")

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _outputs(notebook):
    return [output for cell in _code(notebook) for output in cell.outputs]


def _shows_pictures(cell):
    return "explore(" in cell.source or "show(" in cell.source


def test_there_are_four():
    assert [path.name[0] for path in NOTEBOOKS] == ["1", "2", "3", "4"]


@each
def test_runs_without_a_warning(path, tmp_path):
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path),  # the text is read anew
        "MPLCONFIGDIR": matplotlib.get_cachedir(),  # but the list of fonts takes too long
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "XLA_FLAGS": "",  # one device, as everywhere but in these tests
    }
    notebook = execute(path, environment)
    outputs = _outputs(notebook)
    assert outputs
    complaints = [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert complaints == []
    widgets = [o for o in outputs if WIDGET in o.get("data", {})]
    assert widgets
    assert all("image/png" in o.data for o in widgets)
    assert WIDGET not in nbformat.writes(cleaned(notebook))


class TestCommitted:
    @each
    def test_every_cell_was_run_in_order(self, path):
        notebook = nbformat.read(path, as_version=4)
        counts = [cell.execution_count for cell in _code(notebook)]
        assert counts == list(range(1, len(counts) + 1))
        assert all(output.output_type != "error" for output in _outputs(notebook))
        assert all(output.get("name") != "stderr" for output in _outputs(notebook))

    @each
    def test_pictures_are_static(self, path):
        notebook = nbformat.read(path, as_version=4)
        pictures = [cell for cell in _code(notebook) if _shows_pictures(cell)]
        assert len(pictures) >= 2
        for cell in pictures:
            [output] = cell.outputs
            assert output.data["image/png"].startswith("iVBOR")
            assert WIDGET not in output.data

    @each
    def test_nothing_of_the_machine_is_left(self, path):
        notebook = nbformat.read(path, as_version=4)
        assert set(notebook.metadata) == {"kernelspec", "language_info"}
        assert notebook.metadata.kernelspec.name == "python3"
        assert set(notebook.metadata.language_info) == {"name"}
        for cell in notebook.cells:
            assert cell.metadata == {}
            assert not PATH.search(cell.source)
        for output in _outputs(notebook):
            data = {**output.get("data", {}), "text": output.get("text", "")}
            assert not PATH.search(str({k: v for k, v in data.items() if k != "image/png"}))

    @each
    def test_is_small(self, path):
        assert path.stat().st_size < 1_000_000

    @each
    def test_links_lead_somewhere(self, path):
        text = path.read_text()
        assert all((FOLDER / name).exists() for name in re.findall(r"\]\((\w+\.ipynb)\)", text))

    @each
    def test_cells_hold_no_logic(self, path):
        logic = (
            *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda),
            *(ast.For, ast.While, ast.If, ast.With, ast.Try, ast.ListComp, ast.DictComp),
        )
        for cell in _code(nbformat.read(path, as_version=4)):
            found = [node for node in ast.parse(cell.source).body if _contains(node, logic)]
            # the norm of the fourth notebook is what its reader is to write
            own_norm = [getattr(node, "name", None) for node in found] == ["BlockNorm"]
            assert found == [] or own_norm


def _contains(node, kinds):
    return any(isinstance(inner, kinds) for inner in ast.walk(node))
