"""Execute the notebooks from a clean kernel, and save them with what they show and nothing else.

python notebooks/execute_notebooks.py            # all of them, in place
python notebooks/execute_notebooks.py 1_*.ipynb  # some
"""

import os
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
WIDGET = "application/vnd.jupyter.widget-view+json"
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def address() -> str:
    """The repository's, which is written in `pyproject.toml`; empty as long as it has none."""
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())
    return str(project["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"])


def notebooks() -> list[Path]:
    """All notebooks, in order."""
    return sorted(FOLDER.glob("[0-9]_*.ipynb"))


def execute(path: Path, environment: Mapping[str, str] = os.environ) -> nbformat.NotebookNode:
    """Run all cells in a new kernel, in the notebook's folder, on the CPU.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
        store_widget_state=False,
    )
    return client.execute(env={**environment, "JAX_PLATFORMS": "cpu"})


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without times, versions, and widgets, which live only as long as their kernel.

    The picture that is displayed along with a widget stays. The cell for Colab gets the address.
    """
    notebook.metadata = nbformat.from_dict(_METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        cell.source = re.sub(
            r'^REPOSITORY = ".*?"', f'REPOSITORY = "{address()}"', cell.source, flags=re.MULTILINE
        )
        for output in cell.get("outputs", []):
            output.pop("transient", None)
            if "data" in output:
                output.data.pop(WIDGET, None)
                output.metadata = nbformat.from_dict({})
    return notebook


def main(names: Sequence[str]) -> None:
    """Execute and save."""
    for path in [FOLDER / name for name in names] or notebooks():
        nbformat.write(cleaned(execute(path)), path)
        print(f"{path.name}: {path.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main(sys.argv[1:])
