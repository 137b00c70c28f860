"""Snapshots: the graph and other derived state on disk, so that opening need not derive it again.

A snapshot holds named arrays, whose meaning is the caller's, as of one commit. It is written whole and never changed.
Losing one costs time, no data. One that is damaged, of another collection, or of a commit that does not exist (as when
the folder is an older copy) is ignored, and a sentence says why. It is verified by reading the file, since a failing
disk under a map would end the process; then it is mapped privately, so that changes of its arrays stay in memory.
"""

import mmap
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptionError
from . import platform
from .files import RecordFile, make_file, read_all, storage_errors, write_all
from .format import CODE_HEADER_WORDS, U64, digest64
from .head import Head
from .place import Entries
from .snapshot_format import (
    PIECE,
    PREFIX,
    Header,
    Section,
    UnusableError,
    header_length,
    parse_header,
    pieces_of,
    place_sections,
    section_sum,
    size_of,
)

_NAME = re.compile(r"snap-(\d+)-(\d+)\.(bin|tmp)")
_SAMPLES = 16
_TRIES = 5  # to open one; each fails only if a writer has just replaced the snapshot


@dataclass(frozen=True)
class Snapshot:
    """Derived state of one commit.

    Attributes
    ----------
    n : int             slots covered
    seq : int           the commit
    numbers : dict      as given to `Store.write_snapshot`
    arrays : dict       in a private map of the file: what is written into them stays in this process
    mapped : Mapped     tells whether that file is still whole
    """

    n: int
    seq: int
    numbers: dict[str, int]
    arrays: dict[str, NDArray[Any]]
    mapped: "Mapped"
    _map: memoryview = field(repr=False)
    _sections: dict[str, Section] = field(repr=False)

    def release(self, names: Iterable[str]) -> None:
        """Let the system drop these arrays from memory; reading them again takes them from the file."""
        for name in names:
            section = self._sections[name]
            first = -(-section.offset // mmap.PAGESIZE) * mmap.PAGESIZE  # whole pages: neighbors keep their changes
            last = (section.offset + section.n_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                platform.forget(self._map, first, last - first)


@dataclass(frozen=True)
class Mapped:
    """The file of a mapped snapshot. If it is removed or replaced, the map stays whole; if it is cut, it does not."""

    name: str
    identity: tuple[int, int]
    size: int

    def is_there(self, folder: Path) -> bool:
        """Whether the file still has its name in the folder at this path.

        Raises CorruptionError if it was cut: reading the map would be a SIGBUS.
        """
        try:
            found = os.stat(folder / self.name)  # noqa: PTH116 - by path: the folder's descriptor may be at rest
            if (found.st_dev, found.st_ino) != self.identity:
                return False
            size = found.st_size
        except OSError:  # removed; or not accessible now, which the check of the folder reports
            return False
        if size < self.size:
            raise CorruptionError(
                f"{self.name} was cut from {self.size:,} bytes to {size:,} while it was in use; nothing is lost: close "
                "the collection and open it again, and the graph is made anew"
            )
        return True


def found(entries: Entries, generation: int) -> list[tuple[int, str]]:
    """(commit, name) of the snapshots of a generation, newest first."""
    return sorted(
        ((seq, name) for of, seq, name in _all(entries) if of == generation and name.endswith(".bin")), reverse=True
    )


def _all(entries: Entries) -> Iterator[tuple[int, int, str]]:
    """(generation, commit, name) of every snapshot, finished or not."""
    for name in entries.names():
        match = _NAME.fullmatch(name)
        if match:
            yield int(match[1]), int(match[2]), name


def n_bytes(entries: Entries) -> int:
    """Bytes of all snapshots."""
    with suppress(OSError):
        return sum(entries.size(name) for _, _, name in _all(entries))
    return 0


def write(
    entries: Entries, header: Header, arrays: Mapping[str, NDArray[Any]], check: Callable[[], None] = lambda: None
) -> int:
    """Write a snapshot durably under its name; its size in bytes. Raises StorageError, and leaves nothing then.

    Parameters
    ----------
    header : Header     without sections, which are computed here
    arrays : any shape, dtypes of `snapshot_format.DTYPES`; not to be changed meanwhile
    check : called before the file gets its name; an exception leaves nothing
    """
    little = {name: np.asarray(a, a.dtype.newbyteorder("<"), order="C") for name, a in arrays.items()}
    length, sections = place_sections(header, little)
    path = entries.path / f"snap-{header.generation}-{header.seq}.bin"
    size = size_of(length, sections)

    def fill(fd: int) -> None:
        done = []
        for section, array in zip(sections, little.values(), strict=True):
            done.append(replace(section, checksum=section_sum(_written(fd, section.offset, array))))
        write_all(fd, replace(header, sections=done).stored(length), 0)
        os.ftruncate(fd, size)  # zeros after the last section
        check()

    with storage_errors(f"write {path.name}", "; nothing is lost: a snapshot can be rebuilt"):
        os.close(make_file(path, fill, entries))
    return size


def _written(fd: int, offset: int, array: NDArray[Any]) -> Iterator[U64]:
    """The words of an array, each piece written to the file before it is yielded."""
    for piece in pieces_of(array):
        write_all(fd, piece.data, offset)
        offset += piece.nbytes
        yield piece


def fingerprint(codes: RecordFile | None, n: int) -> int:
    """A hash of 16 of the first n records of the codes file, to tell them from those of another history.

    A snapshot may still be in the folder after a copy of the collection was put there.
    """
    samples = []
    if codes is not None and n:
        for i in range(_SAMPLES):
            samples.append(codes.read(i * (n - 1) // (_SAMPLES - 1), 1)[0, :CODE_HEADER_WORDS].tobytes())
        codes.rest()  # only writes need the descriptor, and open it again
    return digest64(b"".join(samples))


def read(entries: Entries, head: Head, codes: RecordFile | None) -> tuple[Snapshot | None, str | None]:
    """The newest snapshot that can be used at a commit; else None, and the reason if there is one that cannot."""
    for _ in range(_TRIES):
        reason = None
        try:
            for _, name in found(entries, head.generation):
                try:
                    return load(entries, name, head, codes), None
                except UnusableError as error:
                    reason = reason or f"{name} {error}; the graph will be rebuilt"
        except FileNotFoundError:  # the writer has replaced it with a newer one
            continue
        except OSError as error:
            reason = f"{entries.path} cannot be listed ({error.strerror}); the graph will be rebuilt"
        return None, reason
    return None, None


def newest(entries: Entries, head: Head) -> tuple[int, int]:
    """Slots and commit of the newest snapshot of a generation, by its header alone; (0, 0) without one."""
    with suppress(OSError, UnusableError, ValueError):
        for _, name in found(entries, head.generation)[:1]:
            with os.fdopen(entries.open(name, os.O_RDONLY), "rb", buffering=0) as file:
                header = _read_header(file.fileno(), os.fstat(file.fileno()).st_size)
            _check_commit(name, header, head)
            return header.n, header.seq
    return 0, 0


def load(entries: Entries, name: str, head: Head, codes: RecordFile | None) -> Snapshot:
    """One snapshot, verified. Raises UnusableError if it cannot be used at a commit, FileNotFoundError."""
    try:
        fd = entries.open(name, os.O_RDONLY)
        try:
            status = os.fstat(fd)
            size = status.st_size
            header = _read_header(fd, size)
            _check_commit(name, header, head)
            if fingerprint(codes, header.n) != header.codes:
                raise UnusableError("was derived from other records than those of the collection")
            for section in header.sections:
                if section_sum(_words(fd, section)) != section.checksum:
                    raise UnusableError(f"does not match the checksum of its section {section.name!r}")
            data = platform.map_file(fd, size, mmap.ACCESS_COPY)
        finally:
            os.close(fd)
        arrays = {s.name: np.ndarray(s.shape, s.dtype, data, s.offset) for s in header.sections}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, MemoryError, CorruptionError) as error:  # a failing disk; out of address space
        raise UnusableError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    mapped = Mapped(name, (status.st_dev, status.st_ino), size)
    sections = {section.name: section for section in header.sections}
    return Snapshot(header.n, header.seq, dict(header.numbers), arrays, mapped, data, sections)


def _read_header(fd: int, size: int) -> Header:
    """The header of a file of a size, checked."""
    length = header_length(platform.read_at(fd, PREFIX.size, 0), size)
    data = platform.read_at(fd, length, 0)
    if len(data) < length:
        raise UnusableError(f"ended at byte {len(data):,} while being read")
    return parse_header(data, size)


def _check_commit(name: str, header: Header, head: Head) -> None:
    """Raise UnusableError unless a snapshot is of this commit, or of an earlier one of the same generation."""
    if header.store_id != head.store_id:
        raise UnusableError("is of another collection")
    if header.generation != head.generation or name != f"snap-{header.generation}-{header.seq}.bin":
        raise UnusableError(f"is of commit {header.seq} of generation {header.generation}, which is not its name")
    if header.seq > head.seq or header.n > head.n_slots:
        raise UnusableError(
            f"covers {header.n:,} records at commit {header.seq}, and there are {head.n_slots:,} at commit {head.seq}: "
            "the collection may come from an older copy"
        )


def _words(fd: int, section: Section) -> Iterator[U64]:
    """The words of a section in the file, a piece at a time, all in the same buffer."""
    left, offset = -(-section.n_bytes // 8) * 8, section.offset
    buffer = np.empty(min(PIECE, left), np.uint8)
    while left:
        piece = buffer[:left]
        done = read_all(fd, piece, offset)
        if done < len(piece):
            raise UnusableError(f"ended at byte {offset + done:,} while being read")
        yield piece.view(np.uint64)
        left, offset = left - done, offset + done


def sweep(entries: Entries, generation: int, first: int, last: int) -> None:
    """Remove all snapshots but those of a generation that were taken from the first to the last of these commits.

    Temporary files go, and snapshots of later commits: in a folder that came from an older copy the same commit numbers
    are given again, to other contents.
    """
    with suppress(OSError):
        for of, seq, name in _all(entries):
            if of != generation or not first <= seq <= last or name.endswith(".tmp"):
                with suppress(OSError):  # costs space only
                    entries.unlink(name)
