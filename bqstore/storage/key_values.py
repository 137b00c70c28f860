"""`kv.db`: keys and values beside the documents of a collection, durable when a call returns.

A file of its own, since earlier releases refuse a `meta.db` with a table that they do not know, and ignore a file that
they do not know. It is written under the same lock (`WriterLock`) and in the same order (validate, one SQLite commit,
check that the folder is still there, acknowledge), and is moved, copied, backed up, verified and repaired with the
collection. Reads take no lock: each sees the last commit of any process.
"""

import atexit
import io
import math
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Final, TypeVar

from ..arguments import counted
from ..errors import BqstoreError, ClosedError, LockedError, ReadOnlyError, StorageError
from ..forks import in_forks
from . import descriptors, reserve
from . import key_value_tables as tables
from .catalogue import Catalogue
from .key_value_tables import About, Entry
from .lock import WriterLock, is_own_for_life, unlock_and_close
from .place import Place
from .space import log_of_deleting

T = TypeVar("T")
NAME: Final = "kv.db"
_AT_CLOSE: Final = 2.0  # seconds to wait for the lock, to tidy up
_USED: Final = 0.5  # seconds between two reports to `descriptors` that the file is in use
_turns: "dict[tuple[int, int], Turn]" = {}  # by device and inode of the folder


