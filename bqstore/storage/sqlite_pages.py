"""The records in the pages of an SQLite file that SQLite cannot read any more, or not all of it.

Every page that looks like a leaf of a table is decoded, whether a page leads to it or not: with a damaged root, inner
page or first page SQLite loses access to thousands of rows that are still there. Free pages may hold old versions and
deleted rows: the caller verifies what it takes. See "Database File Format" of SQLite's documentation.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from . import platform

_MAGIC: Final = b"SQLite format 3\0"
_LEAF: Final = 0x0D  # of a table
_USUAL: Final = 4096  # bytes of a page, where the header does not say
_LOG_HEADER, _FRAME_HEADER = 32, 24


class Pages:
    """The pages of a file, those in its write-ahead log before those in the file itself."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        header = self._file.read(100)
        size = int.from_bytes(header[16:18], "big")
        size = 65536 if size == 1 else size
        good = header.startswith(_MAGIC) and 512 <= size <= 65536 and not size & (size - 1)
        self.size = size if good else _USUAL
        self.usable = self.size - (header[20] if good else 0)
        self.count = os.fstat(self._file.fileno()).st_size // self.size
        self._newer: dict[int, bytes] = {}
        log = path.with_name(f"{path.name}-wal")
        if log.exists():
            self._read_log(log.read_bytes())

    def _read_log(self, data: bytes) -> None:
        """Take the frames of the present log up to its last commit; older frames after them have other salts."""
        salts, step, pending = data[16:24], _FRAME_HEADER + self.size, {}
        for at in range(_LOG_HEADER, len(data) - step + 1, step):
            if data[at + 8 : at + 16] != salts:
                break
            pending[int.from_bytes(data[at : at + 4], "big")] = data[at + _FRAME_HEADER : at + step]
            if any(data[at + 4 : at + 8]):  # the size of the file after a commit
                self._newer.update(pending)
                pending = {}
        self.count = max(self.count, *self._newer, 0)

    def __enter__(self) -> "Pages":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def page(self, number: int) -> bytes:
        """A page; they are counted from 1. Empty where there is none."""
        if number in self._newer:
            return self._newer[number]
        if not 1 <= number <= self.count:
            return b""
        return platform.read_at(self._file.fileno(), self.size, (number - 1) * self.size)

    def records(self, columns: int) -> Iterator[tuple[Any, ...]]:
        """The records with so many columns; a first column that is an alias of the rowid has the rowid."""
        for number in range(1, self.count + 1):
            page, start = self.page(number), 100 if number == 1 else 0
            if len(page) < self.size or page[start] != _LEAF:
                continue
            cells = int.from_bytes(page[start + 3 : start + 5], "big")
            for i in range(min(cells, self.size // 2)):
                place = int.from_bytes(page[start + 8 + 2 * i : start + 10 + 2 * i], "big")
                try:
                    found = self._record(page, place, columns)
                except (IndexError, ValueError):  # a damaged cell
                    continue
                if found is not None:
                    yield found

    def _record(self, page: bytes, at: int, columns: int) -> tuple[Any, ...] | None:
        size, at = _varint(page, at)
        row, at = _varint(page, at)
        if size > self.count * self.size:
            raise ValueError("longer than the file")
        largest = self.usable - 35
        least = (self.usable - 12) * 32 // 255 - 23
        local = size
        if size > largest:
            local = least + (size - least) % (self.usable - 4)
            local = local if local <= largest else least
        payload = [page[at : at + local]]
        more = int.from_bytes(page[at + local : at + local + 4], "big") if size > local else 0
        left = size - local
        while left > 0:
            overflow = self.page(more)
            if not overflow:
                raise ValueError("cut short")
            payload.append(overflow[4 : min(self.usable, 4 + left)])
            more, left = int.from_bytes(overflow[:4], "big"), left - (self.usable - 4)
        values = _values(b"".join(payload), columns)
        return values and ((row, *values[1:]) if values[0] is None else values)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 1 to 9 bytes, and where it ends."""
    value = 0
    for place in range(at, at + 8):
        byte = data[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9


def _values(payload: bytes, columns: int) -> tuple[Any, ...] | None:
    """The values of a record; None if it has another number of columns."""
    end, at = _varint(payload, 0)
    kinds: list[int] = []
    while at < end and len(kinds) <= columns:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    if len(kinds) != columns or at != end:
        return None
    out: list[Any] = []
    for kind in kinds:
        size = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)[kind] if kind < 10 else (kind - 12) // 2
        data = payload[at : at + size]
        if len(data) < size or kind in (7, 10, 11):  # no column holds a float
            raise ValueError("not of these tables")
        at += size
        if kind == 0:
            out.append(None)
        elif kind < 10:
            out.append(kind - 8 if kind in (8, 9) else int.from_bytes(data, "big", signed=True))
        else:
            out.append(data.decode() if kind % 2 else data)
    return tuple(out)
