"""File systems on which a write through a map of a file ends the process (SIGBUS) when the disk is full.

SQLite's -shm is such a map. btrfs and bcachefs, which overwrite no block in place, need a free block for such a write
even where the file is long there; so does a file system whose blocks are smaller than a page. Without one the system
has no error to return, only SIGBUS, in the middle of a commit. So before a commit as many bytes as SQLite is about to
write are written to a file without a name and given back: that fails with an error. Searches need no such check, as
they write to the map only after a commit. Closing the last connection writes to it, too: where there is no room even
without the reserve, it stays open.
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
_MOST: Final = 16 << 20  # at most: in a larger commit, writing the vectors or the log fails first


def maps_need_room(folder: Path) -> bool:
    """Whether a folder is on such a file system; False where files without a name, which ask for room, do not exist."""
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
