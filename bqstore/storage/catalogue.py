"""The SQLite catalogue: the head row, the rows and the dead rids. Every commit of the store is a commit here.

One connection writes and checkpoints; reading ones are `mode=ro` and do neither (two writing connections meet
SQLite's WAL-reset race). Knows text and numbers, no vectors. In memory there is one connection, behind a lock.
"""

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Final

from ..errors import BqstoreError, ClosedError, CorruptionError, LockedError, StorageError
from .format import newer_format
from .head import Head, Row, check_keys

APPLICATION_ID: Final = 0x42515354  # "BQST"
TABLES_VERSION: Final = 1  # in `user_version`; the format version of a collection stands in its head row
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
AT_ONCE: Final = 500  # parameters of one statement; older SQLite takes 999
WHOLE: Final = "rid, seq, id, text, metadata, private, ref_doc_id, crc"  # as `Row.from_stored` takes them
_KEYS: Final = ("rid", "seq", "id", "ref_doc_id", "metadata", "key_crc")  # as `check_keys` does
_INSERT: Final = f"INTO rows ({WHOLE}, key_crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


def translate(error: sqlite3.Error, name: str) -> BqstoreError:
    """The error of the tree that an SQLite error stands for."""
    text = str(error)
    if "UTF-8" in text:  # SQLite's own words quote the text
        return CorruptionError(f"{name} holds text that is not UTF-8; restore it from a copy")
    if "malformed" in text or "not a database" in text or "no such table" in text or "no such column" in text:
        return CorruptionError(f"{name} is damaged ({text}); restore the collection from a copy")
    if "readonly" in text:
        return StorageError(
            f"{name} has a writer, and its folder is closed to us; following one needs leave to write there"
        )
    if "locked" in text:
        return LockedError(f"{name} is locked by another program; close it there")
    if "closed database" in text:
        return ClosedError("this collection is closed; open it again")
    if isinstance(error, sqlite3.OperationalError):
        return StorageError(f"{name}: {text}; nothing of this call was acknowledged")
    return CorruptionError(f"{name} cannot be read ({type(error).__name__}: {text}); restore it from a copy")


