"""`verify()`: read every byte of a collection and list the problems. Changes nothing, raises nothing for damage."""

import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BqstoreError, CorruptionError
from . import record_table, text_index
from .files import RecordFile
from .flat import FlatFiles
from .format import FORMS, ONE_BIT, damaged, rids_of, vectors_of
from .graph_snapshot import found, load
from .head import Head, Row, damaged_row
from .head_table import check_commits, read_head
from .key_value_tables import problems_of as problems_of_entries
from .key_values import NAME as ENTRIES
from .open_key_values import entries_of
from .row_table import WHOLE
from .snapshot_format import UnusableError
from .text_index import TextIndex

if TYPE_CHECKING:
    from .store import Store

_AT_ONCE = 1024
_SHOWN = 20  # problems of one kind; the others are counted


def files_of(store: "Store") -> FlatFiles:
    """The flat files that are open now, which can be read also after the store has replaced them."""
    flat = FlatFiles(store.folder, read_only=True, entries=store.flat.entries)
    flat.take(store.flat)
    return flat


def problems_of(
    store: "Store", at: tuple[Head, FlatFiles] | None = None, words: bool = False
) -> tuple[list[str], int, int]:
    """Problems, documents read, and vectors read (codes, where originals are not kept), of one commit.

    Parameters
    ----------
    at : head and files of a commit, which this thread's reads must see (`Store.snapshot`); a writer may go on.
        None: the store's last, whose writer is held off
    words : bool            compare the text index with every word, not only with which rows there are
    """
    if at is None:
        with store.consistent():
            return problems_of(store, (store.head, files_of(store)), words)
    problems: list[str] = []
    head, flat = at
    rids, documents = _rows(store, head, problems)
    index = TextIndex.of(head.settings)
    if index is not None:
        with store.connection() as connection:
            problems.extend(text_index.problems_of(connection, index, store.catalogue.name, words))
    if head.settings.get("records"):
        with store.connection() as connection:
            _note(problems, record_table.problems_of(connection, store.catalogue.name))
    vectors = 0
    for file in flat.both():
        try:
            try:
                file.check_header()
            except CorruptionError as error:
                problems.append(f"{file.name}: {error}")  # the records may be intact
            vectors = max(vectors, _records(head, flat, file, rids, problems))
        except (BqstoreError, OSError) as error:
            problems.append(f"{file.name}: {error}")
    problems.extend(_lost_names(store, head, flat))
    with suppress(OSError):  # of the folder
        problems.extend(_snapshots(head, flat))
    try:
        with entries_of(store.folder) as entries:
            problems.extend([] if entries is None else entries.read(problems_of_entries))
    except BqstoreError as error:
        problems.append(f"{ENTRIES}: {error}")
    return problems, documents, vectors


def _lost_names(store: "Store", head: Head, flat: FlatFiles) -> list[str]:
    """Files that are open here, but that the next opening will not find."""
    problems = []
    for file in flat.both():
        try:
            file.check_name()
        except (BqstoreError, OSError) as error:
            problems.append(str(error))
    if problems:
        with store.catalogue.reading() as connection:  # a connection that sees the last commit, unlike this thread's
            last = read_head(connection, store.catalogue.name)
        if last is not None and last.generation != head.generation:  # a compaction has removed them
            problems = []
    try:
        store.catalogue.check_log()
    except BqstoreError as error:
        problems.append(str(error))
    return problems


def _snapshots(head: Head, flat: FlatFiles) -> list[str]:
    """Snapshots that cannot be used. Those of later commits than this reader has seen are skipped."""
    problems = []
    entries = flat.entries
    for seq, name in [] if entries is None else found(entries, head.generation):
        try:
            if seq <= head.seq and entries is not None:
                load(entries, name, head, flat.codes)
        except UnusableError as error:
            derived = "it is derived: answers are not affected, and the next flush() or close() writes a new one"
            problems.append(f"{name} {error}; {derived}")
        except FileNotFoundError:  # replaced by a newer one
            continue
    return problems


def _rows(store: "Store", head: Head, problems: list[str]) -> tuple[set[int], int]:
    """The rids of all rows and tombstones, and the rows read; notes damaged rows, and counts that differ."""
    rids: set[int] = set()
    name, bad, read = store.catalogue.name, [], 0
    try:
        with store.connection() as connection:
            checked = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)")]
            problems.extend(f"{name}: {found}" for found in checked if found != "ok")
            for *values, keys in connection.execute(f"SELECT {WHOLE}, key_crc FROM rows"):  # noqa: S608 - names of our own
                rids.add(values[0])
                read += 1
                try:
                    row = Row.from_stored(tuple(values), name)
                    if keys != row.stored()[-1]:
                        raise damaged_row(row, name)
                except CorruptionError as error:
                    bad.append(str(error))
            dead = {row[0] for row in connection.execute("SELECT rid FROM dead")}
            check_commits(connection, head, name)
    except (BqstoreError, sqlite3.Error) as error:
        problems.append(f"{name}: {error}")
        return rids, read
    _note(problems, bad)
    if read != head.n_live or len(dead) != head.n_slots - head.n_live or rids & dead:
        problems.append(f"{name}: the head row counts {head.n_live:,} rows, there are {read:,}")
    return rids | dead, read


def _records(head: Head, flat: FlatFiles, file: RecordFile, rids: set[int], problems: list[str]) -> int:
    """Verify the records of one file; for one bit by sign and float32 originals, also that codes match vectors."""
    bad: list[str] = []
    seen: list[int] = []
    total = head.n_slots
    for at in range(0, total, _AT_ONCE):
        count = min(_AT_ONCE, total - at)
        records = file.read(at, count)
        for i in np.flatnonzero(damaged(records)):
            bad.append(f"{file.name}: record {at + int(i):,} does not match its checksum")
        seen.extend(rids_of(records).tolist())
        if file is flat.codes and flat.vectors is not None and file.layout.dim and not bad:
            bad.extend(_foreign_codes(flat, at, count))
    if not bad and (set(seen) != rids or seen != sorted(set(seen))):
        bad.append(f"{file.name}: its rids are not those of the rows")
    _note(problems, bad)
    return total


def _foreign_codes(flat: FlatFiles, at: int, count: int) -> list[str]:
    """Codes that are not the signs of their vectors. Lossy originals may have other signs.

    Codes of other forms are computed in floating point: those of another machine may differ in a last bit.
    """
    assert flat.vectors is not None and flat.codes is not None
    if flat.vectors.layout.form != FORMS["float32"] or flat.codes.layout.form != ONE_BIT:
        return []
    signs = vectors_of(flat.vectors.layout, flat.vectors.read(at, count))[:, : flat.codes.layout.dim] > 0
    codes = flat.read_codes(at, count)[1].view(np.uint8)
    bits = np.unpackbits(codes, axis=1, bitorder="little")[:, : signs.shape[1]]
    wrong = np.flatnonzero((bits != signs).any(axis=1))
    return [f"{flat.codes.name}: record {at + int(i):,} is not the code of its vector" for i in wrong]


def _note(problems: list[str], found: list[str]) -> None:
    problems.extend(found[:_SHOWN])
    if len(found) > _SHOWN:
        problems.append(f"... and {len(found) - _SHOWN:,} more like these")
