"""Links from code to APIs: `sinkgd` or `optax.adamw` in backticks, on a page or in a docstring.

What `multinorm_optax` exports becomes a link, and a link without a target is a warning. So does
what the lists in `docs/inventories` name of other projects.
"""

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.ext.intersphinx import InventoryAdapter
from sphinx.transforms import SphinxTransform
from sphinx.util.typing import ExtensionMetadata

import multinorm_optax

_NO_LINKS_IN = (nodes.title, nodes.reference, addnodes.pending_xref, addnodes.desc_signature)
_SHORT = {"jnp": "jax.numpy", "nnx": "flax.nnx"}


class LinkSymbols(SphinxTransform):
    """Turns the code of a public name into a reference to it."""

    default_priority = 400

    def apply(self) -> None:
        """To the document that was just read."""
        inventory = InventoryAdapter(self.env).main_inventory
        elsewhere = {name for kind in ("py:class", "py:function") for name in inventory[kind]}
        for literal in list(self.document.findall(nodes.literal)):
            name = literal.astext()
            target = re.sub(r"^\w+(?=\.)", lambda match: _SHORT.get(match[0], match[0]), name)
            if name in multinorm_optax.__all__:
                target = f"multinorm_optax.{name}"
            elif target not in elsewhere:
                continue
            if _is_inside(literal, *_NO_LINKS_IN):
                continue
            link = addnodes.pending_xref(
                "",
                literal.deepcopy(),
                refdomain="py",
                reftype="obj",
                reftarget=target,
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
