"""The project's description for a package index: the README, whose links to files lead nowhere there."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK_TO_FILE = re.compile(r"!?\[([^\[\]]+)\]\((?![a-z][a-z0-9+.-]*:|//|#)([^()\s]+)\)", re.IGNORECASE)
_WHERE = "\nThe files named here are in the source distribution of this project.\n"


class DescriptionHook(MetadataHookInterface):
    """Fills in the dynamic `readme`. Hatchling finds it by its base class."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the description."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": _described(text)}


def _described(readme: str) -> str:
    """The README with the name of each file in place of the link to it."""
    return _LINK_TO_FILE.sub(r"\1 (`\2`)", readme) + _WHERE
