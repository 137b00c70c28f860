"""A flat file of fixed records, on disk or in memory: append, sync, view. Knows layouts, no rows and no commits.

Records are only ever written at or past the committed count, with pwrite; what lies below it is never touched again.
Reading in place goes through a shared read-only map of the file, grown ahead of the records so that most appends
need no new map. Nobody writes through it: a full disk would be a SIGBUS there, and is an error here.
"""

import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptionError, StorageError
from . import platform
from .format import F32, HEADER_BYTES, NO_PARAMETERS, U32, Layout, check_header, header_bytes, header_length
from .readahead import ReadAhead

_PIECE = 16 << 20  # bytes read or written in one call
_AHEAD = 256 << 20  # a file is grown by half of itself, at most by this much; the end is a hole until written


class RecordFile(Protocol):
    """What the collection asks of a flat file; `DiskFile` and `MemoryFile` give it.

    Attributes
    ----------
    parameters : float32 (count,)   of codes, what encoding was trained to; C-order, read-only, empty if there are none
    header_length : int             bytes before the first record; 0 in memory
    """

    name: str
    layout: Layout
    parameters: F32
    header_length: int
    read_ahead: ReadAhead

    def reserve(self, count: int) -> None:
        """Make room for so many records in all, so that writing them need not grow it further."""

    def write(self, slot: int, records: U32) -> None:
        """Write records from a slot on; not durable before `sync`."""

    def sync(self) -> None:
        """Return when all written records are durable."""

    def read(self, slot: int, count: int) -> U32:
        """A copy of records, uint32 (count, words)."""

    def view(self, count: int) -> U32:
        """The first records in place, uint32 (at least count, words), read-only; past ``count`` undefined."""

    def check_header(self) -> None:
        """Raise CorruptionError if the header or the parameters are no more what they were at opening."""

    def check_size(self, count: int) -> None:
        """Raise CorruptionError if the file is too short for the records: reading its map would kill the process."""

    def prefetch(self, slots: NDArray[np.int32]) -> None:
        """Ask for records to be read from the disk, all at once; slots may repeat, and below 0 mean none."""

    def trim(self, count: int) -> None:
        """Cut off what was grown ahead of the records."""


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write at an offset, all of it."""
    view = memoryview(data).cast("B")
    while view:  # a full disk may take a part first and refuse the rest
        done = os.pwrite(fd, view[:_PIECE], offset)
        view, offset = view[done:], offset + done


def make_file(path: Path, fill: Callable[[int], None]) -> int:
    """Make a file that is whole and durable, or not there: its descriptor.

    It is filled under a temporary name, synced, renamed, and the folder synced; what had the name before is replaced.
    After any exception the temporary is removed, if it can be.
    """
    temporary = path.with_suffix(".tmp")
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    fd = None
    try:
        fd = os.open(temporary, flags, 0o600)
        fill(fd)
        platform.sync_file(fd)
        temporary.replace(path)
        platform.sync_folder(path.parent)
    except BaseException:
        if fd is not None:
            os.close(fd)
        with suppress(OSError):
            temporary.unlink()
        raise
    return fd


class MemoryFile:
    """Records in memory, for a collection without a folder."""

    header_length = 0

    def __init__(self, layout: Layout, parameters: F32 = NO_PARAMETERS) -> None:
        self.layout = layout
        self.parameters = np.array(parameters, np.float32)  # a copy, as a file has one
        self.parameters.flags.writeable = False
        self.read_ahead = ReadAhead()
        self.name = f"{layout.kind} in memory"
        self._words = np.zeros((0, layout.record_bytes // 4), np.uint32)

    def reserve(self, count: int) -> None:  # noqa: D102
        if count > len(self._words):  # old views keep the old array: what is published never moves
            grown = np.zeros((count, self._words.shape[1]), np.uint32)
            grown[: len(self._words)] = self._words
            self._words = grown

    def write(self, slot: int, records: U32) -> None:  # noqa: D102
        end = slot + len(records)
        if end > len(self._words):
            self.reserve(max(end, len(self._words) * 3 // 2, 64))
        self._words[slot:end] = records

    def sync(self) -> None:  # noqa: D102
        pass

    def read(self, slot: int, count: int) -> U32:  # noqa: D102
        return self._words[slot : slot + count].copy()

    def view(self, count: int) -> U32:  # noqa: D102
        view = self._words[:]
        view.flags.writeable = False
        return view

    def check_header(self) -> None:  # noqa: D102
        pass

    def check_size(self, count: int) -> None:  # noqa: D102
        pass

    def prefetch(self, slots: NDArray[np.int32]) -> None:  # noqa: D102
        pass

    def trim(self, count: int) -> None:  # noqa: D102
        pass


class DiskFile:
    """Records in a file."""

    _fd = -1  # none, for one whose making is interrupted

    def __init__(self, path: Path, layout: Layout, fd: int) -> None:
        self._fd = fd
        self.path = path
        self.layout = layout
        self.read_ahead = ReadAhead()
        self.name = path.name
        self._view: U32 | None = None

    def _take_header(self, header: bytes, parameters: F32) -> "DiskFile":
        self._header, self.parameters = header, parameters
        self.header_length = len(header)
        return self

    @classmethod
    def create(
        cls, path: Path, layout: Layout, generation: int, store_id: int, parameters: F32 = NO_PARAMETERS
    ) -> "DiskFile":
        """A new file with its header, durable in its folder; replaces what an unfinished commit has left there."""
        header = header_bytes(layout, generation, store_id, parameters)
        try:
            file = cls(path, layout, make_file(path, lambda fd: write_all(fd, header, 0)))
        except OSError as error:
            raise StorageError(error.errno, f"cannot create {path}: {error.strerror}") from error
        return file._take_header(header, check_header(path.name, header, layout, generation, store_id))

    @classmethod
    def open(
        cls, path: Path, layout: Layout, generation: int, store_id: int, count: int, read_only: bool
    ) -> "DiskFile":
        """An existing file, its header and size checked before anything is mapped."""
        mode = os.O_RDONLY if read_only else os.O_RDWR
        fd = os.open(path, mode | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        file = cls(path, layout, fd)
        length = header_length(path.name, os.pread(fd, HEADER_BYTES, 0), layout)
        header = os.pread(fd, min(length, os.fstat(fd).st_size), 0)  # whoever wrote the length: no more than there is
        file._take_header(header, check_header(path.name, header, layout, generation, store_id))
        file.check_size(count)
        return file

    def _offset(self, slot: int) -> int:
        return self.header_length + slot * self.layout.record_bytes

    def _pwrite(self, data: bytes | memoryview, offset: int) -> None:
        write_all(self._fd, data, offset)

    def reserve(self, count: int) -> None:  # noqa: D102
        pass  # growing costs nothing

    def write(self, slot: int, records: U32) -> None:  # noqa: D102
        try:
            end = self._offset(slot + len(records))
            size = os.fstat(self._fd).st_size
            if end > size:
                os.ftruncate(self._fd, max(end, min(size + size // 2, size + _AHEAD)))
            self._pwrite(np.ascontiguousarray(records).data, self._offset(slot))
        except OSError as error:
            raise StorageError(
                error.errno, f"cannot write {self.name}: {error.strerror}; nothing was changed"
            ) from error

    def sync(self) -> None:  # noqa: D102
        platform.sync_file(self._fd)

    def read(self, slot: int, count: int) -> U32:  # noqa: D102
        self.check_size(slot + count)
        out = np.empty((count, self.layout.record_bytes // 4), np.uint32)
        view, offset = out.data.cast("B") if out.size else memoryview(b""), self._offset(slot)
        while view:
            try:
                done = os.preadv(self._fd, [view[:_PIECE]], offset)
            except OSError as error:
                raise StorageError(error.errno, f"cannot read {self.name}: {error.strerror}") from error
            if done == 0:
                raise CorruptionError(f"{self.name} ended at byte {offset:,} while being read; restore it from a copy")
            view, offset = view[done:], offset + done
        return out

    def view(self, count: int) -> U32:  # noqa: D102
        if self._view is None or len(self._view) < count:
            size = os.fstat(self._fd).st_size
            slots = (size - self.header_length) // self.layout.record_bytes
            words = self.layout.record_bytes // 4
            if slots == 0:
                self._view = np.zeros((0, words), np.uint32)
                self._view.flags.writeable = False
                return self._view
            # the map lives as long as an array looks at it; it is never closed under a search
            try:
                data = mmap.mmap(self._fd, self._offset(slots), access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:  # no address space; cut since its size was asked for
                raise StorageError(f"cannot map {self.name}: {error}") from error
            flat = np.frombuffer(data, np.uint32, slots * words, self.header_length)
            self._view = flat.reshape(slots, words)
        return self._view

    def check_header(self) -> None:  # noqa: D102
        try:
            found = os.pread(self._fd, len(self._header), 0)
        except OSError as error:
            raise StorageError(error.errno, f"cannot read {self.name}: {error.strerror}") from error
        if found != self._header:
            what = "header" if found[:HEADER_BYTES] != self._header[:HEADER_BYTES] else "block of parameters"
            raise CorruptionError(f"the {what} of {self.name} is damaged; restore it from a copy")

    def check_size(self, count: int) -> None:  # noqa: D102
        # a seek tells the size in a third of fstat's time; nothing here reads from where it leads
        size, need = os.lseek(self._fd, 0, os.SEEK_END), self._offset(count)
        if size < need:
            raise CorruptionError(
                f"{self.name} holds {size:,} bytes; its {count:,} committed records need {need:,}: "
                "it was cut short; restore it from a copy"
            )

    def prefetch(self, slots: NDArray[np.int32]) -> None:  # noqa: D102
        for slot in np.unique(slots[slots >= 0]).tolist():  # by offset, as a disk likes it
            platform.will_need(self._fd, self._offset(slot), self.layout.record_bytes)

    def trim(self, count: int) -> None:  # noqa: D102
        if os.fstat(self._fd).st_size > self._offset(count):  # else leave the file's times alone
            os.ftruncate(self._fd, self._offset(count))

    def __del__(self) -> None:
        # closed when the last search that holds it is done, so that no search meets another file's descriptor
        if self._fd >= 0:
            os.close(self._fd)
