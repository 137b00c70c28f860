"""The SQLite catalogue, `meta.db`: head row, rows and tombstones. The commit point of a store is a commit here.

One connection of a process writes and checkpoints, and under the writers' lock alone: two that do so at once are
exposed to the WAL-reset race of SQLite up to 3.51.2. The others are read-only (`mode=ro`) and do neither. In memory
there is one connection, behind a lock. Knows no vectors.
"""

import errno
import os
import sqlite3
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ..errors import BqstoreError, ClosedError, CorruptionError, LockedError, StorageError
from . import platform, space, text_index
from .format import newer_format
from .head import Head, Row, check_keys
from .text_index import TextIndex

APPLICATION_ID: Final = 0x42515354  # "BQST"
TABLES_VERSION: Final = 1  # in `user_version`; the format version of a collection is in its head row
_SCHEMA: Final = """
CREATE TABLE head (
    one INTEGER PRIMARY KEY CHECK (one = 1), format INTEGER NOT NULL, body TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE rows (
    rid INTEGER PRIMARY KEY, seq INTEGER NOT NULL, id TEXT NOT NULL UNIQUE, ref_doc_id TEXT, metadata TEXT NOT NULL,
    key_crc INTEGER NOT NULL, text TEXT, private TEXT, crc INTEGER NOT NULL);
CREATE INDEX rows_by_ref_doc_id ON rows (ref_doc_id) WHERE ref_doc_id IS NOT NULL;
CREATE TABLE dead (rid INTEGER PRIMARY KEY, seq INTEGER NOT NULL);
CREATE INDEX dead_by_seq ON dead (seq);
CREATE TABLE changed (rid INTEGER PRIMARY KEY, seq INTEGER NOT NULL);
CREATE INDEX changed_by_seq ON changed (seq);
"""
_STATEMENTS: Final = [statement.strip() for statement in _SCHEMA.split(";")[:-1]]
_UNREADABLE_LOG: Final = (
    "{0} cannot be written, and its meta.db was not closed: commits are in its -wal file, and SQLite cannot read them "
    "without a -shm file beside it; open the collection once where it can be written, or a copy of the folder there"
)
_LOG_GONE: Final = "{0} cannot be written, and its writer has closed it; close the collection and open it again"
AT_ONCE: Final = 500  # parameters of one statement; older SQLite takes 999
_PORTION, _PORTION_LENGTH = 4096, 8 << 20  # rows, and characters, of a column in memory at a time
WHOLE: Final = "rid, seq, id, text, metadata, private, ref_doc_id, crc"  # the order of `Row.from_stored`
KEYS: Final = ("rid", "seq", "id", "ref_doc_id", "metadata", "key_crc")  # the order of `check_keys`
_INSERT: Final = f"INTO rows ({WHOLE}, key_crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_OTHER_COMMITS: Final = """
SELECT EXISTS (SELECT 1 FROM rows NOT INDEXED WHERE seq > :seq)
    OR EXISTS (SELECT 1 FROM dead NOT INDEXED WHERE seq > :seq)
    OR EXISTS (SELECT 1 FROM changed WHERE seq > :meta_seq)
    OR EXISTS (SELECT 1 FROM changed CROSS JOIN rows USING (rid) WHERE changed.seq <> rows.seq)
