"""``SEQ``: the number of the last commit in a small mapped file, so that others notice a commit by one memory read.

It is a hint. A reader that sees it change looks into SQLite, and does so now and then anyway: a lost or wrong number
causes a delay, never a wrong answer. It is written with pwrite, which all maps of the file see at once.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from . import platform
from .place import Entries

_NAME: Final = "SEQ"
_FORM: Final = "Q"
_BYTES: Final = 8


class CommitNumber:
    """The number in a folder's SEQ file.

    Attributes
    ----------
    now : sequence of one int   its only item is the number; never changes where there is no file
    """

    now: Sequence[int] = (0,)

    def __init__(self, entries: Entries | None, write: bool) -> None:
        self._entries, self._write = entries, write
        self._mapped: tuple[int, int] | None = None  # device and inode
        self.refresh()

    @property
    def is_mapped(self) -> bool:
        """Whether ``now`` follows the file."""
        return self._mapped is not None

    def refresh(self) -> None:
        """Map the file that is there now, made if missing and to be written. Where there is none, nothing is mapped."""
        if self._entries is None:
            return
        try:
            if self._entries.identity(_NAME) == self._mapped:
                return
        except FileNotFoundError:  # there is none
            pass
        except OSError:  # no descriptor is left, say: keep the old map, by which the folder is recognized at rest
            if self._mapped is not None:
                return
        self._mapped, self.now = None, (0,)
        self._entries.anchor = None
        with suppress(OSError, ValueError):  # a full disk: others then look into SQLite at every call
            fd = self._entries.open(_NAME, os.O_RDWR | os.O_CREAT if self._write else os.O_RDONLY)
            try:
                found = os.fstat(fd)
                if found.st_size < _BYTES and self._write:
                    platform.write_at(fd, bytes(_BYTES), 0)
                if found.st_size >= _BYTES or self._write:
                    self.now = platform.map_file(fd, _BYTES).cast(_FORM)
                    self._mapped = found.st_dev, found.st_ino
                    self._entries.anchor = _NAME, self._mapped
            finally:
                os.close(fd)

    def publish(self, seq: int) -> None:
        """Say that a commit has been made; under the lock. Opening the file takes a hundredth of a commit's time."""
        if self._entries is None or not self._write:
            return
        with suppress(OSError):
            fd = self._entries.open(_NAME, os.O_RDWR)
            try:
                platform.write_at(fd, seq.to_bytes(_BYTES, "little"), 0)
            finally:
                os.close(fd)

    def close(self) -> None:
        """Map no new file from now on; the map stays for searches under way."""
        self._entries = None
