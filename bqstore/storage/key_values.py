"""`kv.db`: keys and values beside the documents of a collection, durable when a call returns.

A file of its own, and no table of `meta.db`: earlier releases refuse a catalogue with a table that they do not know,
and leave a file alone that they do not know. It is written under the same lock (`WriterLock`), in the same order
(validate, one SQLite commit, look whether the folder is still there, acknowledge), and moves, is copied, backed up,
verified and repaired with the collection. Reads take no lock: each sees the last commit of any process.
"""

import atexit
import io
import math
import os
import secrets
import shutil
import sqlite3
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final, TypeVar

from ..errors import BqstoreError, ClosedError, CorruptionError, LockedError, NotFoundError, ReadOnlyError, StorageError
from . import key_value_tables as tables
from . import platform, reserve
from .catalogue import Catalogue
from .files import storage_errors
from .hosts import claim
from .key_value_tables import About, Entry
from .lock import WriterLock, end_with_the_parent, is_own_for_life, unlock_and_close
from .place import Place

T = TypeVar("T")
NAME: Final = "kv.db"
_LONGEST: Final = 1 << 40  # bytes that a damaged header may ask for; they are a hole
_AT_CLOSE: Final = 2.0  # seconds to wait for the lock, to tidy up
_turns: "dict[tuple[int, int], threading.RLock]" = {}  # by device and inode of the folder


class _Entries(Catalogue):
    """The connections to one `kv.db`."""

    def read_id(self, connection: sqlite3.Connection) -> int | None:
        about = tables.read_about(connection, self.name)
        return None if about is None else about.id


class EntryFile:
    """The entries of one folder; made by `open_key_values`.

    Any number of threads and processes may have them open, and write.
    """

    def __init__(self, catalogue: Catalogue, place: Place | None, lock: WriterLock | None, lock_timeout: float) -> None:
        self.catalogue, self._place, self._lock, self.lock_timeout = catalogue, place, lock, lock_timeout
        self.read_only = place is not None and lock is None
        self.name = catalogue.name
        self._turn = threading.RLock() if place is None else _turns.setdefault(place.folder, threading.RLock())
        self._until_closed = ExitStack()
        self._pid, self._closed = os.getpid(), False
        self._poison: str | None = None
        if place is not None:
            self._until_closed.callback(place.close)
            catalogue.check_place = place.check
        _open.add(self)

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
        """Seconds since 1970, later than every commit: whatever the clocks of those who have written."""
        return _later(self.read(tables.reread_about))

    # ---- writing

    def put(self, entries: Sequence[Entry], not_before: float | None = None) -> float | None:
        """Write entries with distinct places, in one commit, which gives all of them its time.

        Returns that time; None, and nothing is written, if it is before ``not_before``.
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

        # no checkpoint in between: it would take the space that is given up, to copy the log
        return reserve.with_it(self._place, lambda: self._write(change), is_over=lambda: self._poison is not None)

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
        """Make a change, which returns its answer and what is to be stored about all entries, in one commit."""
        self._check()
        if self.read_only:
            raise ReadOnlyError("these entries are open with read_only=True; open them without to write")
        with self._turn, self._lock_file() as file:
            if self._poison is not None:
                raise StorageError(f"an earlier write failed ({self._poison}); close the entries and open them again")
            self._wait(file, self.lock_timeout)
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
            if self._place is not None:
                self._place.check()  # else what was committed is in a folder that nobody will open again
            self.catalogue.limit_log()
            if file is not None:
                unlock_and_close(file)  # closing alone would leave the lock with a fork that was made meanwhile
            return out

    def _lock_file(self) -> AbstractContextManager[io.FileIO | None]:
        """What to hold with ``with`` during `_wait` and the write; see `WriterLock.open`."""
        if self._lock is None or self._place is None:
            return nullcontext()
        self._place.check()
        return self._lock.open()

    def _wait(self, file: io.FileIO | None, timeout: float) -> None:
        """Wait for the folder's lock, unless a collection of this process has it for life: then nobody else writes."""
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
        if self._turn._is_owned():  # type: ignore[attr-defined]
            raise LockedError("this thread is inside a write of these entries: let a signal handler set a flag")

    def close(self) -> None:
        """Give back the files. What was acknowledged is durable already."""
        if self._closed or (self._pid != os.getpid() and self._place is not None):
            return
        self._closed = True
        with self._turn, self._until_closed, ExitStack() as stack:
            stack.callback(self.catalogue.close)
            with suppress(BqstoreError, OSError):
                file = stack.enter_context(self._lock_file())
                self._wait(file, min(self.lock_timeout, _AT_CLOSE))
                stack.callback(self.catalogue.close)  # under the lock, as the last connection folds the log in
                if file is not None and self._poison is None:
                    self.catalogue.checkpoint()


def _later(about: About) -> float:
    return max(time.time(), math.nextafter(about.time, math.inf))


