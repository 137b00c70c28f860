"""Floor 2: files, records and the SQLite catalogue. Knows rows and bytes, no kernels, no search; never imports numba.

`opening.py` and `store.py` tell the story: what opening checks, what a commit is. `format.py` and `FORMAT.md` give
every byte.
"""

from .head import Head, Row
from .opening import open_store
from .store import Rows, Store

__all__ = ["Head", "Row", "Rows", "Store", "open_store"]
