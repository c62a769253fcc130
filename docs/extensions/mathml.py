"""Formulas as MathML, which browsers show by themselves: the site needs no script and no network.

The translation is docutils' own. A command that it does not know is a warning with its place.
"""

import html
import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)

DOTS = re.compile(r"\\dots\b")
OPERATOR = re.compile(r"\\operatorname\*?\{([^{}]*)\}")


def _for_docutils(formula: str) -> str:
    r"""What MathJax takes and docutils does not: \dots, and \operatorname with a star or spaces."""
    thin_spaces = OPERATOR.sub(
        lambda match: rf"\operatorname{{{match[1].replace(chr(92) + ',', chr(0x2009))}}}", formula
    )
    return DOTS.sub(r"\\ldots", thin_spaces)


def _mathml(node: nodes.Element, as_block: bool) -> str:
    try:
        return tex2mathml(_for_docutils(node.astext()), as_block)
    except MathError as error:
        logger.warning("formula %r: %s", node.astext(), error, location=node)
        return f"<code>{html.escape(node.astext())}</code>"


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    """`$x$`."""
    self.body.append(f'<span class="math">{_mathml(node, as_block=False)}</span>')
    raise nodes.SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """`$$x$$`."""
    self.body.append(f'<div class="math">{_mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> ExtensionMetadata:
    """Registers the renderer."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
