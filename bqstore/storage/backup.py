"""A copy of a collection, made while others write: the catalogue as of one commit, then the records that it counts.

Records below the committed count never change, and an open file outlives the compaction that replaces it. So the
writers' lock is not taken, and searches and writes go on. Keys and values (`kv.db`) are copied as of the same moment.

A first copy grows in a folder whose name no collection can have, and gets its own name when all of it has been read
back: what a kill leaves is no collection, and the next call goes on with it. An older copy is brought up to date by one
commit, as by a writer, so that at any moment it is the collection at one commit or the other.
"""

import errno
import io
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from ..errors import BqstoreError, CorruptionError, InvalidInputError, LockedError, StorageError
from . import graph_snapshot as snapshots
from . import head_table, platform, record_table, reserve, row_table, text_index
from . import key_value_tables as tables
from .files import DiskFile, RecordFile, make_file, storage_errors, write_all
from .flat import FlatFiles, layouts, size_of
from .format import F32, NO_PARAMETERS, Layout
from .head import Head
from .key_values import NAME as ENTRIES
from .key_values import EntryFile
from .lock import WriterLock
from .open_key_values import entries_of, open_key_values
from .open_store import open_store
from .place import Entries
from .row_table import AT_ONCE
from .snapshot_format import UnusableError
from .sqlite_connection import translate
from .store import Store, SupersededError
from .text_index import TextIndex
from .verify import problems_of

_SHARED: Final = 32 << 10  # bytes of SQLite's shared memory, when what it has copied is read back
_PIECE: Final = 8 << 20  # bytes of records compared and written at a time
_PAGES: Final = 4096  # of the catalogue, between two looks for a Ctrl-C
_LOCK: Final = "BACKUP"  # locked by whoever makes a first copy
_TRIES: Final = 1000
_KEYS: Final = "SELECT rid, seq, key_crc, crc FROM rows ORDER BY rid"  # equal: the same row
_RECORDS: Final = "SELECT number, crc FROM records ORDER BY number"

Report = Callable[[int, int], None]  # records compared or copied, records in all


def back_up(store: Store, folder: Path, incremental: bool, report: Report) -> tuple[Head, int]:
    """Copy a store's last commit into a folder, read all of the copy back, and return the commit and bytes written.

    Parameters
    ----------
    folder : Path           of the copy; missing, or empty, or with ``incremental`` an older copy of the same collection
    incremental : bool      write only what the older copy lacks

    Raises InvalidInputError for a folder that holds something else, LockedError where it is being written,
    StorageError where the copy does not fit, with the bytes that it takes, and CorruptionError where the collection or
    the older copy is damaged. After an error an older copy is as it was.
    """
    with storage_errors(f"back up to {folder}"):
        if store.folder is not None:
            _check_apart(store.folder, folder)
        if folder.exists() and any(folder.iterdir()):
            if not incremental:
                raise InvalidInputError(
                    f"{folder} exists already; bring a copy in it up to date with incremental=True (--incremental), or "
                    "name a folder that does not exist"
                )
            return _update(store, folder, report)
        return _make(store, folder, report)


def unfinished(folder: Path) -> Path:
    """The folder that a first copy grows in."""
    return folder.with_name(f".{folder.name}.partial")


def _check_apart(source: Path, folder: Path) -> None:
    mine, other = source.resolve(), folder.resolve()
    if other == mine or mine in other.parents:
        raise InvalidInputError(f"{folder} is the folder of the collection itself; name another one for the copy")


@contextmanager
def last_commit(store: Store) -> Iterator[tuple[sqlite3.Connection, Head, FlatFiles]]:
    """A connection that stands at the last commit, its head, and files of its own."""
    with store.catalogue.reading() as connection:
        while True:
            if connection.in_transaction:
                connection.rollback()
            connection.execute("BEGIN")
            head = head_table.reread_head(connection, store.catalogue.name, store.head)
            flat = FlatFiles(store.folder, read_only=True, entries=store.flat.entries)
            if store.folder is None:
                flat.take(store.flat)
                break
            with suppress(SupersededError):
                flat.open(head, store._missing)
                break
        try:
            yield connection, head, flat
        finally:
            if connection.in_transaction:
                connection.rollback()


@contextmanager
def last_commits(store: Store) -> Iterator[tuple[sqlite3.Connection, Head, FlatFiles, sqlite3.Connection | None]]:
    """The same, and a connection to the keys and values as they were at that moment; None if there are none.

    Each file has commits of its own. So the keys and values are read first, and their commit must still be the last
    when that of the collection is chosen: a copy never has an entry without the document that was stored before it.
    """
    with entries_of(store.folder) as entries:
        for _ in range(_TRIES):
            with ExitStack() as stack:
                then = None if entries is None else stack.enter_context(entries.standing())
                found = stack.enter_context(last_commit(store))
                if entries is None or then is None or entries.seq() == then[1]:
                    yield *found, None if then is None else then[0]
                    return
    raise LockedError(f"the entries of {store.folder} change all the time; try again")


