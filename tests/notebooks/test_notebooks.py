"""The notebooks run from a clean kernel, and what is committed is what they show."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import nbformat
import pytest
from execute_notebooks import FOLDER, WIDGET, address, cleaned, execute, notebooks

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
        # one device, as everywhere but in these tests
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1",
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
            # the norm and the optimizer of the fourth notebook are what its reader is to write
            own = {"BlockNorm", "almost_stateless"}
            names = {getattr(node, "name", None) for node in found}
            assert found == [] or names <= own or "google.colab" in cell.source


class TestColab:
    @each
    def test_first_cell_has_the_address_of_the_repository(self, path):
        first = _code(nbformat.read(path, as_version=4))[0].source
        assert f'REPOSITORY = "{address()}"' in first

    def test_first_cell_fetches_and_installs_the_project(self, tmp_path, monkeypatch):
        first, *others = {_code(nbformat.read(path, as_version=4))[0].source for path in NOTEBOOKS}
        assert others == []
        cell = first.replace('REPOSITORY = ""', f'REPOSITORY = "{(FOLDER.parent).as_uri()}"')
        installed, run = [], subprocess.run

        def without_pip(command, **options):
            if "pip" in command:
                installed.append((Path.cwd(), command[-1]))
            else:
                run(command, **options)

        monkeypatch.setattr(subprocess, "run", without_pip)
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setitem(sys.modules, "google.colab", sys)
        monkeypatch.chdir(tmp_path)
        exec(cell, {})
        assert installed == [(tmp_path / "project", ".[notebooks]")]
        assert Path.cwd() == tmp_path / "project" / "notebooks"
        assert Path(sys.path[0], "exploration").is_dir()
        assert Path(sys.path[1], "examples").is_dir()

    def test_elsewhere_it_does_nothing(self, monkeypatch):
        monkeypatch.setattr(subprocess, "run", None)
        exec(_code(nbformat.read(NOTEBOOKS[0], as_version=4))[0].source, {})


def _contains(node, kinds):
    return any(isinstance(inner, kinds) for inner in ast.walk(node))