"""


def translate(error: sqlite3.Error, name: str) -> BqstoreError:
    """The BqstoreError for an SQLite error."""
    text = str(error)
    if "UTF-8" in text:  # SQLite's message quotes the text
        return CorruptionError(f"{name} holds text that is not UTF-8; restore it from a copy")
    if "is full" in text:
        return StorageError(errno.ENOSPC, f"{name}: {text}; nothing of this call was acknowledged")
    if "malformed" in text or "not a database" in text or "no such table" in text or "no such column" in text:
        return CorruptionError(f"{name} is damaged ({text}); restore the collection from a copy")
    if "readonly" in text:
        return StorageError(f"{name} has a writer, and following a writer needs permission to write in its folder")
    if "locking protocol" in text:  # a lock that could not be given back, say: this connection gets none any more
        return StorageError(f"{name}: {text}; close the collection and open it again")
    if "locked" in text:
        return LockedError(f"{name} is locked by another program; close it there")
    if "closed database" in text:
        return ClosedError("this collection is closed; open it again")
    if isinstance(error, (sqlite3.OperationalError, sqlite3.DataError)):
        return StorageError(f"{name}: {text}; nothing of this call was acknowledged")
    return CorruptionError(f"{name} cannot be read ({type(error).__name__}: {text}); restore it from a copy")


class _Using:
    """For forks to know that a connection is in use. A class, as each search passes here."""

    __slots__ = ("_those",)

    def __init__(self, those: "set[_Using]") -> None:
        self._those = those

    def __enter__(self) -> None:
        self._those.add(self)

    def __exit__(self, *exception: object) -> None:
        self._those.discard(self)


class Catalogue:
    """The connections to one `meta.db`.

    Parameters
    ----------
    path : Path or None         None keeps everything in memory
    unfinished : bool           creating it was interrupted, and SQLite must roll that back
    read_only : bool            it will never be written here

    An existing file is opened read-only until `start_writing`. A writing connection may change the file without a
    commit (closing it checkpoints the write-ahead log), and a damaged collection must stay as it is.
    """

    def __init__(self, path: Path | None, unfinished: bool = False, read_only: bool = False) -> None:
        self._path = path
        self._log = Path() if path is None else path.with_name(f"{path.name}-wal")
        self.name = "the catalogue in memory" if path is None else path.name
        self._memory = threading.RLock() if path is None else None
        self._idle: list[sqlite3.Connection] = []
        self._in_use: set[_Using] = set()  # by the threads of this process, now
        self._guard = -1  # in a fork: a descriptor whose lock keeps SQLite from tidying up; open until its end
        self._torn = False  # in a fork: a thread that it does not have was using a connection
        self._closed = False
        self._writes = False
        self._owner = object()  # of the transaction on the main connection
        self._frozen: tuple[object, ...] | None = None  # what tells a change of the file that was opened as immutable
        self.store_id: int | None = None  # once known, every new connection must find it
        self.in_doubt = False  # True from the start of a COMMIT until it has succeeded
        self.check_place: Callable[[], None] = lambda: None  # raises if the file is not the one that was opened
        if path is not None:
            _close_inherited(path)
        _all.add(self)
        mode = "ro" if path is not None and path.exists() and not unfinished else "rwc"
        if mode == "ro" and not _size(self._log) and not self._can_write():
            self._frozen = self._stamp()  # a read-only medium: SQLite cannot make its files, and needs none
        with self.translated():
            try:
                self._main = self._probed(mode)
            except sqlite3.OperationalError:
                if not read_only or self._frozen is not None or _size(self._log):
                    raise
                self._frozen = self._stamp()  # a full disk
                self._main = self._probed(mode)

    def _probed(self, mode: str) -> sqlite3.Connection:
        connection = self._connect(mode)
        connection.execute("PRAGMA user_version").fetchone()  # SQLite opens a file when it first reads it
        return connection

    def start_writing(self) -> None:
        """Make the main connection a writing one."""
        if self._path is None or self._writes:
            return
        with self.translated():
            if self._frozen is None:
                self._idle.append(self._main)
            self._frozen = None
            self._main = self._connect("rw")  # it is there: never a new one in a folder that has come in its place
            self._main.execute("PRAGMA journal_mode = WAL")
            self._main.execute(f"PRAGMA journal_size_limit = {space.LOG_KEPT}")
            self._main.execute("PRAGMA synchronous = FULL")
            self._main.execute("PRAGMA fullfsync = ON")  # macOS: through the drive's cache
            # After a failed sync the log may be in the page cache only; a checkpoint writes and syncs its contents.
            try:
                self._main.execute("PRAGMA wal_checkpoint(PASSIVE)")
            except sqlite3.OperationalError as error:
                if "is full" not in str(error):
                    raise
                space.write_again(self._log)
        self._writes = True

    def _connect(self, mode: str) -> sqlite3.Connection:
        target = ":memory:"
        if self._path is not None:
            target = f"{self._path.as_uri()}?mode={mode}{'' if self._frozen is None else '&immutable=1'}"
        connection = sqlite3.connect(
            target,
            uri=self._path is not None,
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

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn SQLite's errors into BqstoreErrors. For statements of our own alone: not around a user's function."""
        try:
            yield
        except (sqlite3.Error, CorruptionError) as error:
            self.check_place()
            self._check_frozen()
            if isinstance(error, CorruptionError):
                raise
            if "unable to open" in str(error) and not self._can_write():
                words = _UNREADABLE_LOG if _size(self._log) else _LOG_GONE
                raise StorageError(words.format(self._path and self._path.parent)) from error
            raise translate(error, self.name) from error
        except UnicodeDecodeError as error:  # a text column that is not UTF-8
            raise CorruptionError(f"{self.name} holds text that is not UTF-8; restore it from a copy") from error

    @contextmanager
    def using_main(self) -> Iterator[sqlite3.Connection]:
        """The main connection, outside of a transaction."""
        with _Using(self._in_use), self.translated():
            yield self._main

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A read-only connection. Each statement sees the last commit; after ``BEGIN`` all see the same one."""
        if self._closed:
            raise ClosedError("this collection is closed; open it again")
        with _Using(self._in_use), self.translated():
            if self._memory is not None:
                with self._memory:
                    yield self._main
                return
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._another()
            keep = False
            try:
                yield connection
                if connection.in_transaction:
                    connection.rollback()
                keep = not self._closed
            finally:
                if keep:
                    self._idle.append(connection)
                else:  # also after an exception: an interrupted thread may still use it
                    connection.close()

    def _another(self) -> sqlite3.Connection:
        """A new read-only connection; CorruptionError if the folder now holds another collection."""
        connection = self._connect("ro")
        found = self.read_id(connection)
        if self.store_id is not None and found != self.store_id:
            connection.close()
            self.check_place()
            raise CorruptionError(f"{self._path} was replaced while open; close the collection and open it again")
        return connection

    def read_id(self, connection: sqlite3.Connection) -> int | None:
        """The random number of this file; None if there are no tables yet."""
        head = read_head(connection, self.name)
        return None if head is None else head.store_id

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The main connection in a transaction: committed on leaving, rolled back on any exception."""
        if self._closed:
            raise ClosedError("this collection is closed; open it again")
        with self._transaction("BEGIN IMMEDIATE"), self.translated():
            self.in_doubt = False
            yield self._main
            self.in_doubt = True
            try:
                self._main.execute("COMMIT")
            except sqlite3.Error as error:
                self.in_doubt = not _was_not_written(error)
                raise
            self.in_doubt = False

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reads through `main` see one commit. In memory, other threads wait."""
        with self._transaction("BEGIN"):
            yield

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        """Rolled back on leaving unless committed. A transaction that an interrupt has left open is ended first."""
        with self._memory or nullcontext(), _Using(self._in_use):
            mine = self._owner = object()  # an interrupted one that is collected late must not end a newer one
            try:
                with self.translated():
                    if self._main.in_transaction:
                        self._main.execute("ROLLBACK")
                    self._main.execute(begin)
                yield
            finally:
                with self.translated():
                    if self._owner is mine and self._main.in_transaction:
                        self._main.execute("ROLLBACK")

    def create(self, head: Head) -> None:
        """Create the tables and the first head row, in one commit."""
        with self.writing() as connection:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {TABLES_VERSION}")
            for statement in _STATEMENTS:
                connection.execute(statement)
            index = TextIndex.of(head.settings)
            if index is not None:
                index.create(connection)
            write_head(connection, head)

    def end_interrupted(self) -> None:
        """End a transaction that an interrupt has left open: it would hide what others have committed since."""
        with self._memory or nullcontext(), _Using(self._in_use), self.translated():
            if self._main.in_transaction:
                self._main.execute("ROLLBACK")

    def data_version(self) -> int:
        """A number that changes when another connection has committed; 3 us.

        Raises StorageError where the file was opened as one that cannot change, and has.
        """
        with _Using(self._in_use), self.translated():
            self._check_frozen()
            return int(self._main.execute("PRAGMA data_version").fetchone()[0])

    def _can_write(self) -> bool:
        """Whether SQLite may make its files beside this one."""
        return self._path is None or os.access(self._path.parent, os.W_OK)

    def _stamp(self) -> tuple[object, ...]:
        """What changes when a file that was opened as immutable gets a writer after all."""
        assert self._path is not None
        try:
            found = self._path.stat()
        except OSError as error:
            raise StorageError(error.errno, f"{self._path} cannot be read any more: {error.strerror}") from error
        return found.st_ino, found.st_size, found.st_mtime_ns, _size(self._log) > 0

    def _check_frozen(self) -> None:
        """Raise StorageError if a file that was opened as immutable has changed: SQLite would mix old and new pages."""
        if self._frozen is not None and self._frozen != self._stamp():
            raise StorageError(
                f"{self._path} has been written since it was opened where it cannot be written, as on a read-only "
                "medium: close the collection and open it again"
            )

    def main(self) -> sqlite3.Connection:
        """The main connection: the writer's, or the one whose `data_version` a reader watches."""
        return self._main

    def checkpoint(self) -> bool:
        """Copy the write-ahead log into the file and empty it, as far as readers allow; whether nothing is left."""
        if self._path is None:
            return True
        with self.using_main() as main:
            return space.checkpoint(main)

    def erase(self) -> None:
        """Write the file anew, and empty the log: what was deleted is in neither then.

        PRAGMA secure_delete is not enough: where SQLite moves a row to another page, the old one keeps its bytes, and
        nothing overwrites them when the row is deleted.
        """
        if self._path is not None:
            with self.using_main() as main:
                main.execute("VACUUM")
        self.checkpoint()

    def use_log_again(self) -> None:
        """Let the next commit write from the beginning of the log, as far as its readers and the disk allow."""
        with suppress(BqstoreError), self.using_main() as main:
            main.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def give_back(self) -> None:
        """Shrink the file by the pages that nothing uses."""
        with self._memory or nullcontext(), self.using_main() as main:
            given = space.give_back(main)
        if given:
            self.checkpoint()

    def bytes(self) -> tuple[int, int]:
        """Bytes of the file and of its log; 0 in memory."""
        return (0, 0) if self._path is None else (_size(self._path), _size(self._log))

    def limit_log(self) -> None:
        """Empty a log that a large commit has left; SQLite itself does so only at the commit after the next."""
        if self._path is not None and _size(self._log) > space.LOG_LARGE:
            with suppress(BqstoreError):  # what it holds is durable, and goes on being read from there
                self.checkpoint()

    def _keep_from_tidying(self) -> None:
        """In a fork: let the end of the inherited connection leave the log alone.

        It would take itself for the last one when the parent has closed, and remove what is another process's log by
        then. With a lock on the file that is not this process's own, but a descriptor's, SQLite finds it in use.
        """
        assert self._path is not None
        if not self._writes:
            return
        with suppress(OSError):
            self._guard = os.open(self._path, os.O_RDONLY)
            platform.share_bytes(self._guard, *_SHARED_BYTES)
        if sys.version_info >= (3, 12) and not self._torn:  # where descriptors cannot have locks
            with suppress(sqlite3.Error):
                self._main.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)

    def is_at(self, path: Path) -> bool:
        """Whether its file is the one at a path."""
        assert self._path is not None
        try:
            return self._path == path or self._path.samefile(path)
        except OSError:  # it is gone, or this process may not see it
            return False

    def close(self) -> None:
        """Close the idle connections now, and each busy one when it is returned."""
        self._closed = True
        self._close_idle()
        with self._memory or nullcontext(), self.translated():
            self._main.close()

    def _close_idle(self) -> None:
        with suppress(IndexError):  # a search may take the last one
            while True:
                self._idle.pop().close()