class Catalogue:
    """The connections to one `meta.db`.

    Parameters
    ----------
    path : Path or None         None keeps everything in memory

    unfinished : bool           its making was interrupted, and SQLite must undo what there is of it

    A file that exists is opened for reading until `start_writing`: opening for writing may already write (SQLite
    folds the log in when such a connection closes), and a damaged collection is to stay as it is.
    """

    def __init__(self, path: Path | None, unfinished: bool = False) -> None:
        self._path = path
        self.name = "the catalogue in memory" if path is None else path.name
        self._memory = threading.RLock() if path is None else None
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._writes = False
        self._owner = object()  # of the transaction on the first connection
        self._frozen: tuple[object, ...] | None = None  # the file as it was when opened as unchanging
        self._epoch = 0  # connections of an earlier one are not used again
        self.store_id: int | None = None  # once known, every connection must find it
        self.in_doubt = False  # True from the start of a COMMIT to its success
        with self.translated():
            self._main = self._connect("ro" if path is not None and path.exists() and not unfinished else "rwc")

    def start_writing(self) -> None:
        """Put a writing connection in the place of the first one."""
        if self._path is None or self._writes:
            return
        with self.translated():
            self._idle.append(self._main)  # it reads
            self._main = self._connect("rwc")
            self._main.execute("PRAGMA journal_mode = WAL")
            self._main.execute("PRAGMA synchronous = FULL")
            self._main.execute("PRAGMA fullfsync = ON")  # macOS: through the drive's cache
            # What the log holds may be in the page cache only, after a sync that failed: write it anew, and sync.
            self._main.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._writes = True

    def _connect(self, mode: str) -> sqlite3.Connection:
        target = ":memory:"
        if self._path is not None:
            target = f"{self._path.as_uri()}?mode={mode}"
            log = self._path.with_name(f"{self._path.name}-wal")
            if mode == "ro" and not log.exists() and not os.access(self._path.parent, os.W_OK):
                target += "&immutable=1"  # a read-only medium: SQLite cannot make its log's index, and needs none
                self._frozen = self._stamp()
        connection = sqlite3.connect(
            target, uri=self._path is not None, isolation_level=None, check_same_thread=False, timeout=10
        )
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        return connection

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn SQLite's errors into those of the tree."""
        try:
            yield
        except sqlite3.Error as error:
            raise translate(error, self.name) from error
        except UnicodeDecodeError as error:  # a text column that is not UTF-8
            raise CorruptionError(f"{self.name} holds text that is not UTF-8; restore it from a copy") from error

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading, one state a statement; use ``BEGIN`` for one state over several."""
        if self._closed:
            raise ClosedError("this collection is closed; open it again")
        with self.translated():
            if self._memory is not None:
                with self._memory:
                    yield self._main
                return
            epoch = self._epoch
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._another()
            keep = False
            try:
                yield connection
                if connection.in_transaction:
                    connection.rollback()
                keep = not self._closed and epoch == self._epoch
            finally:
                if keep:
                    self._idle.append(connection)
                else:  # also after an exception: an interrupted thread may still hold it for its own
                    connection.close()

    def _another(self) -> sqlite3.Connection:
        """One more connection for reading; CorruptionError if the folder holds another collection by now."""
        connection = self._connect("ro")
        head = read_head(connection, self.name)
        if self.store_id is not None and (head is None or head.store_id != self.store_id):
            connection.close()
            raise CorruptionError(f"{self._path} was replaced while open; close the collection and open it again")
        return connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The writing connection in a transaction: committed on leaving, rolled back on any exception."""
        if self._closed:
            raise ClosedError("this collection is closed; open it again")
        with self._transaction("BEGIN IMMEDIATE"):
            self.in_doubt = False
            yield self._main
            self.in_doubt = True
            self._main.execute("COMMIT")
            self.in_doubt = False

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read through `main` is of one commit. In memory, the others are kept off the connection."""
        with self._transaction("BEGIN"):
            yield

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        """Rolled back on leaving unless committed. Ctrl-C may come anywhere: what it left open ends here."""
        with self._memory or nullcontext(), self.translated():
            mine = self._owner = object()  # an interrupted one that is cleaned up late must not end a newer one
            try:
                if self._main.in_transaction:
                    self._main.execute("ROLLBACK")
                self._main.execute(begin)
                yield
            finally:
                if self._owner is mine and self._main.in_transaction:
                    self._main.execute("ROLLBACK")

    def create(self, head: Head) -> None:
        """The tables and the first head row, in one commit."""
        with self.writing() as connection:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {TABLES_VERSION}")
            for statement in _STATEMENTS:
                connection.execute(statement)
            write_head(connection, head)

    def data_version(self) -> int:
        """A number that changes when another connection has committed; 3 us."""
        with self.translated():
            if self._frozen is not None and self._frozen != self._stamp():
                self._thaw()
            return (self._epoch << 40) + int(self._main.execute("PRAGMA data_version").fetchone()[0])

    def _stamp(self) -> tuple[object, ...]:
        """What tells that a file which was taken for unchanging has a writer after all."""
        assert self._path is not None
        try:
            found = self._path.stat()
        except OSError as error:
            raise CorruptionError(f"{self._path} cannot be looked at any more: {error.strerror}") from error
        log = self._path.with_name(f"{self._path.name}-wal")
        return found.st_ino, found.st_size, found.st_mtime_ns, log.exists()

    def _thaw(self) -> None:
        """New connections in the place of all."""
        self._frozen = None
        self._epoch += 1
        with suppress(IndexError):
            while True:
                self._idle.pop().close()
        old, self._main = self._main, self._connect("ro")
        old.close()

    def main(self) -> sqlite3.Connection:
        """The first connection: the writer's, or the one whose `data_version` a reader watches."""
        return self._main

    def checkpoint(self) -> None:
        """Fold the write-ahead log into the file, as far as readers allow."""
        if self._path is not None:
            with self.translated():
                self._main.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def integrity(self) -> list[str]:
        """What SQLite's own check finds wrong."""
        with self.reading() as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)")]
        return [] if found == ["ok"] else found

    def close(self) -> None:
        """Close the idle connections, and each busy one when it comes back."""
        self._closed = True
        with suppress(IndexError):  # a search may take the last one
            while True:
                self._idle.pop().close()
        with self._memory or nullcontext(), self.translated():
            self._main.close()


