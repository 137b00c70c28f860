"""One flat file of fixed-size records, on disk or in memory: write, sync, read, map. Knows no rows and no commits.

Records are written with pwrite, at or past the committed count only; committed records are never overwritten, but for
codes that are damaged (`FlatFiles.mend`).
Searches read them in place, through a shared read-only map of the file. The file is grown ahead of its records, so that
most appends need no new map. Nobody writes through the map: a full disk would be a SIGBUS there, and is an error here.
"""

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RESTORE, BqstoreError, ClosedError, CorruptionError, StorageError
from . import platform
from .descriptors import Descriptor
from .format import F32, HEADER_BYTES, NO_PARAMETERS, U32, Layout, check_header, damaged, header_bytes, header_length
from .place import Entries
from .readahead import ReadAhead

_PIECE = 16 << 20  # bytes read or written in one system call
_AHEAD = 256 << 20  # a file grows by half its size, at most by so many bytes; the unwritten part is a hole


@contextmanager
def storage_errors(action: str, consequence: str = "") -> Iterator[None]:
    """Turn an error of the operating system into a StorageError: "cannot <action>: <reason><consequence>"."""
    try:
        yield
    except BqstoreError:  # a StorageError is an OSError, too
        raise
    except OSError as error:
        raise StorageError(error.errno, f"cannot {action}: {platform.reason(error)}{consequence}") from error


class RecordFile:
    """A flat file as the collection uses it. The methods that a file in memory does not need do nothing here.

    Attributes
    ----------
    name : str                      for messages
    parameters : float32 (count,)   of a codes file: the encoder's parameters; C-order, read-only, empty if it has none
    header_length : int             bytes before the first record; 0 in memory
    """

    header_length = 0
    parameters: F32

    def __init__(self, name: str, layout: Layout) -> None:
        self.name = name
        self.layout = layout
        self.read_ahead = ReadAhead()

    def reserve(self, count: int) -> None:
        """Make room for ``count`` records in all, if writing them one after the other would copy them."""

    @abstractmethod
    def write(self, slot: int, records: U32) -> None:
        """Write records from a slot on. They are durable after `sync`."""

    def sync(self) -> None:
        """Return when all written records are durable. Raises OSError."""

    @abstractmethod
    def read(self, slot: int, count: int) -> U32:
        """A copy of records, uint32 (count, words)."""

    def read_checked(self, slots: NDArray[np.int64]) -> U32:
        """A copy of the records in ascending slots that lie close together, uint32 (n, words).

        Raises CorruptionError if one of them does not match its checksum.
        """
        first = int(slots[0])
        records = self.read(first, int(slots[-1]) - first + 1)
        if len(records) > len(slots):
            records = records[slots - first]
        bad = damaged(records)
        if bad.any():
            raise CorruptionError(
                f"record {int(slots[bad.argmax()]):,} of {self.name} does not match its checksum; {RESTORE}"
            )
        return records

    @abstractmethod
    def view(self, count: int) -> U32:
        """The first records in place, uint32 (at least count, words), read-only; undefined past ``count``."""

    def check_header(self) -> None:
        """Raise CorruptionError if the header or the parameters have changed since opening."""

    def check_size(self, count: int) -> None:
        """Raise CorruptionError if the file is too short for ``count`` records: reading its map would be a SIGBUS."""

    def check_name(self) -> None:
        """Raise CorruptionError if the file was removed, or replaced by another: who opens it next finds no record."""

    def prefetch(self, slots: NDArray[np.int32]) -> None:
        """Ask the system to read records, all at once. Slots may repeat; negative ones are ignored."""

    def trim(self, count: int) -> None:
        """Cut off the space that the file was grown ahead of its records."""

    def rest(self) -> None:
        """Give the descriptor back until it is needed again."""