class Turn:
    """A lock that the writes of this process in a folder take, one at a time."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.holder: Callable[[], Held | None] = lambda: None

    def is_held(self) -> bool:
        """Whether this thread has it now. If an interrupt kept a call from giving it back, it is given back here."""
        while self.lock._is_owned():  # type: ignore[attr-defined]
            if self.holder() is not None:
                return True
            self.lock.release()
        return False


class Held:
    """Holds a turn in a ``with`` block, for a thread that does not have it; it ends with the object at the latest."""

    __slots__ = ("__weakref__", "_turn")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def __enter__(self) -> None:
        self._turn.lock.acquire()
        self._turn.holder = weakref.ref(self)

    def __exit__(self, *exception: object) -> None:
        self._turn.holder = lambda: None
        self._turn.lock.release()

    def __del__(self) -> None:
        if hasattr(self, "_turn"):  # else an interrupt came in __init__
            if self._turn.holder() is self:
                self._turn.holder = lambda: None
            self._turn.is_held()


class EntryFile:
    """The entries of one folder; `open_key_values.py` makes it.

    Any number of threads and processes may have them open, and write.
    """

    def __init__(self, catalogue: Catalogue, place: Place | None, lock: WriterLock | None, lock_timeout: float) -> None:
        self.catalogue, self._place, self._lock, self.lock_timeout = catalogue, place, lock, lock_timeout
        self.read_only = place is not None and lock is None
        self.name = catalogue.name
        self._turn = Turn() if place is None else turn_of(place)
        self._until_closed = ExitStack()
        self._pid, self._closed = os.getpid(), False
        self._poison: str | None = None
        if place is not None:
            self._until_closed.callback(place.close)
            catalogue.check_place = place.check
            catalogue.wake = self._use
            self._until_closed.callback(descriptors.forget, self)
            self._use()
        _open.add(self)

    def _use(self) -> None:
        self._next_use = time.monotonic() + _USED
        descriptors.used(self)

    def rest(self) -> bool:
        """Give back the file's descriptors until it is needed; False if it is in use. The folder's descriptor stays."""
        return self._closed or (self._poison is None and self.catalogue.rest())

    # ---- reading

    def read(self, answer: Callable[[sqlite3.Connection, str], T]) -> T:
        """What a function reads from the last commit."""
        self._check()
        if self._place is not None:
            self._place.check()
        with self.catalogue.reading() as connection:
            connection.execute("BEGIN")
            try:
                return answer(connection, self.name)
            finally:
                connection.execute("ROLLBACK")

    @contextmanager
    def standing(self) -> Iterator[tuple[sqlite3.Connection, int]]:
        """A connection that stands at the last commit, and the number of that commit."""
        self._check()
        with self.catalogue.reading() as connection:
            connection.execute("BEGIN")
            yield connection, tables.reread_about(connection, self.name).seq

    def seq(self) -> int:
        """The number of the last commit."""
        return self.read(tables.reread_about).seq

    def now(self) -> float:
        """Seconds since 1970, but always later than every commit, even if the clocks of other writers are ahead."""
        return _later(self.read(tables.reread_about))

    # ---- writing

    def put(self, entries: Sequence[Entry], not_before: float | None = None) -> float | None:
        """Write entries with distinct places, in one commit, which gives all of them its time.

        Returns that time; if it is before ``not_before``, writes nothing and returns None.
        """

        def change(connection: sqlite3.Connection, about: About) -> tuple[float | None, About]:
            at = _later(about)
            if not_before is not None and at < not_before:
                return None, about
            return at, about.next(at, tables.put(connection, [entry._replace(time=at) for entry in entries]))

        return self._write(change)

    def delete(self, space: str, keys: Sequence[str]) -> int:
        """Delete entries, in one commit; how many there were."""

        def change(connection: sqlite3.Connection, about: About) -> tuple[int, About]:
            gone = tables.remove(connection, ((space, key) for key in keys))
            return gone, about.next(_later(about), -gone) if gone else about

        try:  # no checkpoint in between: copying the log would use up the space that is given up
            return reserve.with_it(self._place, lambda: self._write(change), is_over=lambda: self._poison is not None)
        except StorageError as error:
            if not reserve.is_full(error):
                raise
            count, entries = len(keys), self.read(tables.reread_about).entries
            most = log_of_deleting(count, entries, sum(self.catalogue.bytes()))
            words = f"{error.strerror}: deleting {counted(count, 'entry')} takes up to {most:,} bytes meanwhile"
            raise StorageError(error.errno, f"{words}; delete fewer at a time, or make room elsewhere") from error

    def follow(self, source: sqlite3.Connection) -> int:
        """Make the entries those of another file, in one commit; bytes of the values that differed."""

        def change(connection: sqlite3.Connection, about: About) -> tuple[int, About]:
            newest = tables.reread_about(source, self.name)
            return (0 if newest == about else tables.copy_differing(source, connection, self.name)), newest

        return self._write(change)

    def restore(self, entries: Sequence[Entry]) -> None:
        """Write entries that keep their times, in one commit."""

        def change(connection: sqlite3.Connection, about: About) -> tuple[None, About]:
            last = max([about.time, *(entry.time for entry in entries)])
            return None, about.next(last, tables.put(connection, entries))

        self._write(change)

    def _write(self, change: Callable[[sqlite3.Connection, About], tuple[T, About]]) -> T:
        """Make a change in one commit; ``change`` returns its answer and the new state of the file."""
        self._check()
        if self.read_only:
            raise ReadOnlyError("these entries are open with read_only=True; open them without to write")
        with Held(self._turn), self._lock_file() as file:
            if self._poison is not None:
                raise StorageError(f"an earlier write failed ({self._poison}); close the entries and open them again")
            self._wait(file, self.lock_timeout)
            out = self._committed(change)
            if self._place is not None:
                self._place.check()  # else the commit is in a folder that nobody will open again
            self.catalogue.limit_log()
            if file is not None:
                unlock_and_close(file)  # closing alone would leave the lock with a fork made meanwhile
            return out

    def _committed(self, change: Callable[[sqlite3.Connection, About], tuple[T, About]]) -> T:
        try:
            with self.catalogue.writing() as connection:
                about = tables.reread_about(connection, self.name)
                out, new = change(connection, about)
                if new != about:
                    tables.write_about(connection, new)
        except BqstoreError as error:
            if self.catalogue.in_doubt:
                self._poison = str(error)
            raise
        return out

    def _lock_file(self) -> AbstractContextManager[io.FileIO | None]:
        """What to hold with ``with`` during `_wait` and the write; see `WriterLock.open`."""
        if self._lock is None or self._place is None:
            return nullcontext()
        self._place.check()
        return self._lock.open()

    def _wait(self, file: io.FileIO | None, timeout: float) -> None:
        """Wait for the folder's lock, unless a collection of this process holds it until it is closed."""
        if file is not None and self._lock is not None and not is_own_for_life(file):
            self._lock.wait(file, timeout)

    def _check(self) -> None:
        if self._closed:
            raise ClosedError("these entries are closed; open them again")
        if self._pid != os.getpid() and self._place is not None:
            raise ClosedError(
                f"these entries were opened in process {self._pid} and cannot be used in its fork {os.getpid()}; open "
                "them here again"
            )
        if self._turn.is_held():
            raise LockedError("this thread is inside a write of these entries: let a signal handler set a flag")
        if self._place is not None and time.monotonic() > self._next_use:
            self._use()

    def close(self) -> None:
        """Give back the files. What was acknowledged is durable already."""
        if self._closed or (self._pid != os.getpid() and self._place is not None):
            return
        self._closed = True
        with Held(self._turn), self._until_closed, ExitStack() as stack:
            stack.callback(self.catalogue.close)
            with suppress(BqstoreError, OSError):
                file = stack.enter_context(self._lock_file())
                self._wait(file, min(self.lock_timeout, _AT_CLOSE))
                stack.callback(self.catalogue.close)  # under the lock, as the last connection folds the log in
                if file is not None and self._poison is None:
                    self.catalogue.checkpoint()


def _later(about: About) -> float:
    return max(time.time(), math.nextafter(about.time, math.inf))


def turn_of(place: Place) -> Turn:
    """The turn of a folder."""
    return _turns.setdefault(place.folder, Turn())


_open: "weakref.WeakSet[EntryFile]" = weakref.WeakSet()


def _after_fork() -> None:
    _turns.clear()


in_forks(_after_fork)


@atexit.register
def _close_all() -> None:
    for each in list(_open):
        with suppress(Exception):  # the others must be closed, too
            each.close()