def read_head(connection: sqlite3.Connection, name: str) -> Head | None:
    """The head row, checked; None where there is none."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > TABLES_VERSION:
        raise newer_format(name, version, TABLES_VERSION)
    schema = {row[0] for row in connection.execute("SELECT sql FROM sqlite_master") if row[0] is not None}
    if not schema:
        return None
    if schema != set(_STATEMENTS):
        raise CorruptionError(
            f"{name} has other tables than it should: damaged, or another program's; restore it from a copy"
        )
    row = connection.execute("SELECT format, body, crc FROM head").fetchone()
    if row is None:  # it came in one commit with the tables
        raise CorruptionError(f"{name} has lost its head row; restore the collection from a copy")
    return Head.from_stored(row[0], row[1], row[2], name)


def write_head(connection: sqlite3.Connection, head: Head) -> None:
    """Replace the head row."""
    connection.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?, ?)", head.stored())


def read_rows(connection: sqlite3.Connection, key: str, values: Sequence[object], name: str) -> list[Row]:
    """The rows whose ``key`` ("rid" or "id") is among the values, in no order; each row's CRC is checked."""
    found: list[Row] = []
    for at in range(0, len(values), AT_ONCE):
        some = values[at : at + AT_ONCE]
        marks = ",".join("?" * len(some))
        sql = f"SELECT {WHOLE} FROM rows WHERE {key} IN ({marks})"  # noqa: S608 - names of our own
        found.extend(Row.from_stored(row, name) for row in connection.execute(sql, some))
    return found


def read_column(
    connection: sqlite3.Connection, column: str, condition: str, value: object, name: str
) -> list[tuple[int, Any]]:
    """(rid, value) of one of the columns that a `key_crc` covers, in the order of rids; each row's is checked."""
    place = _KEYS.index(column)
    tables = "rows"
    if condition.startswith("changed."):  # CROSS: from the few that changed, not along all rows for their order's sake
        tables = "changed CROSS JOIN rows USING (rid)"
    columns = ", ".join(f"rows.{key}" for key in _KEYS)
    rows = connection.execute(f"SELECT {columns} FROM {tables} WHERE {condition} ORDER BY rows.rid", (value,))  # noqa: S608
    return [(row[0], check_keys(row, name)[place]) for row in rows]


def rids_by_id(connection: sqlite3.Connection, ids: Iterable[str], name: str) -> dict[str, int]:
    """The rids of those ids that exist.

    The CRC is checked: an index entry that leads to another row would have that one deleted.
    """
    found = {}
    for id_ in ids:
        row = connection.execute(f"SELECT {', '.join(_KEYS)} FROM rows WHERE id = ?", (id_,)).fetchone()  # noqa: S608
        if row is not None:
            found[id_] = int(check_keys(row, name)[0])
    return found


def insert_rows(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Add rows; their ids must not exist."""
    connection.executemany(f"INSERT {_INSERT}", (row.stored() for row in rows))


def replace_rows(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Put rows in the place of those with the same rid, and note them as changed."""
    rows = list(rows)
    connection.executemany(f"REPLACE {_INSERT}", (row.stored() for row in rows))
    connection.executemany("REPLACE INTO changed VALUES (?, ?)", ((row.rid, row.seq) for row in rows))


def bury(connection: sqlite3.Connection, rids: Iterable[int], seq: int) -> None:
    """Delete rows and note their rids as dead."""
    rids = list(rids)
    connection.executemany("DELETE FROM changed WHERE rid = ?", ((rid,) for rid in rids))
    connection.executemany("DELETE FROM rows WHERE rid = ?", ((rid,) for rid in rids))
    connection.executemany("INSERT INTO dead VALUES (?, ?)", ((rid, seq) for rid in rids))


def forget_dead(connection: sqlite3.Connection) -> None:
    """Delete the list of dead rids: a new generation has the live ones only."""
    connection.execute("DELETE FROM dead")


def forget_all(connection: sqlite3.Connection) -> None:
    """Delete every row, and the dead: a new generation begins without slots."""
    for table in ("rows", "dead", "changed"):
        connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names of our own
