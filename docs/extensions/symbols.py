"""Links from code to the API: `sinkgd` in backticks, on a page or in a docstring, is one.

Only what `multinorm_optax` exports becomes a link, and a link without a target is a warning.
"""

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.typing import ExtensionMetadata

import multinorm_optax

_NO_LINKS_IN = (nodes.title, nodes.reference, addnodes.pending_xref, addnodes.desc_signature)


class LinkSymbols(SphinxTransform):
    """Turns the code of a public name into a reference to it."""

    default_priority = 400

    def apply(self) -> None:
        """To the document that was just read."""
        for literal in list(self.document.findall(nodes.literal)):
            name = literal.astext()
            if name not in multinorm_optax.__all__ or _is_inside(literal, *_NO_LINKS_IN):
                continue
            link = addnodes.pending_xref(
                "",
                literal.deepcopy(),
                refdomain="py",
                reftype="obj",
                reftarget=f"multinorm_optax.{name}",
                refdoc=self.env.docname,
                refwarn=True,
            )
            link.source, link.line = literal.source, literal.line
            literal.replace_self(link)


def _is_inside(node: nodes.Node, *kinds: type[nodes.Node]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def setup(app: Sphinx) -> ExtensionMetadata:
    """Registers the transformation."""
    app.add_transform(LinkSymbols)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
