"""Floor 2: files, records and the SQLite catalogue. Knows rows and bytes, no kernels, no search; never imports numba.

`opening.py` and `store.py` tell the story: what opening checks, what a commit is. `compaction.py` frees the space of
the deleted, `snapshot.py` keeps what was derived. `format.py`, `sections.py` and `FORMAT.md` give every byte.
"""

from .head import Head, Row, Rows
from .opening import open_store
from .snapshot import Snapshot
from .store import Store

__all__ = ["Head", "Row", "Rows", "Snapshot", "Store", "open_store"]
