"""The packages of the library, each of which imports only from those before it."""

import ast
import re
from pathlib import Path

import pytest

import multinorm_optax as mo

PACKAGE = Path(mo.__file__).parent
ORDER = re.findall(r"`_(\w+)`", mo.__doc__)
MODULES = sorted(PACKAGE.glob("_*/**/*.py"))


def imports(path):
    """The full names that a module imports from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def package(path):
    return path.relative_to(PACKAGE).parts[0][1:]


def test_the_documentation_names_every_package():
    assert sorted(ORDER) == sorted({package(path) for path in MODULES})


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
class TestImports:
    def test_come_from_the_packages_before(self, path):
        for name in imports(path):
            if name.startswith("multinorm_optax"):
                other = name.split(".")[1].removeprefix("_")
                assert ORDER.index(other) <= ORDER.index(package(path))

    def test_are_of_jax_and_optax_alone_and_public(self, path):
        standard = {"abc", "collections", "dataclasses", "enum", "functools", "inspect"}
        standard |= {"itertools", "math", "operator", "re", "textwrap", "typing"}
        for name in imports(path):
            top = name.split(".")[0]
            assert top in standard | {"jax", "numpy", "optax", "multinorm_optax"}
            if top in ("jax", "optax"):
                assert not any(part.startswith("_") for part in name.split("."))
                assert not name.startswith(("jax.extend", "jax.core", "jax.interpreters"))


def test_no_attribute_of_jax_is_private():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                chain = ast.unparse(node)
                if chain.startswith(("jax.", "optax.", "jnp.")):
                    assert "._" not in chain.replace(".__", "")
                    assert not chain.startswith(("jax.core.", "jax.extend.", "jax.interpreters."))


def test_there_are_at_most_45_public_names():
    assert len(mo.__all__) == len(set(mo.__all__)) <= 45
    assert all(hasattr(mo, name) for name in mo.__all__)
