"""Floor 2: files, records and the SQLite catalogue. Knows rows and bytes, no kernels, no search; never imports numba.

`store.py` tells the story: what a commit is, what opening checks. `format.py` and `FORMAT.md` give every byte.
"""

from .head import Head, Row
from .store import Rows, Store

__all__ = ["Head", "Row", "Rows", "Store"]
