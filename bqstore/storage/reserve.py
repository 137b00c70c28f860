"""The file RESERVE: space that is given up when the disk is full, so that what makes room still works.

Opening, deleting and compacting take some space, too: for SQLite's shared memory, its log, the copy of live records. If
the disk is full then, the file is removed and the call tried once more. The file is made again when there is room.
Nothing is ever read from it.

Opening gives up only a part, and closing takes that back if it is still free: on a disk that other programs fill, space
that was given up is gone, and a later opening or deletion would have nothing to give up.
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
_PART: Final = 4  # between these bounds, one in so many bytes of the collection
_ROOM: Final = 8  # the disk must have so many times the size
_before: "weakref.WeakKeyDictionary[Entries, int]" = weakref.WeakKeyDictionary()  # bytes before some were given up


def keep(entries: Entries, collection_bytes: Callable[[], int]) -> None:
    """Make the file if it is missing, or larger if it is small for the collection, and the disk has room.

    If the system refuses, there is no reserve; that is no error.
    """
    with suppress(OSError):
        size = min(_MOST, max(_LEAST, collection_bytes() // _PART // _LEAST * _LEAST))
        if entries.size(NAME) < size and platform.free_bytes(entries.path) >= _ROOM * size:
            _grow(entries, size)


def take_back(entries: Entries) -> None:
    """Make the file as large as it was before it was given up, as far as the disk has room.

    It was given up now, or by an earlier opening that could not take back all of it.
    """
    with suppress(OSError):
        there = entries.size(NAME)
        size = _before.pop(entries, _whole(there))
        if there < size:
            _grow(entries, size)


def _whole(size: int) -> int:
    """The full size of a file that has this size because a part was given up and not all of it taken back."""
    return -(-size // _LEAST) * _LEAST


def _grow(entries: Entries, size: int) -> None:
    fd = entries.open(NAME, os.O_WRONLY | os.O_CREAT)
    try:
        at = os.fstat(fd).st_size
        while at < size:  # not zeros, which a compressing file system would not store
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
    """Make the file smaller by what an opening needs; whether it was large enough for that."""
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
    """Call an action; if the disk refuses it, give up the reserve, call ``before_again``, and call it once more.

    ``sparing``: gives up only a part of the reserve first. ``is_over``: whether it must not be called again, since a
    commit that is in doubt may have been made.
    """
    try:
        return action()
    except StorageError as error:
        if entries is None or is_over() or not _may_help(error):
            raise
    if sparing and give_up_part(entries):
        try:
            return action()
        except StorageError as error:  # it takes the whole reserve
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
