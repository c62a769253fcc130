"""Docstrings as they are written: plain text with code in single backticks, and signatures as code.

The library's docstrings are for `help()`: formulas stand in them as text, |x|_2 or a*b, which
reStructuredText would take for markup. And signatures name types as the source does
(`optax.ScalarOrSchedule`), where their values would be unions of many lines.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

from multinorm_optax import auxiliary_adam

CODE = re.compile(r"`([^`]+)`")
MARKUP = re.compile(r"([\\*|_])")
SECTION = re.compile(r"(Args|Attributes|Example|Raises|Returns|Yields):")


def _escaped(text: str) -> str:
    """Text outside of code is text; code gets the two backticks of reStructuredText."""
    parts = CODE.split(text)
    parts[::2] = [MARKUP.sub(r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"``{part}``" for part in parts[1::2]]
    return "".join(parts)


def _table(rows: list[str]) -> str:
    """A table of vertical bars as a list of lists."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (row for row in rows if not set(row) <= set("|- :")):
        cells = [_escaped(cell.strip()) for cell in row.strip("|").split("|")]
        lines += [f"   {'  -' if place else '* -'} {cell}" for place, cell in enumerate(cells)]
    return "\n".join(lines)


def _formatted(paragraph: str, before: str) -> str:
    """A paragraph of a docstring as reStructuredText; `before` is the one above it."""
    lines, above = paragraph.splitlines(), _indent(before.splitlines()[-1])
    if lines[0].lstrip().startswith(">>>"):
        return paragraph
    if all(line.lstrip().startswith("|") for line in lines):
        return _table(lines)
    is_list = lines[0].lstrip().startswith("- ")
    if before.endswith(":") and _indent(lines[0]) > above and not is_list:
        return f"{' ' * above}.. code-block:: text\n\n{paragraph}"
    return _escaped(paragraph)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def plain_text(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keeps examples, formulas that stand apart, and tables; all else is text."""
    del app, what, name, obj, options
    paragraphs = [part for part in re.split(r"\n\s*\n", "\n".join(lines)) if part.strip()]
    formatted = []
    for before, paragraph in zip(["-", *paragraphs], paragraphs, strict=False):
        head, newline, body = paragraph.partition("\n")
        if SECTION.fullmatch(head.strip()) and newline:
            formatted.append(f"{head}\n{_formatted(body, head.rstrip(':'))}")
        else:
            formatted.append(_formatted(paragraph, before))
    lines[:] = "\n\n".join(formatted).splitlines()


def signature_as_written(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str | None] | None:
    """The source's own parameters and types."""
    del app, name, options, signature, returns
    if what == "class" and "__init__" not in vars(obj):
        return None
    function = inspect.unwrap(vars(obj)["__init__"] if what == "class" else obj)
    if not inspect.isfunction(function):
        return None
    if function.__code__.co_filename.startswith("<"):  # by dataclasses, from the fields
        return f"({_fields(obj)})", None
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(definition, ast.FunctionDef)
    arguments = definition.args
    if what in ("class", "method"):
        arguments.args = arguments.args[1:]
    if arguments.kwarg is not None:
        _write_out_options(arguments, inspect.signature(function))
    result = definition.returns if what != "class" else None
    return f"({ast.unparse(arguments)})", None if result is None else ast.unparse(result)


def _write_out_options(arguments: ast.arguments, signature: inspect.Signature) -> None:
    """Replaces `**options` by the arguments of `auxiliary_adam` that it stands for."""
    (definition,) = ast.parse(inspect.getsource(auxiliary_adam)).body
    assert isinstance(definition, ast.FunctionDef)
    every = definition.args
    own = {each.arg for each in (*arguments.args, *arguments.kwonlyargs)}
    for argument, default in zip(every.kwonlyargs, every.kw_defaults, strict=True):
        if argument.arg in signature.parameters and argument.arg not in own:
            arguments.kwonlyargs.append(argument)
            arguments.kw_defaults.append(default)
    arguments.kwarg = None


def _fields(cls: type) -> str:
    """The fields of a dataclass as parameters; a default that is made appears as a call."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    made = {
        field.name: f"{field.default_factory.__name__}()"
        for field in dataclasses.fields(cls)
        if field.default_factory is not dataclasses.MISSING
    }
    parameters = []
    for line in definition.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            name = line.target.id
            default = made.get(name) or (line.value and ast.unparse(line.value))
            annotated = f"{name}: {ast.unparse(line.annotation)}"
            parameters.append(f"{annotated} = {default}" if default else annotated)
    return ", ".join(parameters)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Comes before napoleon, which reads the sections."""
    app.connect("autodoc-process-docstring", plain_text, priority=100)
    app.connect("autodoc-process-signature", signature_as_written)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
