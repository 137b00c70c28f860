"""Rows that searches have found lately, so that the next one that finds them does not ask SQLite again."""

from sys import getsizeof
from typing import Final

from ..storage import Row

_HALF: Final = 2 << 20  # bytes of rows in each half
_LARGEST: Final = 64 << 10  # bytes of a row that is kept: a few of larger ones would drive all others out
_FIXED: Final = 300  # bytes of a row's tuple, numbers and entry, about


class RecentRows:
    """Rows by rid, checked when they were read: at most 4 MiB.

    States share them as long as no row was changed in place: a rid then stands for the same row in all of them.

    When the newer half is full, the older one is dropped and the newer takes its place; what is found in the older one
    moves to the newer. So rows that are asked for again and again stay, at the price of a look into a dictionary. Each
    step is one assignment or one operation of a dictionary: threads that meet here lose a row at most.
    """

    __slots__ = ("_bytes", "_newer", "_older")

    def __init__(self) -> None:
        self._newer: dict[int, Row] = {}
        self._older: dict[int, Row] = {}
        self._bytes = 0

    def get(self, rid: int) -> Row | None:
        """The row, if it is here."""
        row = self._newer.get(rid)
        if row is None:
            row = self._older.get(rid)
            if row is not None:
                self.keep(row)
        return row

    def keep(self, row: Row) -> None:
        """Remember a row."""
        size = _FIXED + getsizeof(row.id) + getsizeof(row.text) + getsizeof(row.metadata) + getsizeof(row.private)
        if size > _LARGEST:
            return
        if self._bytes + size > _HALF:
            self._older, self._newer, self._bytes = self._newer, {}, 0
        self._newer[row.rid] = row
        self._bytes += size
