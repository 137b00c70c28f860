"""Bring the documents of other stores into a collection, and write a collection out.

Imports public names of bqstore and `metadata.framework_keys`, and other libraries where a source needs them. Start
reading in ``moving.py``; each kind of source is one file.
"""

from .kinds import KINDS, open_source
from .moving import ImportReport, import_from
from .source import Source
from .writing import export

__all__ = ["KINDS", "ImportReport", "Source", "export", "import_from", "open_source"]
