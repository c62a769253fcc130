"""The notebooks' own modules lie beside them, as a kernel finds them."""

import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "notebooks"

sys.path.insert(0, str(FOLDER))