_all: "weakref.WeakSet[Catalogue]" = weakref.WeakSet()
_inherited: list[Catalogue] = []  # in a fork: kept alive, as their end must come in a certain order
_SHARED_BYTES: Final = (0x40000002, 510)  # of a database, which SQLite locks exclusively to close the last connection


def _close_inherited(path: Path) -> None:
    """In a fork: close the connections to a file that are its parent's, before one of its own is opened.

    SQLite remembers for each process which locks it holds on a file, and a fork remembers those of its parent, but does
    not hold them. A connection of its own would go without: another process that takes itself for the last one then
    removes the log, and what the fork writes into it is lost. Raises StorageError if a connection was in use during the
    fork, as its state is half changed.
    """
    mine = [each for each in _inherited if each.is_at(path)]
    if any(each._torn for each in mine):
        raise StorageError(
            f"this process was forked while another thread was using {path}, and SQLite cannot open it a second time; "
            "fork when no thread uses the collection, or start the process with spawn or forkserver"
        )
    for each in mine:
        with suppress(BqstoreError):
            each.close()
        if each._guard >= 0:
            os.close(each._guard)
        _inherited.remove(each)


def _after_fork() -> None:
    for each in _all:
        if each._path is not None and not each._closed:
            each._torn = bool(each._in_use)
            _inherited.append(each)
            each._keep_from_tidying()
    _all.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _was_not_written(error: sqlite3.Error) -> bool:
    """Whether a COMMIT has failed before its last page, the one that commits, was written; not where a sync failed."""
    name = getattr(error, "sqlite_errorname", None)  # from Python 3.11 on
    return name == "SQLITE_IOERR_WRITE" or "is full" in str(error)  # of a quota SQLite says the first


