"""Rows that searches have found lately, so that the next one that finds them does not ask SQLite again."""

from datetime import date, datetime
from sys import getsizeof
from types import NoneType
from typing import Any, Final

from ..metadata.documents import metadata_of
from ..storage import Row

_HALF: Final = 2 << 20  # bytes of rows in each half
_LARGEST: Final = 64 << 10  # bytes of a row that is kept, at most: a few larger ones would drive all others out
_FIXED: Final = 300  # bytes of a row's objects, numbers and entry, about
_UNCHANGING: Final = {str, int, float, bool, NoneType, datetime, date}


class Document:
    """What a hit shows of a row.

    Metadata of immutable values is decoded once, each hit gets a copy of the dictionary, and the row is dropped.
    Metadata with lists or dicts is decoded for each hit, as deep copies take longer.
    """

    __slots__ = ("_metadata", "_row", "id", "text")
    _metadata: dict[str, Any] | None
    _row: Row | None

    def __init__(self, row: Row) -> None:
        self.id, self.text = row.id, row.text
        metadata = metadata_of(row)
        is_plain = _UNCHANGING.issuperset(map(type, metadata.values()))
        self._metadata, self._row = (metadata, None) if is_plain else (None, row)

    def metadata(self) -> dict[str, Any]:
        """The metadata, for the caller to change."""
        if self._metadata is not None:
            return self._metadata.copy()
        assert self._row is not None
        return metadata_of(self._row)

    @property
    def n_bytes(self) -> int:
        """Bytes in memory, about."""
        size = _FIXED + getsizeof(self.id) + getsizeof(self.text)
        if self._metadata is None:
            assert self._row is not None
            return size + getsizeof(self._row.metadata) + getsizeof(self._row.private)
        known = self._metadata
        return size + getsizeof(known) + sum(map(getsizeof, known)) + sum(map(getsizeof, known.values()))


class RecentRows:
    """Rows by rid, checked when they were read: at most 4 MiB.

    States share them as long as no row was changed in place: a rid then stands for the same row in all of them.

    When the newer half is full, the older one is dropped and the newer takes its place; what is found in the older one
    moves to the newer. So rows that are asked for again and again stay, at the price of a look into a dictionary. Each
    step is one assignment or one operation of a dictionary: threads that use it at once lose a row at most.
    """

    __slots__ = ("_bytes", "_bytes_of_older", "_newer", "_older")

    def __init__(self) -> None:
        self._newer: dict[int, Document] = {}
        self._older: dict[int, Document] = {}
        self._bytes = self._bytes_of_older = 0

    @property
    def n_bytes(self) -> int:
        """Bytes in memory, about."""
        return self._bytes + self._bytes_of_older

    def all(self, rids: list[int]) -> list[Document] | None:
        """The rows in the order of the rids; None unless all are in the newer half."""
        try:
            return list(map(self._newer.__getitem__, rids))
        except KeyError:
            return None

    def get(self, rid: int) -> Document | None:
        """The row, if it is here."""
        found = self._newer.get(rid)
        if found is None:
            found = self._older.get(rid)
            if found is not None:
                self._keep(rid, found)
        return found

    def keep(self, row: Row) -> Document:
        """Remember a row."""
        made = Document(row)
        self._keep(row.rid, made)
        return made

    def _keep(self, rid: int, document: Document) -> None:
        size = document.n_bytes
        if size > _LARGEST:
            return
        if self._bytes + size > _HALF:
            self._older, self._newer, self._bytes_of_older, self._bytes = self._newer, {}, self._bytes, 0
        self._newer[rid] = document
        self._bytes += size
