"""From a folder to a `Store`: everything is checked before anything is changed.

A folder without a catalogue and without flat files is new. One that has flat files and no head row has lost it: a
meta.db cut at the right byte opens as a valid, empty database. Knows the store; decides nothing about settings.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import BqstoreError, CorruptionError, NotFoundError, StorageError
from . import catalogue as sql
from . import platform
from .catalogue import Catalogue
from .flat import flat_files
from .head import Head, as_stored
from .lock import WriterLock
from .store import Store, SupersededError


def open_store(folder: Path | None, settings: dict[str, Any], dim: int | None, read_only: bool) -> Store:
    """Open the collection in a folder (None: in memory), or make it with the settings if there is none.

    Of one that exists nothing is changed before `Store.start_writing`: the caller calls it when no damage was found.

    Raises NotFoundError, LockedError, CorruptionError, FormatVersionError, StorageError.
    """
    if folder is None:
        store = Store(None, Catalogue(None), _new_head(settings, dim), None)
        store.catalogue.create(store.head)
        return store
    try:
        return _open_folder(folder, settings, dim, read_only)
    except BqstoreError:
        raise
    except OSError as error:
        raise StorageError(error.errno, f"cannot open {folder}: {error.strerror}") from error


def _new_head(settings: dict[str, Any], dim: int | None) -> Head:
    return Head(store_id=secrets.randbits(62), dim=dim, settings=as_stored(settings))


def _open_folder(folder: Path, settings: dict[str, Any], dim: int | None, read_only: bool) -> Store:
    if read_only:
        if not flat_files(folder) and (not (folder / "meta.db").exists() or _is_unfinished(folder)):
            raise NotFoundError(f"there is no collection in {folder}; open it once without read_only=True to make it")
        while True:
            with suppress(SupersededError):
                return _open_files(folder, None, None, None)
    platform.make_folder(folder)
    lock = WriterLock(folder / "LOCK")
    try:
        return _open_files(folder, settings, dim, lock)
    except BaseException:
        lock.release()
        raise


def _open_files(folder: Path, settings: dict[str, Any] | None, dim: int | None, lock: WriterLock | None) -> Store:
    read_only = lock is None
    meta = folder / "meta.db"
    if not meta.exists() and flat_files(folder):
        raise CorruptionError(f"{folder} holds vectors but no meta.db; restore it from a copy")
    if not read_only and not meta.exists():
        # SQLite gives its log the mode of the file. One that exists is never opened: closing it again would drop
        # the locks of any connection of this process.
        os.close(os.open(meta, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    catalogue = Catalogue(meta, not read_only and _is_unfinished(folder))
    try:
        with catalogue.translated():
            head = sql.read_head(catalogue.main(), meta.name)
        if head is None:
            if flat_files(folder):
                raise CorruptionError(f"{meta} has lost its head row; restore the collection from a copy")
            if settings is None:
                raise NotFoundError(f"there is no collection in {folder} yet")
            head = _new_head(settings, dim)
            catalogue.start_writing()
            catalogue.create(head)
            platform.sync_folder(folder)
        store = Store(folder, catalogue, head, lock)
        _check_counts(store)
        store.open_files()
    except BaseException:
        catalogue.close()
        raise
    return store


def _check_counts(store: Store) -> None:
    """The head row against the tables: a catalogue that lost pages must not pass for a smaller collection."""
    main = store.catalogue.main()
    with store.consistent():
        head = sql.read_head(main, store.catalogue.name)
        rows, last = main.execute("SELECT count(*), max(rid) FROM rows").fetchone()
        dead = main.execute("SELECT count(*) FROM dead").fetchone()[0]
        both = main.execute("SELECT count(*) FROM dead JOIN rows USING (rid)").fetchone()[0]
    if (
        head is None
        or both
        or (rows, dead) != (head.n_live, head.n_slots - head.n_live)
        or (last is not None and last >= head.next_rid)
    ):
        raise CorruptionError(
            f"{store.catalogue.name} holds {rows:,} rows and {dead:,} deleted ones, its head row says otherwise; "
            "restore the collection from a copy"
        )
    store.head = head


def _is_unfinished(folder: Path) -> bool:
    """Whether the making of meta.db was interrupted: before it is in WAL mode, it has a journal beside it."""
    return (folder / "meta.db-journal").exists() and not flat_files(folder)