def _size(path: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def read_head(connection: sqlite3.Connection, name: str) -> Head | None:
    """The head row, verified; None if there are no tables yet."""
    if connection.in_transaction:
        return _read_head(connection, name)
    connection.execute("BEGIN")  # the tables are those of the head: a text index may come between two statements
    try:
        return _read_head(connection, name)
    finally:
        connection.rollback()


def _read_head(connection: sqlite3.Connection, name: str) -> Head | None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > text_index.TABLES_VERSION:
        raise newer_format(name, version, text_index.TABLES_VERSION)
    schema = [row for row in connection.execute("SELECT name, sql FROM sqlite_master") if row[1] is not None]
    if not schema:
        return None
    others = {table: sql for table, sql in schema if sql not in _STATEMENTS}
    if len(schema) - len(others) == len(_STATEMENTS):
        head = reread_head(connection, name, None)
        index = TextIndex.of(head.settings)
        known = TABLES_VERSION if index is None else text_index.TABLES_VERSION
        if version == known and text_index.are_tables(others, index):
            return head
    raise CorruptionError(
        f"{name} does not have the tables of a collection: damaged, or another program's; restore it from a copy"
    )


def reread_head(connection: sqlite3.Connection, name: str, known: Head | None) -> Head:
    """The head row, verified; ``known`` itself if it is still stored. The tables were looked at when it was opened."""
    row = connection.execute("SELECT format, body, crc FROM head").fetchone()
    if row is None:  # it was created in one commit with the tables
        raise CorruptionError(f"{name} has lost its head row; restore the collection from a copy")
    if known is not None and row == known.stored():
        return known
    head = Head.from_stored(row[0], row[1], row[2], name)
    same = known is not None and known.settings == head.settings
    return replace(head, settings=known.settings) if known is not None and same else head


def check_commits(connection: sqlite3.Connection, head: Head, name: str) -> None:
    """Raise CorruptionError where rows and lists of them are not of one commit: pages of several, in a copy.

    No page's checksum tells that, and no count need. The lists know the commits of rows, and the head knows the last.
    """
    if connection.execute(_OTHER_COMMITS, {"seq": head.seq, "meta_seq": head.meta_seq}).fetchone()[0]:
        raise CorruptionError(
            f"{name} holds rows of several commits: the folder was copied while it was written; make another copy with "
            "backup(), or with `cp` when nobody writes"
        )


def write_head(connection: sqlite3.Connection, head: Head) -> None:
    """Replace the head row."""
    connection.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?, ?)", head.stored())


