"""One collection on disk: flat files of records, the SQLite catalogue, snapshots; what a commit is and how to recover.

May import `arguments` and below, never numba: the processes of fault tests start in 0.1 s. Knows rows and bytes.
Start with `store.py` (a commit), then `open_store.py` (opening). `FORMAT.md` describes every byte.
"""

from .compaction import Recode
from .graph_snapshot import Snapshot
from .head import Coding, Head, Row, Rows, coding_of
from .open_store import open_store
from .store import Store

__all__ = ["Coding", "Head", "Recode", "Row", "Rows", "Snapshot", "Store", "coding_of", "open_store"]
