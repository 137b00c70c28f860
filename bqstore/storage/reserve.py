"""The file RESERVE: space that is given up when the disk is full, so that what makes room still works.

To open a collection, to delete and to compact takes some space, too: SQLite's shared memory, its log, the copy of
what is live. Whoever finds the disk full while doing one of these removes the file and tries once more. It is made
again when there is room. Nothing is ever read from it.

To open gives up a part, and closing takes back what is free: on a disk that something else fills, what is given up is
gone, and the next opening, or the deletion, would find nothing.
"""

import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from ..errors import BqstoreError, FolderReplacedError, StorageError
from . import platform
from .place import Entries

T = TypeVar("T")
NAME: Final = "RESERVE"
_LEAST: Final = 128 << 10  # bytes: SQLite's shared memory takes 32 KiB, and a deletion some ten pages of its log
_MOST: Final = 1 << 20
_PART: Final = 4  # of a collection, in between
_ROOM: Final = 8  # the disk must have so many times the size
_before: "weakref.WeakKeyDictionary[Entries, int]" = weakref.WeakKeyDictionary()  # bytes before some were given up


def keep(entries: Entries, collection_bytes: Callable[[], int]) -> None:
    """Make the file, or a larger one, if it is missing or small for a collection of a size, and the disk has room.

    Where the system refuses anything of that there is none, and nothing else is amiss.
    """
    with suppress(OSError):
        size = min(_MOST, max(_LEAST, collection_bytes() // _PART // _LEAST * _LEAST))
        if entries.size(NAME) < size and platform.free_bytes(entries.path) >= _ROOM * size:
            _grow(entries, size)


def take_back(entries: Entries) -> None:
    """Make the file as large as it was before it was given up, as far as the disk has room.

    Now, or by an earlier opening, which could not take back all of it.
    """
    with suppress(OSError):
        there = entries.size(NAME)
        size = _before.pop(entries, _whole(there))
        if there < size:
            _grow(entries, size)


def _whole(size: int) -> int:
    """What a file of a size was, of which opening has given up a part that was not quite taken back."""
    return -(-size // _LEAST) * _LEAST


def _grow(entries: Entries, size: int) -> None:
    fd = entries.open(NAME, os.O_WRONLY | os.O_CREAT)
    try:
        at = os.fstat(fd).st_size
        while at < size:  # not zeros, of which a compressing file system would keep nothing
            at += platform.write_at(fd, os.urandom(min(_LEAST, size - at)), at)
    finally:
        os.close(fd)


def give_up(entries: Entries) -> bool:
    """Remove the file; whether there was one."""
    size = 0
    with suppress(OSError):
        size = entries.size(NAME)
    try:
        entries.unlink(NAME)
    except OSError:
        return False
    _before.setdefault(entries, _whole(size))
    return True


def give_up_part(entries: Entries) -> bool:
    """Make the file smaller, by what opening takes; whether it was large enough for that."""
    with suppress(OSError):
        size = entries.size(NAME)
        if size > _LEAST:
            fd = entries.open(NAME, os.O_WRONLY)
            try:
                os.ftruncate(fd, size - _LEAST)
            finally:
                os.close(fd)
            _before.setdefault(entries, _whole(size))
            return True
    return False


def with_it(
    entries: Entries | None,
    action: Callable[[], T],
    before_again: Callable[[], object] = lambda: None,
    is_over: Callable[[], bool] = lambda: False,
    sparing: bool = False,
) -> T:
    """What an action returns; where the disk refuses it, once more after ``before_again``, without the reserve.

    ``sparing`` tries it with a part of the reserve before. ``is_over`` says that it must not be tried again: a commit
    that is in doubt may have been made.
    """
    try:
        return action()
    except StorageError as error:
        if entries is None or is_over() or not _may_help(error):
            raise
    if sparing and give_up_part(entries):
        try:
            return action()
        except StorageError as error:  # no less than all of it will do
            if is_over() or not _may_help(error):
                raise
    give_up(entries)
    before_again()
    return action()


def _may_help(error: StorageError) -> bool:
    """Whether it may be a full disk; SQLite does not always say so."""
    return is_full(error) or (error.errno is None and not isinstance(error, FolderReplacedError))


def is_full(error: BqstoreError) -> bool:
    """Whether the disk, or somebody's quota of it, is full."""
    return getattr(error, "errno", None) in platform.FULL