# ---- the first copy


def _make(store: Store, folder: Path, report: Report) -> tuple[Head, int]:
    """Make a copy where there is none, beginning with what an interrupted call has left of it."""
    growing = unfinished(folder)
    platform.make_folder(growing)
    entries = Entries(growing)
    duty = WriterLock(growing / _LOCK, entries=entries)
    with duty.open() as file:
        duty.wait(file, 0)
        _forget(growing / ENTRIES)
        with ExitStack() as until_read:
            connection, head, flat, pairs = until_read.enter_context(last_commits(store))
            need = _SHARED + _database_bytes(connection) + _flat_bytes(head, flat)
            need += 0 if pairs is None else _SHARED + _database_bytes(pairs)
            with _room_for(growing, need, "the next call goes on with what is there"):
                written = _copy_catalogue(connection, store.catalogue.name, growing / "meta.db")
                if pairs is not None:
                    written += _copy_catalogue(pairs, ENTRIES, growing / ENTRIES)
                until_read.close()
                files = []
                if flat.codes is not None:
                    files = [_target(growing, layout, head, flat.codes.parameters, entries) for layout in layouts(head)]
                    written += _copy_records(flat.both(), files, head.n_slots, 0, report)
                written += _copy_snapshot(store, head, entries, files)
                _read_back(growing, head)
        entries.unlink(_LOCK)
    platform.sync_folder(growing)
    beside = Entries(folder.parent)
    beside.replace(folder.name, by=growing.name)  # an empty folder of that name is replaced
    beside.sync()
    return head, written


@contextmanager
def _room_for(folder: Path, need: int, left: str) -> Iterator[None]:
    """Raise StorageError, which says what a copy takes and what is free, before it is made or when the disk is full.

    ``need``: bytes of all files. Those already in the folder count as part of them.
    """

    def room() -> tuple[int, int]:
        return sum(_allocated(each) for each in folder.iterdir()), platform.free_bytes(folder)

    def words(there: int, free: int) -> str:
        already = f"{there:,} are there already, and " if there > _SHARED else ""
        return (
            f"the copy takes {need:,} bytes; {already}{free:,} are free on the disk of {folder.parent}: make room "
            f"there, or name a folder on another disk; {left}"
        )

    found = room()
    if need > sum(found):
        raise StorageError(errno.ENOSPC, f"the disk is full: {words(*found)}")
    try:
        yield
    except StorageError as error:
        if not reserve.is_full(error):
            raise
        raise StorageError(error.errno, f"{error.strerror}: {words(*room())}") from error


def _allocated(file: Path) -> int:
    """Bytes that a file takes on disk: the space grown ahead of its records is a hole."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return 0
    return min(found.st_size, getattr(found, "st_blocks", 1 << 50) * 512)


def _database_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of a database as its connection sees it."""
    pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return int(pages) * int(size)


def _flat_bytes(head: Head, flat: FlatFiles) -> int:
    return 0 if flat.codes is None else size_of(head, flat.codes.parameters)


def _target(path: Path, layout: Layout, head: Head, parameters: F32, entries: Entries) -> DiskFile:
    """A file of an unfinished copy: the one that an interrupted call has left, if it fits, else a new one."""
    file, parameters = (
        path / f"{layout.kind}-{head.generation}.bin",
        parameters if layout.has_parameters else NO_PARAMETERS,
    )
    with suppress(BqstoreError, OSError):
        found = DiskFile.open(file, layout, head.generation, head.store_id, 0, False, entries)
        if np.array_equal(found.parameters, parameters):
            return found
    return DiskFile.create(file, layout, head.generation, head.store_id, parameters, entries)


def _copy_catalogue(connection: sqlite3.Connection, name: str, path: Path) -> int:
    """Copy the whole catalogue as the connection sees it; bytes written."""
    _forget(path)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as copy:
            copy.execute("PRAGMA synchronous = OFF")  # it is garbage until it is synced, below
            # SQLite goes on with the snapshot of a transaction that is open, whatever others commit
            connection.backup(copy, pages=_PAGES, progress=lambda *_: None)
            copy.execute("PRAGMA journal_mode = WAL")
    except sqlite3.Error as error:
        raise translate(error, f"{name}, or its copy,", path.parent) from error
    fd = os.open(path, os.O_RDWR)
    try:
        platform.sync_file(fd)
    finally:
        os.close(fd)
    return path.stat().st_size


def _forget(path: Path) -> None:
    """Remove a file of SQLite's and its log, which SQLite would take for that of a new file of the same name."""
    for old in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        old.unlink(missing_ok=True)


