"""The documentation, built once for all tests of a process."""

import atexit
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


@functools.cache
def build() -> Path:
    """The folder of the site; a warning of Sphinx is a failure."""
    folder = Path(tempfile.mkdtemp(prefix="multinorm-docs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    options = ["-W", "--keep-going", "-n", "-q", "-b", "html", "-d", str(folder / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(folder / "html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"
