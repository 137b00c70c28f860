"""What is intact in a damaged collection: rows and records that match their checksums, and what is missing. Read only.

`open_store` refuses a folder with any contradiction. Here each part is read on its own, as far as possible: the head
row, the rows, the tombstones, the records of both flat files. What cannot be verified is not returned.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import BqstoreError, CorruptionError
from . import platform, record_table
from .catalogue import Catalogue
from .files import read_all
from .flat import layouts
from .format import (
    F32,
    HEADER_BYTES,
    NO_PARAMETERS,
    U32,
    U64,
    Layout,
    check_header,
    codes_of,
    damaged,
    header_length,
    is_sealed,
    rids_of,
    vectors_of,
)
from .head import Head, Row, check_keys
from .record_table import KeyRecord
from .row_table import AT_ONCE, WHOLE
from .sqlite_pages import Pages

_PIECE: Final = 8 << 20
_READ: Final = f"{WHOLE}, key_crc"
_RAW: Final = ("rid", "seq", "id", "ref_doc_id", "metadata", "key_crc", "text", "private", "crc")  # as in the table
_PLACES: Final = [_RAW.index(name) for name in _READ.split(", ")]


@dataclass
class FlatWreck:
    """What is left of one flat file.

    Attributes
    ----------
    slots : int64 (n,)              where the intact records stand
    rids : int64 (n,)               theirs
    parameters : float32 (count,)   the encoder's
    """

    path: Path
    layout: Layout
    start: int
    parameters: F32
    slots: NDArray[np.int64]
    rids: NDArray[np.int64]

    def gaps(self, head: Head) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rids before and after each run of damaged records, two int64 (m,): the rids of a file ascend."""
        slots = np.concatenate([[-1], self.slots, [head.n_slots]])
        rids = np.concatenate([[-1], self.rids, [head.next_rid]])
        before = np.flatnonzero(np.diff(slots) > 1)
        return rids[before], rids[before + 1]

    def pieces(self, rids: Sequence[int]) -> Iterator[tuple[list[int], U32]]:
        """The records of rids that are here, some at a time, ascending: their rids, and uint32 (m, words)."""
        order = np.argsort(self.rids, kind="stable")
        sought = np.asarray(rids, np.int64)
        where = order[np.searchsorted(self.rids, sought, sorter=order)]
        step = max(1, _PIECE // self.layout.record_bytes)
        with self.path.open("rb") as file:
            for at in range(0, len(sought), step):
                some = where[at : at + step]
                out = np.empty((len(some), self.layout.record_bytes // 4), np.uint32)
                for i, slot in enumerate(self.slots[some].tolist()):
                    read_all(file.fileno(), out[i], self.start + slot * self.layout.record_bytes)
                yield sought[at : at + step].tolist(), out

    def vectors(self, records: U32) -> F32:
        """float32 (m, dim)."""
        return vectors_of(self.layout, records)

    def codes(self, records: U32) -> U64:
        """uint64 (m, words)."""
        return codes_of(self.layout, records)


@dataclass
class Wreck:
    """What is left of a collection.

    Attributes
    ----------
    head : Head                     the newest that is intact
    rows : dict                     intact rows by rid; those of deleted documents are not among them
    ids : dict                      ids by rid, of rows that are not intact
    dead : set of int               rids with a tombstone
    records : list of KeyRecord     what a record manager has kept of documents
    sound : bool                    whether SQLite can read all of meta.db
    vectors, codes : FlatWreck      None where there is no such file, or none can be read
    problems : list of str          what is damaged, one line each
    """

    folder: Path
    head: Head
    rows: dict[int, Row] = field(default_factory=dict)
    ids: dict[int, str] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)
    records: list[KeyRecord] = field(default_factory=list)
    sound: bool = False
    vectors: FlatWreck | None = None
    codes: FlatWreck | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def whole(self) -> list[int]:
        """The rids of documents of which both the row and what searches need is intact, ascending."""
        keeper = self.codes if self.head.settings["originals"] == "none" else self.vectors
        return [] if keeper is None else sorted(self.rows.keys() & set(keeper.rids.tolist()))

    @property
    def lost(self) -> list[tuple[int, str]]:
        """(rid, reason) of documents that are not whole and not known to be deleted, ascending."""
        whole = set(self.whole)
        known = {rid for file in (self.vectors, self.codes) if file is not None for rid in file.rids.tolist()}
        out = dict.fromkeys((known | self.ids.keys()) - self.dead, "its row is damaged")
        out |= dict.fromkeys(self.rows, "its vector is damaged")
        return sorted((rid, reason) for rid, reason in out.items() if rid not in whole)


def read_wreck(folder: Path) -> Wreck:
    """Read all of a collection's folder that can be read. Raises CorruptionError where there is no head to go by."""
    meta = folder / "meta.db"
    if not meta.exists():
        raise CorruptionError(
            f"{folder} holds no meta.db, so neither ids nor texts nor settings: restore it from a copy"
        )
    catalogue, unreadable = None, []
    try:
        catalogue = Catalogue(meta)
    except CorruptionError as error:  # the first page is damaged; the others can be read one by one
        unreadable = [str(error)]
    try:
        with Pages(meta) as pages:
            tables = _Tables(None if catalogue is None else catalogue.main(), pages, unreadable)
            wreck = Wreck(folder, _head(tables), sound=tables.sound, problems=tables.problems)
            for layout in layouts(wreck.head) if wreck.head.n_slots else []:
                found = _flat(folder, layout, wreck)
                if layout.kind == "vectors":
                    wreck.vectors = found
                else:
                    wreck.codes = found
            _fill(wreck, tables)
            if wreck.head.settings.get("records"):
                wreck.records = _records(tables)
    finally:
        if catalogue is not None:
            with suppress(BqstoreError):
                catalogue.close()
    return wreck


class _Tables:
    """The catalogue, through SQLite as far as it goes, and by its pages."""

    def __init__(self, main: sqlite3.Connection | None, pages: Pages, problems: list[str]) -> None:
        self._main, self.pages, self.problems = main, pages, problems
        found = [row[0] for row in self.some("PRAGMA integrity_check(20)")]
        self.sound = found == ["ok"]
        self.problems = list(
            dict.fromkeys(self.problems + ([] if self.sound else [f"meta.db: {each}" for each in found]))
        )

    def some(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a statement, up to the first that cannot be read, which is noted as a problem."""
        out: list[tuple[Any, ...]] = []
        if self._main is None:
            return out
        try:
            for row in self._main.execute(sql, values):
                out.append(row)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self.problems.append(f"meta.db: {error}" if isinstance(error, sqlite3.Error) else "meta.db: not UTF-8")
        return out

    def both_ways(self, columns: str, table: str, key: str) -> set[tuple[Any, ...]]:
        """The rows from both ends of an index: all but those on one damaged page in between."""
        found: set[tuple[Any, ...]] = set()
        for order in ("ASC", "DESC"):
            found.update(self.some(f"SELECT {columns} FROM {table} ORDER BY {key} {order}"))  # noqa: S608
            if self.sound:
                break
        return found


def _head(tables: _Tables) -> Head:
    """The newest head row that matches its checksum."""
    heads = []
    # a log that is damaged in the middle hides later commits from SQLite: the pages are read, too
    raw = (row[1:] for row in tables.pages.records(4))
    for version, body, crc in [*tables.some("SELECT format, body, crc FROM head"), *raw]:
        with suppress(BqstoreError, TypeError, AttributeError):
            heads.append(Head.from_stored(version, body, crc, "meta.db"))
    if not heads:
        raise CorruptionError("the head row of meta.db is damaged, and with it all settings: restore it from a copy")
    return max(heads, key=lambda head: head.seq)


def _flat(folder: Path, layout: Layout, wreck: Wreck) -> FlatWreck | None:
    """The intact records of a file; none if it is another collection's, or its parameters are damaged."""
    head, name = wreck.head, f"{layout.kind}-{wreck.head.generation}.bin"
    try:
        with (folder / name).open("rb") as file:
            fd, size = file.fileno(), (folder / name).stat().st_size
            start, parameters = HEADER_BYTES, NO_PARAMETERS
            first = platform.read_at(fd, HEADER_BYTES, 0)
            try:
                start = header_length(name, first, layout)
                parameters = check_header(name, platform.read_at(fd, start, 0), layout, head.generation, head.store_id)
            except BqstoreError as error:
                wreck.problems.append(f"{name}: {error}")
                if layout.has_parameters or is_sealed(first):
                    return None
            slots, rids = [_NONE], [_NONE]
            step = max(1, _PIECE // layout.record_bytes)
            there = min(head.n_slots, max(0, size - start) // layout.record_bytes)
            for at in range(0, there, step):
                records = np.zeros((min(step, there - at), layout.record_bytes // 4), np.uint32)
                read_all(fd, records, start + at * layout.record_bytes)
                good = ~damaged(records)
                slots.append(at + np.flatnonzero(good))
                rids.append(rids_of(records)[good])
    except OSError as error:
        wreck.problems.append(f"{name}: {error.strerror}")
        return None
    found = FlatWreck(folder / name, layout, start, parameters, np.concatenate(slots), np.concatenate(rids))
    if len(found.slots) < head.n_slots:
        wreck.problems.append(f"{name}: {head.n_slots - len(found.slots):,} of {head.n_slots:,} records are damaged")
    return found


_NONE: Final = np.zeros(0, np.int64)


def _fill(wreck: Wreck, tables: _Tables) -> None:
    """Read rows, tombstones and the ids of rows that are not intact."""
    head = wreck.head
    wreck.dead = {row[0] for row in tables.both_ways("rid, seq", "dead", "rid")}
    wreck.dead |= {row[1] for row in tables.both_ways("seq, rid", "dead", "seq")}
    index = {rid: id_ for id_, rid in tables.both_ways("id, rid", "rows", "id")}
    known = set(index)
    for file in (wreck.vectors, wreck.codes):
        known |= set() if file is None else set(file.rids.tolist())
    _take(wreck, _read(tables, sorted(known - wreck.dead)))
    missing = known - wreck.dead - wreck.rows.keys()
    if missing or not tables.sound:  # there may be newer versions of rows, which a damaged log hides from SQLite
        changed = dict(tables.some("SELECT rid, seq FROM changed"))
        raw = (tuple(row[i] for i in _PLACES) for row in tables.pages.records(len(_RAW)))
        raw = (row for row in raw if type(row[0]) is int and type(row[1]) is int and row[1] >= changed.get(row[0], 0))
        gaps = [file.gaps(head) for file in (wreck.vectors, wreck.codes) if file is not None]
        _take(wreck, (row for row in raw if row[0] in known or _may_be_there(row[0], gaps, head)))
    wreck.ids.update((rid, index[rid]) for rid in index.keys() - wreck.rows.keys() - wreck.dead)
    for rid in wreck.rows:
        wreck.ids.pop(rid, None)
    if len(wreck.rows) + len(wreck.ids) >= head.n_live:  # so these were deleted, and their tombstones are damaged
        wreck.dead |= known - wreck.rows.keys() - wreck.ids.keys()
        missing -= wreck.dead
    wreck.problems.extend(f"row {rid} of meta.db is damaged" for rid in sorted(missing - wreck.rows.keys())[:20])
    left = len(wreck.rows) + len([rid for rid, reason in wreck.lost if rid not in wreck.rows])
    if left != head.n_live:
        wreck.problems.append(f"meta.db: its head row counts {head.n_live:,} documents, there are traces of {left:,}")


def _records(tables: _Tables) -> list[KeyRecord]:
    """The records that match their checksums."""
    found = tables.both_ways(record_table.COLUMNS, "records", "number")
    raw = [] if tables.sound else (row[1:] for row in tables.pages.records(record_table.RAW))
    whole = record_table.newest([*found, *raw])
    if len(whole) < len(found):
        tables.problems.append(f"meta.db: {len(found) - len(whole):,} of {len(found):,} records of index() are damaged")
    return whole


def _may_be_there(rid: int, gaps: list[tuple[NDArray[np.int64], NDArray[np.int64]]], head: Head) -> bool:
    """Whether a row without a record may belong to a damaged record, rather than to a document deleted before."""

    def is_in(before: NDArray[np.int64], after: NDArray[np.int64]) -> bool:
        at = int(np.searchsorted(before, rid)) - 1
        return at >= 0 and rid < int(after[at])

    return 0 <= rid < head.next_rid and all(is_in(*each) for each in gaps)


def _read(tables: _Tables, rids: list[int]) -> Iterator[tuple[Any, ...]]:
    """The rows with these rids; where some cannot be read, each of them alone."""
    for at in range(0, len(rids), AT_ONCE):
        some = rids[at : at + AT_ONCE]
        before = len(tables.problems)
        rows = tables.some(f"SELECT {_READ} FROM rows WHERE rid IN ({','.join('?' * len(some))})", *some)  # noqa: S608
        if len(tables.problems) > before:
            rows = [row for rid in some for row in tables.some(f"SELECT {_READ} FROM rows WHERE rid = ?", rid)]  # noqa: S608
            tables.problems[:] = list(dict.fromkeys(tables.problems))
        yield from rows


def _take(wreck: Wreck, found: Iterator[tuple[Any, ...]]) -> None:
    """Keep the newest version of each row that matches its checksum; of others the id, if that is intact."""
    for *values, keys in found:
        row = tuple(values)
        with suppress(CorruptionError, TypeError, ValueError):
            whole = Row.from_stored(row, "meta.db")
            older = wreck.rows.get(whole.rid)
            if whole.seq <= wreck.head.seq and whole.rid not in wreck.dead and (older is None or older.seq < whole.seq):
                wreck.rows[whole.rid] = whole
            continue
        with suppress(CorruptionError, TypeError, ValueError):
            rid, seq, id_, _, metadata, _, ref, _ = row
            check_keys((rid, seq, id_, ref, metadata, keys), "meta.db")
            if rid not in wreck.dead:
                wreck.ids[rid] = id_
