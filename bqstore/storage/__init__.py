"""Files, records and the SQLite catalogue: one collection on disk, and what a commit is.

May import `errors` alone, and never numba, so that a process of a fault test starts in 0.1 s; knows rows and bytes.
Start with `store.py` (a commit), then `recovery.py` (what opening checks); `FORMAT.md` gives every byte.
"""

from .compaction import Recode
from .graph_snapshot import Snapshot
from .head import Coding, Head, Row, Rows, coding_of
from .recovery import open_store
from .store import Store

__all__ = ["Coding", "Head", "Recode", "Row", "Rows", "Snapshot", "Store", "coding_of", "open_store"]
