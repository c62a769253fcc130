"""The examples of the README run as they stand."""

import re
import textwrap
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^( *)```python\n(.*?)^ *```$", README.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_example_runs(block, capsys):
    names = {}
    exec(compile(textwrap.dedent(BLOCKS[block][1]), README.name, "exec"), names)
    if "loss" in names:
        assert names["loss"](names["params"]) < 1e-2
        assert "dense/kernel  (64, 32)  1 x (32, 64)   matrix" in capsys.readouterr().out


def test_there_are_examples():
    assert len(BLOCKS) == 1