def open_key_values(folder: Path | None, read_only: bool, lock_timeout: float = 30.0, mode: int = 0o700) -> EntryFile:
    """Open the entries of a collection's folder (None: in memory), made if there are none.

    Raises NotFoundError (``read_only``, and there are none), LockedError, CorruptionError, FormatVersionError,
    StorageError.
    """
    if folder is None:
        catalogue = _Entries(None)
        with catalogue.writing() as connection:
            tables.create(connection, About(secrets.randbits(62)))
        return EntryFile(catalogue, None, None, lock_timeout)
    with storage_errors(f"open {folder}"), ExitStack() as at_failure:
        if read_only and not (folder / NAME).exists():
            raise NotFoundError(f"there are no entries in {folder}; open them once without read_only=True")
        if not read_only:
            platform.make_folder(folder, mode)
        place = Place(folder)
        at_failure.callback(place.close)
        if read_only:
            out = EntryFile(_opened(place, read_only=True), place, None, lock_timeout)
        else:
            out = _open_to_write(place, WriterLock(folder / "LOCK", "SEQ", place), lock_timeout)
        at_failure.pop_all()
        return out


def _open_to_write(place: Place, lock: WriterLock, lock_timeout: float) -> EntryFile:
    with ExitStack() as stack, ExitStack() as at_failure:
        file = stack.enter_context(lock.open())
        if not is_own_for_life(file):
            lock.wait(file, lock_timeout)
            stack.callback(platform.unlock, file.fileno())
        host = claim(place)
        if host is not None:
            end_with_the_parent(at_failure.enter_context(host))
        catalogue = reserve.with_it(place, lambda: _opened(place, read_only=False))
        reserve.keep(place, sum(catalogue.bytes()))
        out = EntryFile(catalogue, place, lock, lock_timeout)
        if host is not None:
            out._until_closed.callback(host.close)
        at_failure.pop_all()
        return out


def _opened(place: Place, read_only: bool) -> Catalogue:
    """Open and check the file; made, under the lock, where there is none."""
    path = place.path / NAME
    if not read_only and not path.exists():
        place.check()
        os.close(place.open(NAME, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    unfinished = not read_only and path.with_name(f"{NAME}-journal").exists()
    catalogue = _Entries(path, unfinished, read_only)
    try:
        with catalogue.using_main() as main:
            about = tables.read_about(main, NAME)
            _check_count(main, about)
        place.check()
        if not read_only:
            catalogue.start_writing()
            if about is None:
                about = About(secrets.randbits(62))
                with catalogue.writing() as connection:
                    tables.create(connection, about)
                place.sync()
            place.watch(NAME)
        if about is None:
            raise NotFoundError(f"there are no entries in {place.path} yet")
        catalogue.store_id = about.id
    except BaseException:
        catalogue.close()
        raise
    return catalogue


def _check_count(main: sqlite3.Connection, about: About | None) -> None:
    """A file that lost pages must not look like one with fewer entries. Through an index: no value is read."""
    if about is None:
        return
    main.execute("BEGIN")
    try:
        about = tables.reread_about(main, NAME)
        found = main.execute("SELECT count(*) FROM entries").fetchone()[0]
    finally:
        main.execute("ROLLBACK")
    if found != about.entries:
        raise CorruptionError(
            f"{NAME} holds {found:,} entries, its own row counts {about.entries:,}; restore it from a copy"
        )


# ---- with the collection of the folder


@contextmanager
def entries_of(folder: Path | None) -> Iterator[EntryFile | None]:
    """The entries of a collection's folder, to read; None if there are none."""
    if folder is None or not (folder / NAME).exists():
        yield None
        return
    try:
        found = open_key_values(folder, read_only=True)
    except NotFoundError:  # they were about to be made
        yield None
        return
    try:
        yield found
    finally:
        found.close()


def salvage(folder: Path, target: Path) -> list[str]:
    """Write what is intact of a folder's entries into another folder; what is damaged, one line each."""
    if not (folder / NAME).exists():
        return []
    with tempfile.TemporaryDirectory(dir=target) as work:
        try:
            catalogue = _Entries(_whole_length(folder, Path(work)))
        except BqstoreError as error:
            return [f"{NAME}: {error}; none of its entries could be saved"]
        try:
            found, problems = tables.intact(catalogue.main(), NAME)
        finally:
            with suppress(BqstoreError):
                catalogue.close()
    if found or not problems:
        with closing(open_key_values(target, read_only=False)) as entries:
            entries.restore(found)
    return problems


def _whole_length(folder: Path, work: Path) -> Path:
    """A copy of the file that is as long as it says it is: of one that was cut SQLite reads nothing."""
    for name in (NAME, f"{NAME}-wal"):
        with suppress(FileNotFoundError):
            shutil.copyfile(folder / name, work / name)
    with (work / NAME).open("r+b") as file:
        header = file.read(32)
        size = int.from_bytes(header[16:18], "big") * int.from_bytes(header[28:32], "big")
        if file.seek(0, os.SEEK_END) < size <= _LONGEST:
            file.truncate(size)
    return work / NAME


def erase(folder: Path | None, alone: bool) -> None:
    """Leave nothing of what was deleted or replaced in the file; under the folder's lock, ``alone`` if for life."""
    if folder is None or not (folder / NAME).exists():
        return
    place = Place(folder)
    try:
        catalogue = _opened(place, read_only=False)
        try:
            # who holds the lock for a commit must not wait for a thread that waits for the lock
            with _turns.setdefault(place.folder, threading.RLock()) if alone else nullcontext():
                catalogue.erase()
        finally:
            catalogue.close()
    finally:
        place.close()


_open: "weakref.WeakSet[EntryFile]" = weakref.WeakSet()


def _after_fork() -> None:
    _turns.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _close_all() -> None:
    for each in list(_open):
        with suppress(Exception):  # the others must be closed, too
            each.close()
