"""What this distribution requires: the bqstore of its own release, or a newer one."""

from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class RequireTheSameRelease(MetadataHookInterface):
    """Fills in `dependencies`; of an sdist, its PKG-INFO has them already."""

    def update(self, metadata: dict[str, Any]) -> None:
        """The code is in bqstore; its extra says which releases of the framework it works with."""
        metadata["dependencies"] = [f"bqstore[langchain]>={metadata['version']}"]
