"""The notebooks of the repository as pages: Sphinx reads nothing outside its own folder.

Before a build those that changed are copied to `docs/tutorials/notebooks`, which git ignores, and
those that are gone are removed.
"""

import os
import shutil
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

COPIES = "tutorials/notebooks"


def copy_notebooks(app: Sphinx) -> None:
    """Makes the copies those of the moment."""
    source, target = Path(app.srcdir).parent / "notebooks", Path(app.srcdir, COPIES)
    target.mkdir(parents=True, exist_ok=True)
    wanted = {notebook.name: notebook for notebook in source.glob("*.ipynb")}
    for copy in target.glob("*.ipynb"):
        if copy.name not in wanted:
            copy.unlink(missing_ok=True)
    for name, notebook in wanted.items():
        copy = target / name
        if not copy.exists() or copy.stat().st_mtime_ns != notebook.stat().st_mtime_ns:
            temporary = target / f".{name}.{os.getpid()}"
            shutil.copy2(notebook, temporary)
            temporary.replace(copy)  # another build at the same time never sees half a copy


def leave_out_empty_list(app: Sphinx, docname: str, source: list[str]) -> None:
    """Without notebooks their list would be a warning."""
    if docname == "tutorials/index" and not any(Path(app.srcdir, COPIES).glob("*.ipynb")):
        source[0] = source[0].partition("```{toctree}")[0]


def setup(app: Sphinx) -> ExtensionMetadata:
    """Copies before Sphinx looks for documents."""
    app.connect("builder-inited", copy_notebooks)
    app.connect("source-read", leave_out_empty_list)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
