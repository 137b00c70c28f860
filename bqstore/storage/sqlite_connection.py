"""One connection to SQLite as this package opens it, and SQLite's errors as those of bqstore."""

import errno
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..errors import RESTORE, RESTORE_ENTRIES, BqstoreError, ClosedError, CorruptionError, LockedError, StorageError
from . import platform, space

_DAMAGE: Final = ("malformed", "not a database", "no such table", "no such column", "unsupported file format")
# of a write or of making a file; not of a read, which a full disk does not refuse
_MAY_WANT_ROOM: Final = (
    "SQLITE_CANTOPEN",
    *(f"SQLITE_IOERR_{what}" for what in ("WRITE", "TRUNCATE", "FSYNC", "DIR_FSYNC", "CLOSE", "SHMSIZE", "SHMOPEN")),
)


def connect(path: Path | None, mode: str, immutable: bool) -> sqlite3.Connection:
    """A connection; ``mode`` as in SQLite's URIs. None is a database in memory."""
    target = ":memory:"
    if path is not None:
        target = f"{path.as_uri()}?mode={mode}{'&immutable=1' if immutable else ''}"
    connection = sqlite3.connect(
        target,
        uri=path is not None,
        isolation_level=None,
        check_same_thread=False,
        timeout=space.BUSY_MS / 1000,
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA mmap_size = 0")  # a file that is cut under a map ends the process
    if mode == "ro":
        connection.execute("PRAGMA query_only = ON")
    if sys.version_info >= (3, 12):  # earlier ones cannot say so; the schema is compared with ours anyway
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
        for allowed in (sqlite3.SQLITE_DBCONFIG_ENABLE_TRIGGER, sqlite3.SQLITE_DBCONFIG_ENABLE_VIEW):
            connection.setconfig(allowed, False)
    if mode != "ro":
        space.prepare(connection)
    return connection


def let_write(connection: sqlite3.Connection, log: Path, check_place: Callable[[], None]) -> None:
    """Prepare a connection that will commit.

    SQLite opens the log by its path, at the first statement that reads. If another folder stood there by then, its log
    would be copied into this file and then count as copied: ``check_place`` raises before that.
    """
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    check_place()
    connection.execute(f"PRAGMA journal_size_limit = {space.LOG_KEPT}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # macOS: through the drive's cache
    # After a failed sync the log may be in the page cache only; a checkpoint writes and syncs its contents.
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    except sqlite3.OperationalError as error:
        if want_of_room(error, log.parent) is None:
            raise
        space.write_again(log)


def want_of_room(error: sqlite3.Error, folder: Path | None) -> OSError | None:
    """The system's error if SQLite's comes of a full disk or quota; SQLite itself names only a full disk.

    ``folder``: where SQLite was writing.
    """
    name = getattr(error, "sqlite_errorname", None)  # from Python 3.11 on
    full = "is full" in str(error)
    want = None
    if folder is not None and (full or (_may_want_room(str(error)) and name in (None, *_MAY_WANT_ROOM))):
        want = platform.want_of_room(folder)
    if want is None and (full or name == "SQLITE_IOERR_SHMSIZE"):
        want = OSError(errno.ENOSPC, str(error) if full else "the disk is full")
    return want


def _may_want_room(text: str) -> bool:
    return "disk I/O error" in text or "unable to open" in text


def _has_odd_header(path: Path) -> bool:
    """Whether the first page requires another version of SQLite to write the file."""
    try:
        with path.open("rb") as file:
            return any(version not in (1, 2) for version in file.read(20)[18:])
    except OSError:
        return False


def translate(error: sqlite3.Error, name: str, folder: Path | None = None) -> BqstoreError:
    """The BqstoreError for an SQLite error; ``folder``: where SQLite was writing."""
    text = str(error)
    restore = RESTORE if name == "meta.db" else RESTORE_ENTRIES
    if "UTF-8" in text:  # SQLite's message quotes the text
        return CorruptionError(f"{name} holds text that is not UTF-8; {restore}")
    if "unable to open" in text and (want := platform.want_of_descriptors()):
        words = f"cannot open {name}: {platform.reason(want)}; nothing of this call was acknowledged"
        return StorageError(want.errno, words)
    if want := want_of_room(error, folder):
        words = f"{name}: {platform.reason(want)}"
        if getattr(error, "sqlite_errorname", None) == "SQLITE_IOERR_SHMSIZE":
            words += f": SQLite's file {name}-shm takes 32 KiB"
        return StorageError(want.errno, f"{words}; nothing of this call was acknowledged")
    if any(words in text for words in _DAMAGE) or ("readonly" in text and folder and _has_odd_header(folder / name)):
        return CorruptionError(f"{name} is damaged ({text}); {restore}")
    if "readonly" in text:
        return StorageError(f"{name} has a writer, and following a writer needs permission to write in its folder")
    if "locking protocol" in text:  # as when a lock could not be given back: this connection gets no lock any more
        return StorageError(f"{name}: {text}; close the collection and open it again")
    if "locked" in text:
        return LockedError(f"{name} is locked by another program; close it there")
    if "closed database" in text:
        return ClosedError("this collection is closed; open it again")
    if isinstance(error, (sqlite3.OperationalError, sqlite3.DataError)):
        return StorageError(f"{name}: {text}; nothing of this call was acknowledged")
    return CorruptionError(f"{name} cannot be read ({type(error).__name__}: {text}); {restore}")


def was_not_written(error: sqlite3.Error) -> bool:
    """Whether a COMMIT failed before its last page, the one that commits, was written; false if a sync failed."""
    name = getattr(error, "sqlite_errorname", None)  # from Python 3.11 on
    return name == "SQLITE_IOERR_WRITE" or "is full" in str(error)  # of a quota SQLite says the first
