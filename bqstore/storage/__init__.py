"""Floor 2: files, records and the SQLite catalogue. Knows rows and bytes, no kernels, no search; never imports numba.

`opening.py` and `store.py` tell the story: what opening checks, what a commit is. `compaction.py` frees the space of
the deleted, `snapshot.py` keeps what was derived. `format.py`, `sections.py` and `FORMAT.md` give every byte.
"""

from .compaction import Recode
from .head import Coding, Head, Row, Rows, coding_of
from .opening import open_store
from .snapshot import Snapshot
from .store import Store

__all__ = ["Coding", "Head", "Recode", "Row", "Rows", "Snapshot", "Store", "coding_of", "open_store"]