class MemoryFile(RecordFile):
    """Records in memory, of a collection without a folder."""

    def __init__(self, layout: Layout, parameters: F32 = NO_PARAMETERS) -> None:
        super().__init__(f"{layout.kind} in memory", layout)
        self.parameters = np.array(parameters, np.float32)  # a copy: the caller may change its own
        self.parameters.flags.writeable = False
        self._words = np.zeros((0, layout.record_bytes // 4), np.uint32)

    def reserve(self, count: int) -> None:  # noqa: D102
        if count > len(self._words):  # views of earlier searches keep the old array
            grown = np.zeros((count, self._words.shape[1]), np.uint32)
            grown[: len(self._words)] = self._words
            self._words = grown

    def write(self, slot: int, records: U32) -> None:  # noqa: D102
        end = slot + len(records)
        if end > len(self._words):
            self.reserve(max(end, len(self._words) * 3 // 2, 64))
        self._words[slot:end] = records

    def read(self, slot: int, count: int) -> U32:  # noqa: D102
        return self._words[slot : slot + count].copy()

    def view(self, count: int) -> U32:  # noqa: D102
        view = self._words[:]
        view.flags.writeable = False
        return view


class DiskFile(RecordFile):
    """Records in a file.

    Its descriptor is held by an object. `rest` drops that at any moment, so keep the object while you use its number.
    """

    def __init__(self, path: Path, layout: Layout, fd: int, flags: int, entries: Entries | None) -> None:
        self._descriptor: Descriptor | None = Descriptor(fd)
        super().__init__(path.name, layout)
        self.path = path
        self._entries = entries or Entries(path.parent)
        self._flags = flags
        self._map = memoryview(b"")
        self._view: U32 | None = None
        self._unsynced: Descriptor | None = None  # the descriptor that unsynced records were written by
        found = os.fstat(fd)
        self._identity = found.st_dev, found.st_ino

    def _with_header(self, header: bytes, generation: int, store_id: int) -> "DiskFile":
        self.parameters = check_header(self.name, header, self.layout, generation, store_id)
        self._header, self.header_length = header, len(header)
        return self

    @classmethod
    def create(
        cls,
        path: Path,
        layout: Layout,
        generation: int,
        store_id: int,
        parameters: F32 = NO_PARAMETERS,
        entries: Entries | None = None,
    ) -> "DiskFile":
        """Make a file with its header, durably; it replaces what an interrupted first write has left there."""
        header = header_bytes(layout, generation, store_id, parameters)
        with storage_errors(f"create {path}"):
            fd = make_file(path, lambda fd: write_all(fd, header, 0), entries)
            file = cls(path, layout, fd, os.O_RDWR, entries)
        return file._with_header(header, generation, store_id)

    @classmethod
    def open(
        cls,
        path: Path,
        layout: Layout,
        generation: int,
        store_id: int,
        count: int,
        read_only: bool,
        entries: Entries | None = None,
    ) -> "DiskFile":
        """Open a file; its header and size are checked before anything is mapped. Raises OSError, CorruptionError."""
        flags = os.O_RDONLY if read_only else os.O_RDWR
        fd = (entries or Entries(path.parent)).open(path.name, flags)
        file = cls(path, layout, fd, flags, entries)
        length = header_length(path.name, platform.read_at(fd, HEADER_BYTES, 0), layout)
        least = min(length, os.fstat(fd).st_size)  # a damaged length must not ask for more than there is
        header = platform.read_at(fd, least, 0)
        file._with_header(header, generation, store_id)
        file.check_size(count)
        return file

    def _held(self) -> Descriptor:
        """The descriptor of the file, opened again after a `rest`. Raises OSError, CorruptionError.

        Keep the object, never its number alone: another thread may call `rest`, and the number become another file's.
        """
        return self._descriptor or self._again()

    def _again(self) -> Descriptor:
        if self._entries.is_closed:
            raise ClosedError("this collection is closed; open it again")
        self._entries.wake()
        held = Descriptor(self._entries.open(self.name, self._flags))
        found = os.fstat(held.fd)
        if (found.st_dev, found.st_ino) != self._identity:
            raise self._replaced()
        self._descriptor = held
        return held

    def rest(self) -> None:
        """Give the descriptor back. A map stays, so that the system gives the inode to no other file.

        With the map, who holds this object can also read on after a compaction has removed the file.
        """
        with suppress(BqstoreError, OSError):  # such as: no address space
            if self._descriptor is not None:
                self.view(self.slots)
                self._descriptor = None

    def _is_mapped(self, count: int) -> bool:
        return self._view is not None and len(self._view) >= count

    @property
    def slots(self) -> int:
        """Whole records that the file has room for."""
        return max(0, self._size() - self.header_length) // self.layout.record_bytes

    def _size(self) -> int:
        held = self._held()
        return os.fstat(held.fd).st_size

    def _offset(self, slot: int) -> int:
        return self.header_length + slot * self.layout.record_bytes

    def _pwrite(self, data: bytes | memoryview, offset: int) -> None:
        # all pieces by one descriptor, even if `rest` comes in between: see `sync`
        self._unsynced = held = self._unsynced or self._held()
        write_all(held.fd, data, offset)

    def write(self, slot: int, records: U32) -> None:  # noqa: D102
        with storage_errors(f"write {self.name}", "; nothing was changed"):
            end, held = self._offset(slot + len(records)), self._held()
            size = os.fstat(held.fd).st_size
            if size < self._offset(slot):  # somebody has cut it: zeros would replace the records
                raise self._cut_short(size, slot)
            if end > size:
                os.ftruncate(held.fd, max(end, min(size + size // 2, size + _AHEAD)))
            self._pwrite(np.ascontiguousarray(records).data, self._offset(slot))

    def sync(self) -> None:  # noqa: D102
        # by the descriptor that has written: a new one may not get an error from before it was opened
        held = self._unsynced or self._held()
        platform.sync_file(held.fd)
        self._unsynced = None

    def read(self, slot: int, count: int) -> U32:  # noqa: D102
        self.check_size(slot + count)
        out = np.empty((count, self.layout.record_bytes // 4), np.uint32)
        with storage_errors(f"read {self.name}"):
            try:
                held = self._held()
                done = read_all(held.fd, out, self._offset(slot))
            except FileNotFoundError:  # removed by a compaction while at rest: nobody can cut it any more
                return self.view(slot + count)[slot : slot + count].copy()
        if done < out.nbytes:
            end = self._offset(slot) + done
            raise CorruptionError(f"{self.name} ended at byte {end:,} while being read; {RESTORE}")
        return out

    def view(self, count: int) -> U32:  # noqa: D102
        while self._view is None or not self._is_mapped(count):
            with storage_errors(f"map {self.name}"):
                held = self._held()
                size = os.fstat(held.fd).st_size
            slots = (size - self.header_length) // self.layout.record_bytes
            words = self.layout.record_bytes // 4
            # the map lives as long as any array refers to it, so that no search loses it
            try:
                data = platform.map_file(held.fd, self._offset(slots))
            except ValueError:  # cut after its size was read: trimmed by a process that closes, or damaged
                self.check_size(count)
                continue
            except OSError as error:  # out of address space
                raise StorageError(f"cannot map {self.name}: {error}") from error
            self._map = data
            flat = np.frombuffer(data, np.uint32, slots * words, self.header_length)
            self._view = flat.reshape(slots, words)
        return self._view

    def check_header(self) -> None:  # noqa: D102
        with storage_errors(f"read {self.name}"):
            try:
                held = self._held()
                found = platform.read_at(held.fd, len(self._header), 0)
            except FileNotFoundError:
                found = bytes(self._map[: len(self._header)])
        if found != self._header:
            what = "header" if found[:HEADER_BYTES] != self._header[:HEADER_BYTES] else "block of parameters"
            raise CorruptionError(f"the {what} of {self.name} is damaged; {RESTORE}")

    def check_size(self, count: int) -> None:  # noqa: D102
        # lseek tells the size in a third of fstat's time; nothing reads at the position that it sets
        need = self._offset(count)
        try:  # not `storage_errors`, as each search passes here
            held = self._descriptor or self._again()
            size = os.lseek(held.fd, 0, os.SEEK_END)
        except FileNotFoundError as error:
            if not self._is_mapped(count):
                raise StorageError(error.errno, f"{self.path} is not there any more; try again") from error
            return
        except OSError as error:
            if isinstance(error, BqstoreError):
                raise
            raise StorageError(error.errno, f"cannot look at {self.name}: {platform.reason(error)}") from error
        if size < need:
            raise self._cut_short(size, count)

    def _cut_short(self, size: int, count: int) -> CorruptionError:
        return CorruptionError(
            f"{self.name} holds {size:,} bytes; its {count:,} committed records need {self._offset(count):,}: "
            f"it was cut short; {RESTORE}"
        )

    def check_name(self) -> None:  # noqa: D102
        with storage_errors(f"look at {self.name}", "; nothing was changed"):
            try:
                if self._entries.identity(self.name) == self._identity:
                    return
            except FileNotFoundError as error:
                raise CorruptionError(
                    f"{self.path} was removed while open, and the next opening will miss it; here it is read still: "
                    f"make the files anew with requantize(), or {RESTORE}"
                ) from error
        raise self._replaced()

    def _replaced(self) -> CorruptionError:
        return CorruptionError(f"{self.path} was replaced while open; close the collection and open it again")

    def prefetch(self, slots: NDArray[np.int32]) -> None:  # noqa: D102
        for slot in np.unique(slots[slots >= 0]).tolist():  # in the order of the disk
            held = self._held()
            platform.will_need(held.fd, self._offset(slot), self.layout.record_bytes)

    def trim(self, count: int) -> None:  # noqa: D102
        held = self._held()
        if os.fstat(held.fd).st_size > self._offset(count):  # else leave the file's times alone
            os.ftruncate(held.fd, self._offset(count))


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of the data at an offset."""
    view = memoryview(data).cast("B")
    while view:  # a full disk may accept a part first and refuse the rest
        done = platform.write_at(fd, view[:_PIECE], offset)
        view, offset = view[done:], offset + done


def read_all(fd: int, out: NDArray[Any], offset: int) -> int:
    """Fill a contiguous array with the bytes at an offset; how many there were, fewer at the end of the file."""
    view, done = out.reshape(-1).view(np.uint8).data, 0
    while done < len(view) and (got := platform.read_into(fd, view[done : done + _PIECE], offset + done)):
        done += got
    return done


def make_file(path: Path, fill: Callable[[int], None], entries: Entries | None = None) -> int:
    """Make a file that is complete and durable, or absent. Returns its descriptor. ``entries``: of its folder.

    It is filled under a temporary name, synced and renamed, and its folder is synced. A file of the same name is
    replaced. After an exception the temporary file is removed, if it can be.
    """
    entries, temporary = entries or Entries(path.parent), path.with_suffix(".tmp").name
    fd = None
    try:
        fd = entries.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        fill(fd)
        platform.sync_file(fd)
        entries.replace(path.name, by=temporary)
        entries.sync()
    except BaseException:
        if fd is not None:
            os.close(fd)
        with suppress(OSError):
            entries.unlink(temporary)
        raise
    return fd
