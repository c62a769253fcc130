"""What a package index shows: links, and a README without relative ones."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")


class CustomMetadataHook(MetadataHookInterface):
    """Fills in `readme` and `urls` from `repository` in pyproject.toml."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add both; without an address there are no links, and relative ones become plain text."""
        repository = self.config["repository"].rstrip("/")
        text = (Path(self.root) / "README.md").read_text()
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, repository)}
        metadata["urls"] = (
            {
                "Repository": repository,
                "Changelog": f"{repository}/blob/main/CHANGELOG.md",
                "Issues": f"{repository}/issues",
            }
            if repository
            else {}
        )


def absolute(markdown: str, repository: str) -> str:
    """The text with relative links made absolute; without a repository, with their words alone."""

    def link(found: re.Match[str]) -> str:
        image, words, target = found.groups()
        if not repository:
            return f"*{words}*" if image else words
        return f"{image}[{words}]({repository}/{'raw' if image else 'blob'}/main/{target})"

    return _LINK.sub(link, markdown)
