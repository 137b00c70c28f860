"""Open a folder as a `Store`: everything is checked before anything is changed.

A folder without catalogue and flat files is new. One with flat files but no head row is damaged, even if SQLite opens
its meta.db: cut at the right byte, that is a valid, empty database. Which settings win is not decided here.
"""

import io
import os
import secrets
import sqlite3
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from ..errors import RESTORE, CorruptionError, NotFoundError
from . import head_table, platform, reserve
from .catalogue import Catalogue
from .files import make_file, storage_errors, write_all
from .flat import flat_files
from .head import Head, as_stored
from .hosts import claim
from .lock import WriterLock, end_with_the_parent, unlock_and_close
from .place import Place
from .store import Store, SupersededError

# a database without tables, of one page, in WAL mode and prepared as in `space.prepare`
_EMPTY: Final = b"".join(
    [
        b"SQLite format 3\0",
        bytes.fromhex("1000 0202 0040 2020 00000001 00000001"),  # 4,096 bytes a page, WAL, first change, one page
        bytes(20) + bytes.fromhex("00000001") + bytes(8) + bytes.fromhex("00000001"),  # auto_vacuum = INCREMENTAL
        bytes(24) + bytes.fromhex("00000001 002e6301"),  # the pages were counted at the first change
        bytes.fromhex("0d 0000 0000 1000 00").ljust(4096 - 100, b"\0"),  # a leaf with nothing on it
    ]
)
_SMALL: Final = 8 << 20  # bytes of a catalogue whose rows are looked through at opening, in a few milliseconds


def open_store(
    folder: Path | None,
    settings: dict[str, Any],
    dim: int | None,
    read_only: bool,
    exclusive: bool = True,
    lock_timeout: float = 0.0,
    mode: int = 0o700,
) -> Store:
    """Open the collection in a folder (None: in memory), or create it with the settings if there is none.

    An existing collection is not changed before `Store.start_writing`, which the caller calls under the lock when it
    has found no damage.

    Parameters
    ----------
    exclusive : bool        hold the lock until `Store.close`
    lock_timeout : float    seconds to wait for it, here and before each write
    mode : int              of folders that are made; see `Entries` for that of files

    Raises NotFoundError, LockedError, CorruptionError, FormatVersionError, StorageError.
    """
    if folder is None:
        store = Store(Catalogue(None), _new_head(settings, dim))
        store.catalogue.create(store.head)
        return store
    with storage_errors(f"open {folder}"), ExitStack() as at_failure:
        if read_only:
            _check_there(folder)
        else:
            platform.make_folder(folder, mode)
        place = Place(folder)  # before anything in it is opened, as another folder may come to this path at any moment
        at_failure.callback(place.close)
        if read_only:
            store = _open_files(place, None, None)
        else:
            lock = WriterLock(folder / "LOCK", "SEQ", place)
            file = at_failure.enter_context(lock.open())
            lock.wait(file, lock_timeout, whole=exclusive)
            host = claim(place)
            if host is not None:
                end_with_the_parent(at_failure.enter_context(host))
            held = file if exclusive else None
            store = reserve.with_it(
                place, lambda: _open_files(place, settings, dim, lock, held, lock_timeout), sparing=True
            )
            if host is not None:
                store.hold(host)
            if not exclusive:
                unlock_and_close(file)
        at_failure.pop_all()
        store.use()
        return store


def _new_head(settings: dict[str, Any], dim: int | None) -> Head:
    return Head(store_id=secrets.randbits(62), dim=dim, settings=as_stored(settings))


def _check_there(folder: Path) -> None:
    """Raise NotFoundError unless there is a collection to read."""
    if not flat_files(folder) and (not (folder / "meta.db").exists() or _is_unfinished(folder)):
        raise NotFoundError(f"there is no collection in {folder}; open it once without read_only=True to create it")


def _open_files(
    place: Place,
    settings: dict[str, Any] | None,
    dim: int | None,
    lock: WriterLock | None = None,
    held: io.FileIO | None = None,
    lock_timeout: float = 0.0,
) -> Store:
    """Open and check what is there; once more if another process has committed a new generation meanwhile."""
    while True:
        with suppress(SupersededError):
            return _open_once(place, settings, dim, lock, held, lock_timeout)


def _open_once(
    place: Place,
    settings: dict[str, Any] | None,
    dim: int | None,
    lock: WriterLock | None,
    held: io.FileIO | None,
    lock_timeout: float,
) -> Store:
    folder = place.path
    read_only = lock is None
    meta = folder / "meta.db"
    if not meta.exists() and flat_files(folder):
        raise CorruptionError(f"{folder} holds vectors but no meta.db; restore it from a copy")
    if not read_only and not meta.exists():
        # Made with the folder's mode, which SQLite's log inherits, and with a first page: beside an empty file SQLite
        # removes the log that it finds by path, where another store may stand by now.
        place.check()  # it may have been renamed since
        os.close(make_file(meta, lambda fd: write_all(fd, _EMPTY, 0), place))
    catalogue = Catalogue(meta, not read_only and _is_unfinished(folder), read_only)
    catalogue.check_place = place.check
    try:
        with catalogue.translated():
            head = head_table.read_head(catalogue.main(), meta.name)
        if head is None:
            place.check()
            if flat_files(folder):
                raise CorruptionError(f"{meta} has lost its head row; restore the collection from a copy")
            if settings is None:
                raise NotFoundError(f"there is no collection in {folder} yet")
            head = _new_head(settings, dim)
            place.check()  # else it would be made in a folder that another process has locked
            catalogue.start_writing()  # under the lock
            catalogue.create(head)
            platform.sync_folder(folder)
        place.check()  # what SQLite has opened by its path is in the folder that was opened
        if not read_only:
            place.watch(meta.name)
        store = Store(catalogue, head, lock, held, lock_timeout, place)
        _check_counts(store)
        store.open_files()
    except BaseException:
        catalogue.close()
        raise
    return store


def _check_counts(store: Store) -> None:
    """Compare the tables with the head row: a catalogue that lost pages must not look like a smaller collection."""
    main = store.catalogue.main()
    with store.consistent(), store.catalogue.translated():
        head = head_table.read_head(main, store.catalogue.name)
        rows, last = main.execute("SELECT count(*), max(rid) FROM rows").fetchone()
        dead = main.execute("SELECT count(*) FROM dead").fetchone()[0]
        both = main.execute("SELECT count(*) FROM dead JOIN rows USING (rid)").fetchone()[0]
        if head is not None and sum(store.catalogue.bytes()) <= _SMALL:
            try:
                head_table.check_commits(main, head, store.catalogue.name)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:  # a damaged page of rows: reported when it is read; others can be read
                pass
    if (
        head is None
        or both
        or (rows, dead) != (head.n_live, head.n_slots - head.n_live)
        or (last is not None and last >= head.next_rid)
    ):
        raise CorruptionError(
            f"{store.catalogue.name} holds {rows:,} rows and {dead:,} tombstones, its head row says otherwise; "
            f"{RESTORE}"
        )
    store.head = head


def _is_unfinished(folder: Path) -> bool:
    """Whether creating meta.db was interrupted: before it is in WAL mode, there is a rollback journal beside it."""
    return (folder / "meta.db-journal").exists() and not flat_files(folder)