def read_rows(connection: sqlite3.Connection, key: str, values: Sequence[object], name: str) -> list[Row]:
    """The rows whose ``key`` ("rid" or "id") is among the values, unordered, CRCs verified."""
    found: list[Row] = []
    for at in range(0, len(values), AT_ONCE):
        some = values[at : at + AT_ONCE]
        marks = ",".join("?" * len(some))
        sql = f"SELECT {WHOLE} FROM rows WHERE {key} IN ({marks})"  # noqa: S608 - names of our own
        found.extend(Row.from_stored(row, name) for row in connection.execute(sql, some))
    return found


def read_column(
    connection: sqlite3.Connection, column: str, condition: str, value: object, name: str
) -> Iterator[list[tuple[int, Any]]]:
    """(rid, value) of one of the columns that `key_crc` covers, ordered by rid, CRCs verified; in portions."""
    place = KEYS.index(column)
    tables = "rows"
    if condition.startswith("changed."):  # CROSS: start with the few changed rows; SQLite would scan all, for the order
        tables = "changed CROSS JOIN rows USING (rid)"
    columns = ", ".join(f"rows.{key}" for key in KEYS)
    rows = connection.execute(f"SELECT {columns} FROM {tables} WHERE {condition} ORDER BY rows.rid", (value,))  # noqa: S608
    portion: list[tuple[int, Any]] = []
    size = 0
    for row in rows:
        found = check_keys(row, name)[place]
        portion.append((row[0], found))
        size += len(found or "")
        if len(portion) == _PORTION or size > _PORTION_LENGTH:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def read_keys(connection: sqlite3.Connection, rids: Sequence[int], name: str) -> list[tuple[Any, ...]]:
    """The columns that `key_crc` covers of the rows with these rids, at most AT_ONCE, unordered, CRCs verified."""
    sql = f"SELECT {', '.join(KEYS)} FROM rows WHERE rid IN ({','.join('?' * len(rids))})"  # noqa: S608
    return [check_keys(row, name) for row in connection.execute(sql, rids)]


