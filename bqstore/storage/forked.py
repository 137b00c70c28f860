"""Connections to `meta.db` in a fork: those of the parent are not its own, and must be closed in a certain order.

Knows what SQLite remembers of locks and logs in a process; the rest of a `Catalogue` is in ``catalogue.py``.
"""

import os
import sqlite3
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..errors import BqstoreError, StorageError
from ..forks import in_forks
from . import platform

_SHARED_BYTES: Final = (0x40000002, 510)  # of a database, which SQLite locks exclusively to close the last connection


class Using:
    """Within it a connection counts as in use, for forks and for `rest`.

    A class, as every search uses it. If an interrupt skips the end of the block, it ends when the object is collected.
    """

    __slots__ = ("_those",)

    def __init__(self, *those: set[int]) -> None:
        self._those = those

    def __enter__(self) -> None:
        for each in self._those:
            each.add(id(self))

    def __exit__(self, *exception: object) -> None:
        for each in self._those:
            each.discard(id(self))
        self._those = ()

    def __del__(self) -> None:
        try:
            for each in self._those:
                each.discard(id(self))
        except AttributeError:  # an interrupt came before __init__
            pass


class Inheritable:
    """What a fork finds of a catalogue of its parent.

    Parameters
    ----------
    path : Path or None         None: in memory, where a fork has a copy
    """

    _main: sqlite3.Connection | None

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._in_use: set[int] = set()  # by the threads of this process, now
        self._guard = -1  # in a fork, until it ends: a descriptor whose lock keeps SQLite from removing the log
        self._torn = False  # in a fork: a thread that it does not have was using a connection
        self._closed = False
        self._writes = False
        if path is not None:
            _close_inherited(path)
        _all.add(self)

    def close(self) -> None:
        """Close its connections."""
        raise NotImplementedError

    def is_at(self, path: Path) -> bool:
        """Whether its file is the one at a path."""
        assert self._path is not None
        try:
            return self._path == path or self._path.samefile(path)
        except OSError:  # it is gone, or this process may not see it
            return False

    def _keep_from_tidying(self) -> None:
        """In a fork: keep the inherited connection from removing the log when it is closed.

        If the parent has closed by then, it would take itself for the last connection and remove the log, which may be
        that of another process. A lock that belongs to a descriptor, not to the process, shows SQLite that the file is
        in use.
        """
        assert self._path is not None
        if not self._writes:
            return
        with suppress(OSError):
            self._guard = os.open(self._path, os.O_RDONLY)
            platform.share_bytes(self._guard, *_SHARED_BYTES)
        # where descriptors cannot have locks
        if sys.version_info >= (3, 12) and not self._torn and self._main is not None:
            with suppress(sqlite3.Error):
                self._main.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)


_all: "weakref.WeakSet[Inheritable]" = weakref.WeakSet()
_inherited: list[Inheritable] = []  # in a fork: kept alive, to be closed in the right order


def _close_inherited(path: Path) -> None:
    """In a fork: close the connections to a file that are its parent's, before one of its own is opened.

    SQLite remembers which locks the process holds on a file, and a fork inherits that memory without the locks. A
    connection of its own would therefore take none: another process could take itself for the last one and remove the
    log, and what the fork writes into it would be lost. Raises StorageError if a connection was in use at the moment of
    the fork, as its state is half changed.
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


in_forks(_after_fork)
