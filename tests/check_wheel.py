"""A wheel that is installed in this environment: the files it holds, and the README's lines.

It imports nothing of the tests or the repository: `make package` runs it where only the wheel is.
"""

import re
import sys
import textwrap
import zipfile
from pathlib import Path


def main(wheel: str, readme: str) -> None:
    """Raise if the wheel holds another package, or the README's code does not run."""
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names}
    version = Path(wheel).name.split("-")[1]
    assert top == {"multinorm_optax", f"multinorm_optax-{version}.dist-info"}, top
    assert "multinorm_optax/py.typed" in names
    import multinorm_optax

    assert "site-packages" in str(multinorm_optax.__file__), multinorm_optax.__file__
    assert multinorm_optax.__version__ == version
    blocks = re.findall(r"^ *```python\n(.*?)^ *```$", Path(readme).read_text(), re.DOTALL | re.M)
    assert blocks
    for block in blocks:
        exec(compile(textwrap.dedent(block), readme, "exec"), {})
    print(f"{wheel}: {len(names)} files, and {len(blocks)} blocks of the README run")


if __name__ == "__main__":
    main(*sys.argv[1:])