def rids_by_id(connection: sqlite3.Connection, ids: Iterable[str], name: str) -> dict[str, int]:
    """The rids of those ids that exist.

    CRCs are verified: a damaged index entry that leads to another row would have that row deleted.
    """
    found = {}
    for id_ in ids:
        row = connection.execute(f"SELECT {', '.join(KEYS)} FROM rows WHERE id = ?", (id_,)).fetchone()  # noqa: S608
        if row is not None:
            found[id_] = int(check_keys(row, name)[0])
    return found


def rids_by_ref(connection: sqlite3.Connection, refs: Iterable[str], name: str) -> set[int]:
    """The rids of the rows with these source documents, through their index; CRCs verified as in `rids_by_id`."""
    found = set()
    for ref in refs:
        sql = f"SELECT {', '.join(KEYS)} FROM rows WHERE ref_doc_id = ?"  # noqa: S608
        for row in connection.execute(sql, (ref,)):
            found.add(int(check_keys(row, name)[0]))
    return found


def insert_rows(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Add rows with new ids."""
    connection.executemany(f"INSERT {_INSERT}", (row.stored() for row in rows))


def replace_rows(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Replace the rows with the same rids, and list them in ``changed``."""
    rows = list(rows)
    connection.executemany(f"REPLACE {_INSERT}", (row.stored() for row in rows))
    connection.executemany("REPLACE INTO changed VALUES (?, ?)", ((row.rid, row.seq) for row in rows))


def bury(connection: sqlite3.Connection, rids: Iterable[int], seq: int) -> None:
    """Delete rows and add a tombstone for each."""
    rids = list(rids)
    connection.executemany("DELETE FROM changed WHERE rid = ?", ((rid,) for rid in rids))
    connection.executemany("DELETE FROM rows WHERE rid = ?", ((rid,) for rid in rids))
    connection.executemany("INSERT INTO dead VALUES (?, ?)", ((rid, seq) for rid in rids))


def empty(connection: sqlite3.Connection, *tables: str) -> None:
    """Delete everything in tables."""
    for table in tables:
        connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names of our own
