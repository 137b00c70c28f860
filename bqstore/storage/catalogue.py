"""The SQLite catalogue, `meta.db`: head row, rows and tombstones. The commit point of a store is a commit here.

One connection of a process, the main one, writes and checkpoints, and only under the writers' lock: two that do so at
once are exposed to the WAL-reset race of SQLite up to 3.51.2. A reader borrows the main connection if nobody needs it,
so that a program of one thread has one connection. Else it gets one of its own, read-only (`mode=ro`). Who needs the
main connection while it is lent opens another, so that nobody waits for a reader. In memory there is one, with a lock.

At `rest` there is none. Knows no vectors.
"""

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final

from ..errors import (
    RESTORE,
    RESTORE_ENTRIES,
    BqstoreError,
    ClosedError,
    CorruptionError,
    FolderReplacedError,
    StorageError,
)
from . import platform, sigbus_guard, space
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
        self._translating = _Translating(self)
        self._memory = threading.RLock() if path is None else None
        self._idle: list[sqlite3.Connection] = []
        self._main: sqlite3.Connection | None = None  # None at rest
        self._is_writer = False  # the main connection is one that writes
        self._written_log: tuple[int, int] | None = None  # device and inode of the log that it writes
        self._at_main: set[int] = set()  # threads that use the main connection, or are about to
        self._is_lent = self._was_lent = False  # to a reader
        self._mains = 0  # how many main connections there have been
        self._swap = threading.RLock()  # held for a moment while a connection is taken or given back
        self.transaction = object()  # identifies the last transaction on the main connection
        self._needs_room = path is not None and sigbus_guard.maps_need_room(path.parent)
        self._frozen: tuple[object, ...] | None = None  # see `_stamp`: of a file that was opened as immutable
        self.store_id: int | None = None  # once known, every new connection must find it
        self.in_doubt = False  # True from the start of a COMMIT until it has succeeded
        self.check_place: Callable[[], None] = lambda: None  # raises if the file is not the one that was opened
        self.wake: Callable[[], None] = lambda: None  # called before connections are opened
        mode = "ro" if path is not None and path.exists() and not unfinished else "rwc"
        if mode == "ro" and not _size(self._log) and not self._can_write():
            self._frozen = self._stamp()  # a read-only medium: SQLite cannot make its files, and needs none
        with self.translated():
            try:
                self._main = self._probed(mode)
            except (sqlite3.OperationalError, StorageError):
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
            self._frozen = None
            self._begin_writing(lambda connection: None)
        self._writes = True

    def _begin_writing(self, check: Callable[[sqlite3.Connection], None]) -> None:
        self.check_place()
        with self._swap:
            before, self._main, self._is_writer = self._main, None, False
            if before is not None:  # nobody else uses it
                before.close()  # before another is opened: SQLite would keep its descriptor as long as that is open
            main = self._connect("rw")  # never makes a file, as another folder may stand there now
            try:
                check(main)
                let_write(main, self._log, self.check_place)
                if self._needs_room:
                    main.execute("PRAGMA cache_spill = OFF")  # the log is written by COMMIT alone, see `writing`
            except BaseException:
                main.close()
                raise
            # None if it cannot be told now, and not that of an earlier connection
            self._main, self._is_writer, self._written_log = main, True, None
            with suppress(OSError):
                self._written_log = _identity(self._log)
            self._mains += 1

    def _connect(self, mode: str) -> sqlite3.Connection:
        if self._needs_room and self._path is not None and self._frozen is None:
            is_new = not _size(self._path.with_name(f"{self._path.name}-shm"))
            if is_new or mode != "ro":
                self._check_room()
        return connect(self._path, mode, self._frozen is not None)

    def translated(self) -> "_Translating":
        """Turn SQLite's errors into BqstoreErrors. For statements of our own only, never around a user's function."""
        return self._translating

    def raise_named(self, error: BaseException | None) -> None:
        """Raise the BqstoreError for an error of SQLite."""
        if isinstance(error, (sqlite3.Error, CorruptionError)):
            self.check_place()
            self._check_frozen()
            if isinstance(error, CorruptionError):
                return
            named = translate(error, self.name, None if self._path is None else self._path.parent)
            unexplained = "unable to open" in str(error) and "unable to open" in str(named)
            if unexplained and not self._can_write():
                words = _UNREADABLE_LOG if _size(self._log) else _LOG_GONE
                raise StorageError(words.format(self._path and self._path.parent)) from error
            raise named from error
        if isinstance(error, UnicodeDecodeError):  # a text column that is not UTF-8
            restore = RESTORE if self.name == "meta.db" else RESTORE_ENTRIES
            raise CorruptionError(f"{self.name} holds text that is not UTF-8; {restore}") from error

    @contextmanager
    def using_main(self) -> Iterator[sqlite3.Connection]:
        """The main connection, outside of a transaction; in memory, other threads wait."""
        with self._memory or nullcontext(), Using(self._in_use, self._at_main), self.translated():
            yield self.main()

    @contextmanager
    def _using_writer(self) -> Iterator[sqlite3.Connection]:
        """The main connection as one that writes; under the writers' lock."""
        with Using(self._in_use, self._at_main), self.translated():
            yield self._writer()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A read-only connection. Each statement sees the last commit; after ``BEGIN`` all see the same one."""
        if self._closed:
            raise ClosedError("this collection is closed; open it again")
        with Using(self._in_use), self.translated():
            if self._memory is not None:
                with self._memory:
                    yield self.main()
                return
            connection = self._borrowed()
            keep = False
            try:
                if connection.in_transaction:  # which an interrupt has left open
                    connection.rollback()
                yield connection
                if connection.in_transaction:
                    connection.rollback()
                keep = not self._closed
            finally:
                self._take_back(connection, keep)

    def _borrowed(self) -> sqlite3.Connection:
        with suppress(IndexError):
            return self._idle.pop()
        with self._swap:
            if self._main is not None and not self._at_main and not self._is_lent:
                if not self._was_lent:
                    self.check_place()  # as before a new connection is opened: the folder may be somewhere else by now
                self._is_lent = self._was_lent = True
                return self._main
        self.wake()
        return self._another()

    def _take_back(self, connection: sqlite3.Connection, keep: bool) -> None:
        """Take back a reader's connection; not kept after an exception, as an interrupted thread may still use it."""
        with self._swap:
            if connection is self._main:  # else the main connection was needed meanwhile, and another was opened
                self._is_lent = False
                if keep:
                    return
                self._main, self._is_writer = None, False
            elif keep:
                self._idle.append(connection)
                return
        if self._main is None and not self._idle and not self._closed:
            self._close_quietly([connection])
        else:
            connection.close()

    def _close_quietly(self, connections: list[sqlite3.Connection]) -> None:
        """Close the last connections without a checkpoint: a read-only one stays until those that write are closed."""
        guard = None
        if self._writes:
            with suppress(BqstoreError, sqlite3.Error):  # no descriptor is left: then it does so
                guard = self._another()
        for each in connections:
            each.close()
        if guard is not None:
            guard.close()

    def _another(self) -> sqlite3.Connection:
        """A new read-only connection; CorruptionError if the folder now holds another collection."""
        self.check_place()  # before SQLite makes files beside what stands there
        connection = self._connect("ro")
        try:
            self._check_id(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_id(self, connection: sqlite3.Connection) -> None:
        found = self.read_id(connection)
        self.check_place()
        if self.store_id is not None and found != self.store_id:
            raise CorruptionError(f"{self._path} was replaced while open; close the collection and open it again")

    def rest(self) -> bool:
        """Close all connections until one is needed again; False where one is in use. The log stays as it is."""
        if self._path is None or self._frozen is not None or self._in_use:
            return False
        with self._swap:  # now all connections that are taken are in `_in_use`, and no other is taken
            if self._in_use or self._closed:
                return False
            with Using(self._in_use):  # for forks
                # an interrupt may have left the main one lent to nobody
                main, self._main, self._is_writer, self._is_lent = self._main, None, False, False
                found = [] if main is None else [main]
                with suppress(IndexError):  # a search may take the last one
                    while True:
                        found.append(self._idle.pop())
                if found:
                    self._close_quietly(found)
        return True

    def read_id(self, connection: sqlite3.Connection) -> int | None:
        """The random number of this file; None if there are no tables yet."""
        head = read_head(connection, self.name)
        return None if head is None else head.store_id

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The main connection in a transaction: committed on leaving, rolled back on any exception."""
        if self._closed:
            raise ClosedError("this collection is closed; open it again")
        with self._transaction("BEGIN IMMEDIATE", self._writer) as main, self.translated():
            self.in_doubt = False
            before = main.total_changes
            yield main
            self._check_room(main.total_changes - before)
            self.in_doubt = True
            try:
                main.execute("COMMIT")
            except sqlite3.Error as error:
                self.in_doubt = not was_not_written(error)
                raise
            self.check_log()
            self.in_doubt = False

    def check_log(self) -> None:
        """Raise FolderReplacedError if the log that is written here has lost its name: after a kill nobody finds it."""
        with self._swap:
            try:
                if not self._is_writer or self._written_log in (None, _identity(self._log)):
                    return
            except OSError:  # not known; `check_place` raises then
                return
        raise FolderReplacedError(
            f"{self._log} was removed or replaced while it was open: this call is not acknowledged; close the "
            "collection, which saves what stands in the log, and open it again"
        )

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """The main connection; all reads through it see one commit. In memory, other threads wait."""
        with self._transaction("BEGIN", self.main) as main:
            yield main

    @contextmanager
    def _transaction(self, begin: str, taken: Callable[[], sqlite3.Connection]) -> Iterator[sqlite3.Connection]:
        """Rolled back on leaving unless committed. A transaction that an interrupt has left open is ended first."""
        with self._memory or nullcontext(), Using(self._in_use, self._at_main):
            with self.translated():
                main = taken()
            mine = self.transaction = object()  # one that was interrupted, collected late, must not end a newer one
            try:
                with self.translated():
                    if main.in_transaction:
                        main.execute("ROLLBACK")
                    main.execute(begin)
                yield main
            finally:
                with self.translated():
                    if self.transaction is mine and main.in_transaction:
                        main.execute("ROLLBACK")

    def create(self, head: Head) -> None:
        """Create the tables and the first head row, in one commit."""
        with self.writing() as connection:
            create_tables(connection, head)

    def end_interrupted(self) -> None:
        """End a transaction that an interrupt has left open: it would hide later commits of others."""
        with self._memory or nullcontext(), Using(self._in_use, self._at_main), self.translated():
            with self._swap:
                main = None if self._is_lent else self._main  # a reader ends what it has begun
            if main is not None and main.in_transaction:
                main.execute("ROLLBACK")

    def data_version(self) -> tuple[int, int]:
        """Numbers that change with each commit of another connection, and with the main connection itself; takes 3 us.

        Raises StorageError where the file was opened as one that cannot change, and has.
        """
        with self.using_main() as main:
            self._check_frozen()
            version = int(main.execute("PRAGMA data_version").fetchone()[0])
            return self._mains, version

    def _check_room(self, rows: int = 0) -> None:
        """Raise StorageError where SQLite's map cannot be written, which would end the process."""
        if self._needs_room and self._path is not None:
            try:
                sigbus_guard.check_room(self._path.parent, rows)
            except OSError as error:
                words = f"{self.name}: {platform.reason(error)}; nothing of this call was acknowledged"
                raise StorageError(error.errno, words) from error

    def has_room(self) -> bool:
        """Whether SQLite's map can be written now, as closing the last connection does."""
        try:
            self._check_room()
        except StorageError:
            return False
        return True

    def _can_write(self) -> bool:
        """Whether SQLite may make its files beside this one."""
        return self._path is None or os.access(self._path.parent, os.W_OK)

    def _stamp(self) -> tuple[object, ...]:
        """What shows that a file that was opened as immutable has got a writer after all."""
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
        if self._closed:
            raise ClosedError("this collection is closed; open it again")
        if self._main is None:
            self.wake()  # before the lock, as others rest meanwhile
        with self._swap:
            if self._is_lent and self._main is not None:
                self._main, self._is_lent = None, False  # from now on it is a connection of the reader
            if self._main is None:
                self._main, self._is_writer = self._another(), False
                self._mains += 1
            return self._main

    def is_main(self, connection: sqlite3.Connection) -> bool:
        """Whether this is the main connection, and not lent."""
        return connection is self._main and not self._is_lent

    def _writer(self) -> sqlite3.Connection:
        """The main connection as one that writes."""
        main = self.main()
        if self._writes and not self._is_writer:
            self._begin_writing(self._check_id)
            main = self.main()
        return main

    def checkpoint(self) -> bool:
        """Copy the write-ahead log into the file and empty it, as far as readers allow; whether nothing is left."""
        if self._path is None:
            return True
        with self._using_writer() as main:
            self._check_room()
            return space.checkpoint(main)

    def erase(self) -> None:
        """Write the file anew and empty the log, so that neither holds deleted data.

        PRAGMA secure_delete is not enough: where SQLite moves a row to another page, the old one keeps its bytes, and
        nothing overwrites them when the row is deleted.
        """
        if self._path is not None:
            with self._using_writer() as main:
                self._check_room(space.PORTION)
                main.execute("VACUUM")
        self.checkpoint()

    def use_log_again(self) -> None:
        """Let the next commit write from the beginning of the log, as far as its readers and the disk allow."""
        with suppress(BqstoreError), self._using_writer() as main:
            self._check_room()
            main.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if self._needs_room else 'PASSIVE'})")

    def give_back(self) -> None:
        """Shrink the file by the pages that nothing uses."""
        try:
            given = self._given_back()
        except StorageError as error:
            if self._path is None or error.errno not in platform.FULL:
                raise
            given = True  # a few pages at a time, as there is room for no more in the log
            while self.checkpoint() and self._given_back(space.PORTION):
                pass
        if given:
            self.checkpoint()

    def _given_back(self, most: int = 0) -> bool:
        with self._memory or nullcontext(), self._using_writer() as main:
            self._check_room(most or space.PORTION)
            return space.give_back(main, most)

    def bytes(self) -> tuple[int, int]:
        """Bytes of the file and of its log; 0 in memory."""
        return (0, 0) if self._path is None else (_size(self._path), _size(self._log))

    def limit_log(self) -> None:
        """Empty a log that a large commit has left; SQLite itself does so only at the commit after the next."""
        if self._path is not None and _size(self._log) > space.LOG_LARGE:
            with suppress(BqstoreError):  # what it holds is durable, and is read from there as before
                self.checkpoint()

    def close(self) -> None:
        """Close the idle connections now, and each busy one when it is returned."""
        self._closed = True
        self._close_idle()
        with self._memory or nullcontext(), self.translated(), self._swap:
            main, self._main = self._main, None
            if main is None or self._is_lent:  # its reader closes it
                return
            if self._is_writer and not self.has_room():
                sigbus_guard.leave_open(main)  # the log stays as it is, and the next opening goes on with it
                return
            main.close()

    def _close_idle(self) -> None:
        with suppress(IndexError):  # a search may take the last one
            while True:
                self._idle.pop().close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class _Translating:
    """See `Catalogue.translated`; one object for all calls, as a write uses it a dozen times."""

    __slots__ = ("_catalogue",)

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = weakref.ref(catalogue)  # weak, so that a catalogue without users is closed

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        catalogue = self._catalogue() if error is not None else None
        if catalogue is not None:
            catalogue.raise_named(error)


def _size(path: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
