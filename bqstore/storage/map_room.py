"""File systems where a map of a file can be written only while the disk has room, however long the file is there.

SQLite's -shm is such a map. Where btrfs or bcachefs, which write no block twice, has no block left, or a file system
of blocks smaller than a page has not all of a page's, the system can say so by SIGBUS alone, which ends the process,
in the middle of a commit. So as much as SQLite is about to write is written to a file without a name before, and
given back: that fails with an error. Not for searches, which write to the map after a commit only. To close the last
connection is to write to it, too: where there is no room even without the reserve, it stays open.
"""

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from . import platform

KINDS: Final = ("btrfs", "bcachefs")
_PAGE: Final = 4096  # bytes; SQLite writes into each when it makes a map larger
_MAPPED: Final = 64 << 10  # bytes of the -shm that a commit writes, and as much again
_FIRST: Final = 32  # changed rows that may take a page of the log each
_OF_ONE: Final = 256  # bytes of the log, for each further one
_MOST: Final = 16 << 20  # of a larger commit the vectors have found the disk full already, or its log does


def maps_need_room(folder: Path) -> bool:
    """Whether the file system of a folder is one; False where no file without a name can be made to ask for room."""
    small = False
    if not hasattr(os, "O_TMPFILE"):  # macOS
        return False
    with suppress(OSError, AttributeError):  # there is none, or no such call
        small = os.statvfs(folder).f_frsize < _PAGE
    return small or platform.file_system(folder) in KINDS


def check_room(folder: Path, rows: int) -> None:
    """Raise OSError (ENOSPC, EDQUOT) unless there is room for the commit of so many changed rows."""
    size = min(_MOST, _MAPPED + min(rows, _FIRST) * _PAGE + rows * _OF_ONE)
    try:
        fd = os.open(folder, os.O_WRONLY | os.O_TMPFILE, 0o600)
        try:
            written = 0
            while written < size:
                written += platform.write_at(fd, bytes(size - written), written)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in platform.FULL:  # else it cannot be known, and SQLite will say
            raise


def leave_open(connection: Any) -> None:
    """Keep a connection until the process ends, without closing it then: that would write to the map."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
