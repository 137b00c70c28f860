"""Import the documents of other stores into a collection, and export a collection to a file.

May import public names of bqstore and `metadata.framework_keys`; the library of a source is imported when it is read.
Start reading in ``moving.py``; most kinds of source have a file each.
"""

from .kinds import KINDS, open_source
from .moving import ImportReport, import_from
from .source import Source
from .writing import export

__all__ = ["KINDS", "ImportReport", "Source", "export", "import_from", "open_source"]
