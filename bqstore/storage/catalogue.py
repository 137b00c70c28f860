"""The SQLite catalogue, `meta.db`: head row, rows and tombstones. The commit point of a store is a commit here.

One connection of a process writes and checkpoints, and under the writers' lock alone: two that do so at once are
exposed to the WAL-reset race of SQLite up to 3.51.2. The others are read-only (`mode=ro`) and do neither. In memory
there is one connection, behind a lock. Knows no vectors.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final

from ..errors import BqstoreError, ClosedError, CorruptionError, StorageError
from . import space
from .forked import Inheritable, Using
from .head import Head
from .head_table import create_tables, read_head
from .sqlite_connection import connect, let_write, translate, was_not_written

_UNREADABLE_LOG: Final = (
    "{0} cannot be written, and its meta.db was not closed: commits are in its -wal file, and SQLite cannot read them "
    "without a -shm file beside it; open the collection once where it can be written, or a copy of the folder there"
)
_LOG_GONE: Final = "{0} cannot be written, and its writer has closed it; close the collection and open it again"


class Catalogue(Inheritable):
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
        super().__init__(path)
        self._log = Path() if path is None else path.with_name(f"{path.name}-wal")
        self.name = "the catalogue in memory" if path is None else path.name
        self._memory = threading.RLock() if path is None else None
        self._idle: list[sqlite3.Connection] = []
        self._owner = object()  # of the transaction on the main connection
        self._frozen: tuple[object, ...] | None = None  # what tells a change of the file that was opened as immutable
        self.store_id: int | None = None  # once known, every new connection must find it
        self.in_doubt = False  # True from the start of a COMMIT until it has succeeded
        self.check_place: Callable[[], None] = lambda: None  # raises if the file is not the one that was opened
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
            let_write(self._main, self._log)
        self._writes = True

    def _connect(self, mode: str) -> sqlite3.Connection:
        return connect(self._path, mode, self._frozen is not None)

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
        with Using(self._in_use), self.translated():
            yield self._main

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A read-only connection. Each statement sees the last commit; after ``BEGIN`` all see the same one."""
        if self._closed:
            raise ClosedError("this collection is closed; open it again")
        with Using(self._in_use), self.translated():
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
                self.in_doubt = not was_not_written(error)
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
        with self._memory or nullcontext(), Using(self._in_use):
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
            create_tables(connection, head)

    def end_interrupted(self) -> None:
        """End a transaction that an interrupt has left open: it would hide what others have committed since."""
        with self._memory or nullcontext(), Using(self._in_use), self.translated():
            if self._main.in_transaction:
                self._main.execute("ROLLBACK")

    def data_version(self) -> int:
        """A number that changes when another connection has committed; 3 us.

        Raises StorageError where the file was opened as one that cannot change, and has.
        """
        with Using(self._in_use), self.translated():
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


def _size(path: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
