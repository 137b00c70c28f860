"""The lock of a folder's writers: waiting for it, fairly, and giving it up in forks.

A writer locks ``LOCK``: for one commit, or for as long as the collection is open. A lock ends with its descriptor, so
also after ``kill -9``. Nobody is woken: a waiting writer tries again every few milliseconds. So that none starves, only
one of them tries ``LOCK`` itself: the one that has locked a second file, the queue. A writer that has just committed
cannot be first again while another has the queue.
"""

import io
import os
import random
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..errors import FolderReplacedError, LockedError, StorageError
from ..forks import in_forks
from . import holder, platform
from .place import Entries

_FIRST: Final = 0.0003  # seconds between two tries of the writer that has the queue,
_LAST: Final = 0.02  # and at most
_QUEUE: Final = 0.05  # at most between two tries of the queue by a new writer, on average half of it
_AGE: Final = 0.2  # after so many seconds a writer tries twice as often
_STILL: Final = 0.25  # after so many seconds without a commit all try less often (the queue is SEQ, which counts them)

_for_life: "weakref.WeakSet[io.FileIO]" = weakref.WeakSet()
_files: "weakref.WeakSet[io.FileIO]" = weakref.WeakSet()


class WriterLock:
    """The lock at a path.

    Parameters
    ----------
    path : Path             the file that is locked; made if missing
    queue : str or None     the file of those who wait, beside it; None: nobody waits
    entries : Entries       of the folder
    """

    def __init__(self, path: Path, queue: str | None = None, entries: Entries | None = None) -> None:
        self._path, self._queue = path, queue
        self.entries = entries or Entries(path.parent)

    def open(self) -> io.FileIO:
        """The file, for ``with``: closing it gives the lock back. Raises StorageError.

        Opened for each lock, so that a LOCK that was removed keeps nobody from the one that is there now. A ``with`` of
        it cannot be interrupted between taking and giving back, as its end is not Python code.
        """
        try:
            return self._open(self._path.name)
        except FolderReplacedError:
            raise
        except StorageError as error:
            hint = "; read_only=True needs no lock" if self._queue is not None else ""
            raise StorageError(error.errno, f"{error.strerror}{hint}") from error

    def wait(self, file: io.FileIO, timeout: float, whole: bool = False) -> None:
        """Lock an open file within ``timeout`` seconds.

        Parameters
        ----------
        whole : bool    whether it is kept for as long as the collection is open, which the errors of others mention

        Raises LockedError, which names the holder; StorageError where the system cannot lock.
        """
        try:
            self._wait_somehow(file, timeout)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(error.errno, f"cannot lock {self._path}: {platform.reason(error)}") from error
        holder.write(file.fileno(), whole)
        if whole:
            _for_life.add(file)

    def _wait_somehow(self, file: io.FileIO, timeout: float) -> None:
        if timeout > 0 and self._queue is not None:
            with self._open(self._queue) as queue:
                try:
                    self._wait(file, queue, timeout)
                finally:
                    platform.unlock(queue.fileno())
        elif not self._try(file, self._path.name):
            raise self.refused(file, 0.0)

    def _wait(self, file: io.FileIO, queue: io.FileIO, timeout: float) -> None:
        """Look again and again: first at the queue, then, as its only holder, at the lock itself."""
        assert self._queue is not None
        began = moved = time.monotonic()
        first, pause, number = False, _FIRST, b""
        while True:
            now, seen = time.monotonic(), platform.read_at(queue.fileno(), 8, 0)
            waited, still = now - began, now - moved >= _STILL
            if seen != number:
                number, moved = seen, now
            first = first or self._try(queue, self._queue)
            # if nothing is committed, the process that has the queue may be stopped: then go past it
            if (first or still) and self._try(file, self._path.name):
                return
            if waited >= timeout or is_own_for_life(file):
                raise self.refused(file, waited)
            pause = min(pause * 1.3, _LAST)
            # who waits longer tries more often, unless somebody keeps the lock for long
            others = 2 * _LAST if still else _QUEUE / (1 + waited / _AGE)
            time.sleep(min(pause if first else random.random() * others, max(0.0, timeout - waited)))  # noqa: S311

    def _try(self, file: io.FileIO, name: str) -> bool:
        """Lock a file if it is free and still where it was opened."""
        try:
            if not platform.try_lock(file.fileno()):
                return False
        except OSError as error:
            raise StorageError(
                error.errno, f"cannot lock {self.entries.path / name}: {error.strerror}; use a local disk"
            ) from error
        if os.fstat(file.fileno()).st_nlink:
            return True
        with self._open(name) as new:  # it was removed, and others will lock the one that is there now
            os.dup2(new.fileno(), file.fileno(), inheritable=False)
        return False

    def _open(self, name: str) -> io.FileIO:
        try:
            file = self.entries.open_lock(name)
        except FolderReplacedError:
            raise
        except OSError as error:
            words = f"cannot open {self.entries.path / name}: {platform.reason(error)}"
            raise StorageError(error.errno, words) from error
        end_with_the_parent(file)
        return file

    def refused(self, file: io.FileIO, waited: float = 0.0) -> LockedError:
        """The error for a writer that does not get the lock; it names the holder."""
        after = f" (after waiting for {waited:.3g} s)" if waited >= 0.01 else ""
        return LockedError(
            f"{self._path.parent} has a writer already: {holder.described(file.fileno())}{after}; wait longer "
            "(lock_timeout=), or open with read_only=True"
        )


def unlock_and_close(file: io.FileIO) -> None:
    """Give a lock back; closing its file alone would leave it with a fork that was made meanwhile."""
    if not file.closed:
        platform.unlock(file.fileno())
        with suppress(OSError):  # it is unlocked, and the descriptor is gone either way
            file.close()


def is_own_for_life(file: io.FileIO) -> bool:
    """Whether this process holds the lock for as long as a collection is open, so that it would wait for itself."""
    mine = os.fstat(file.fileno())
    return any(not each.closed and os.path.samestat(os.fstat(each.fileno()), mine) for each in list(_for_life))


def end_with_the_parent(file: io.FileIO) -> None:
    """Close a locked file in forks: they share its lock, which must end with the parent."""
    _files.add(file)


def _after_fork() -> None:
    """In a fork: close the inherited descriptors of locked files, so that the locks end with the parent."""
    for file in list(_files):
        file.close()


in_forks(_after_fork)