def _copy_records(
    sources: Sequence[RecordFile], targets: Sequence[DiskFile], n: int, committed: int, report: Report
) -> int:
    """Make the first n records of each target those of its source, durably; bytes written.

    Raises InvalidInputError where a committed record of a target differs, CorruptionError where one of a source is
    damaged.
    """
    written = done = 0
    for source, target in zip(sources, targets, strict=True):
        step = max(1, _PIECE // source.layout.record_bytes)
        for at in range(0, n, step):
            count = min(step, n - at)
            records = source.read_checked(np.arange(at, at + count))
            there = target.read(at, min(count, max(0, target.slots - at)))
            same = (records[: len(there)] == there).all(axis=1)
            first = len(there) if same.all() else int(same.argmin())
            if at + first < min(committed, at + count):
                raise InvalidInputError(
                    f"record {at + first:,} of {target.name} in the older copy is not that of this collection: it is "
                    "damaged, or of another history; make a copy in a new folder"
                )
            if first < count:
                target.write(at + first, records[first:])
                written += (count - first) * source.layout.record_bytes
            done += count
            report(done, n * len(sources))
        target.sync()
    return written


def _copy_snapshot(store: Store, head: Head, entries: Entries, files: Sequence[RecordFile]) -> int:
    """Copy the newest snapshot that the commit may use, if there is room; bytes written.

    It is derived, and makes opening quick.
    """
    source = store.flat.entries
    for seq, name in [] if source is None else snapshots.found(source, head.generation):
        if seq > head.seq or name in entries.names() or not files:
            continue
        with suppress(FileNotFoundError):  # a newer one has replaced it
            assert source is not None
            with os.fdopen(source.open(name, os.O_RDONLY), "rb", buffering=0) as file:
                try:
                    os.close(make_file(entries.path / name, partial(_fill, file), entries))
                except OSError as error:
                    if error.errno not in platform.FULL:
                        raise
                    return 0
            try:
                snapshots.load(entries, name, head, files[-1])
            except UnusableError:
                entries.unlink(name)
                continue
            return (entries.path / name).stat().st_size
    return 0


def _fill(file: io.FileIO, fd: int) -> None:
    """Copy a file from its beginning."""
    at = 0
    while data := file.read(_PIECE):
        write_all(fd, data, at)
        at += len(data)


def _read_back(folder: Path, head: Head) -> None:
    """Open a copy and read all of it. Raises CorruptionError unless it is the commit, and whole."""
    copy = open_store(folder, {}, None, read_only=False)
    try:
        copy.start_writing()
        _check_whole(copy, head)
    finally:
        copy.close()


def _check_whole(copy: Store, head: Head) -> None:
    problems = [] if copy.head == head else [f"{copy.catalogue.name} is not at the commit that was copied"]
    problems += problems_of(copy)[0]
    if problems:
        raise CorruptionError(
            f"the copy in {copy.folder} is not whole ({problems[0]}): the collection is damaged, or the disk of the "
            "copy is failing; verify() tells which, and `bqstore repair` saves what is intact"
        )


# ---- an older copy


def _update(store: Store, folder: Path, report: Report) -> tuple[Head, int]:
    """Bring an older copy up to the last commit, in one commit of its own."""
    try:
        copy = open_store(folder, {}, None, read_only=False)
    except CorruptionError as error:
        raise CorruptionError(f"the older copy in {folder} is damaged, and was left as it is: {error}") from error
    try:
        with last_commits(store) as (connection, head, flat, pairs), ExitStack() as stack:
            old = copy.head
            if old.store_id != head.store_id:
                raise InvalidInputError(f"{folder} holds another collection; name another folder for the copy")
            if old.seq > head.seq or (old.seq == head.seq and old != head):
                raise InvalidInputError(
                    f"{folder} was written since it was copied, or is the newer of the two; name another folder for "
                    "the copy"
                )
            theirs = None if pairs is None else stack.enter_context(closing(open_key_values(folder, read_only=False)))
            if pairs is not None and theirs is not None:
                _check_older(theirs, pairs, folder)
            copy._sweep_flat()  # a generation that a killed call has left, which is no part of the copy
            need = sum(_allocated(each) for each in folder.iterdir()) + _more_bytes(old, head, flat, copy)
            with _room_for(folder, need, "the older copy is whole, and the next call brings it up to date"):
                copy.start_writing()
                written = _follow(copy, connection, head, flat, store.catalogue.name, report)
                if pairs is not None and theirs is not None:  # after the documents that they belong to
                    written += theirs.follow(pairs)
        assert copy.flat.entries is not None  # it is on disk
        written += _copy_snapshot(store, head, copy.flat.entries, copy.flat.both())
        snapshots.sweep(copy.flat.entries, head.generation, 0, head.seq)
        _check_whole(copy, head)
    finally:
        copy.close()
    return head, written


def _more_bytes(old: Head, head: Head, flat: FlatFiles, copy: Store) -> int:
    """Bytes of records that an older copy lacks. Those of a new generation lie beside the old ones until the commit.

    What a killed call has written counts as there.
    """
    goes_on = old.generation == head.generation and copy.codes is not None
    there = sum(_allocated(file.path) for file in _on_disk(copy.flat))
    return max(0, _flat_bytes(head, flat) - (max(there, _flat_bytes(old, copy.flat)) if goes_on else 0))


def _follow(copy: Store, connection: sqlite3.Connection, head: Head, flat: FlatFiles, name: str, report: Report) -> int:
    """Commit in a copy what it lacks of a commit; bytes of records written."""
    old, goes_on = copy.head, copy.flat.generation == head.generation and copy.codes is not None
    if old == head:
        return _copy_records(flat.both(), _on_disk(copy.flat), head.n_slots, head.n_slots, report)
    fresh = FlatFiles(copy.folder, read_only=False, entries=copy.flat.entries)
    try:
        with copy._commit(head) as target:
            _copy_rows(connection, target, name, TextIndex.of(old.settings), TextIndex.of(head.settings))
            if old.settings.get("records") and not head.settings.get("records"):
                record_table.drop(target)  # the source was restored from a copy that is older than its first record
            target.execute(f"PRAGMA user_version = {head_table.tables_version(head.settings)}")
            if head.settings.get("records"):
                differing = _differing(connection.execute(_RECORDS), target.execute(_RECORDS))
                record_table.copy_numbered(connection, target, *differing, name)
            connection.rollback()  # from here on SQLite may empty its log
            if goes_on:
                fresh.take(copy.flat)
            elif flat.codes is not None:
                fresh.create(replace(head, n_slots=0, n_live=0), flat.codes.parameters)
            kept = old.n_slots if goes_on else 0
            return _copy_records(flat.both(), _on_disk(fresh), head.n_slots, kept, report)
    finally:
        copy.reread()
        copy._sweep()


def _check_older(copy: EntryFile, source: sqlite3.Connection, folder: Path) -> None:
    """Raise InvalidInputError unless the entries of a copy are of an earlier commit than the source, or the same."""
    old, new = copy.read(tables.reread_about), tables.reread_about(source, ENTRIES)
    if old.id == new.id and (old.seq > new.seq or (old.seq == new.seq and old != new)):
        raise InvalidInputError(
            f"{folder / ENTRIES} was written since it was copied, or is the newer of the two; name another folder for "
            "the copy"
        )


def _on_disk(flat: FlatFiles) -> list[DiskFile]:
    return cast(list[DiskFile], flat.both())


def _copy_rows(
    source: sqlite3.Connection, target: sqlite3.Connection, name: str, old: TextIndex | None, new: TextIndex | None
) -> None:
    """Make rows, tombstones and text index of the target those of the source; rows that are the same already stay."""
    wanted, doomed = _differing(source.execute(_KEYS), target.execute(_KEYS))
    if new != old:
        text_index.drop(target, head_table.TABLES_VERSION)  # the version that counts comes behind it
    elif old:
        old.forget(target, [*doomed, *wanted])
    target.executemany("DELETE FROM rows WHERE rid = ?", ((rid,) for rid in [*doomed, *wanted]))
    for at in range(0, len(wanted), AT_ONCE):
        row_table.insert_rows(target, row_table.read_rows(source, "rid", wanted[at : at + AT_ONCE], name))
    if new and new == old:
        new.take(target, wanted)
    elif new:
        new.create(target)
        new.take_since(target, 0)
    for table in ("dead", "changed"):
        pairs = source.execute(f"SELECT rid, seq FROM {table}").fetchall()  # noqa: S608 - names of our own
        if pairs != target.execute(f"SELECT rid, seq FROM {table}").fetchall():  # noqa: S608
            row_table.empty(target, table)
            target.executemany(f"INSERT INTO {table} VALUES (?, ?)", pairs)  # noqa: S608


def _differing(mine: Iterator[Any], theirs: Iterator[Any]) -> tuple[list[int], list[int]]:
    """The numbers of rows that the copy lacks or has in another version, and of those that only it has, ascending."""
    wanted, doomed, end = [], [], (1 << 63,)  # greater than any rid
    a, b = next(mine, end), next(theirs, end)
    while (rid := min(a[0], b[0])) != end[0]:
        if rid != a[0]:
            doomed.append(rid)
        elif a != b:
            wanted.append(rid)
        a, b = next(mine, end) if a[0] == rid else a, next(theirs, end) if b[0] == rid else b
    return wanted, doomed
