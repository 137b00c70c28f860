"""Snapshots: derived state on disk, so that opening need not derive it. Written whole, never changed, read or left.

A snapshot holds named arrays, whose meaning is the caller's, as of one commit. Nothing depends on it but time: one that
is damaged, of another collection or of a commit that is not there (the folder came from an older copy) is left
aside with a sentence that says why. It is checked by reading, not through the map, where a failing disk kills the
process; then mapped privately, so that arrays may be written in memory and the file stays as it is.
"""

import hashlib
import mmap
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptionError, StorageError
from .files import RecordFile, make_file, write_all
from .format import CODE_HEADER_WORDS, U64
from .head import Head
from .sections import (
    PIECE,
    PREFIX,
    Header,
    Section,
    UnusableError,
    header_length,
    parsed,
    pieces_of,
    placed,
    section_sum,
    size_of,
)

_NAME = re.compile(r"snap-(\d+)-(\d+)\.(bin|tmp)")
_SAMPLES = 16
_TRIES = 5  # a writer would have to replace its snapshot that often while one is being opened


@dataclass(frozen=True)
class Snapshot:
    """What was derived at a commit.

    Attributes
    ----------
    n : int             slots covered
    seq : int           the commit
    numbers : dict      as they were given
    arrays : dict       in a private map of the file: writable, and nobody else sees what is written
    """

    n: int
    seq: int
    numbers: dict[str, int]
    arrays: dict[str, NDArray[Any]]
    _map: mmap.mmap = field(repr=False)
    _sections: dict[str, Section] = field(repr=False)

    def release(self, names: Iterable[str]) -> None:
        """Tell the system that these arrays are not needed in memory: read again, they are as in the file."""
        if not hasattr(self._map, "madvise"):
            return
        for name in names:
            section = self._sections[name]
            first = -(-section.offset // mmap.PAGESIZE) * mmap.PAGESIZE  # whole pages: a neighbour stays as it is
            last = (section.offset + section.n_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                with suppress(OSError):  # they stay, no more
                    self._map.madvise(mmap.MADV_DONTNEED, first, last - first)


def found(folder: Path, generation: int) -> list[tuple[int, Path]]:
    """(commit, file) of the snapshots of a generation, newest first."""
    return sorted(
        ((seq, path) for of, seq, path in _all(folder) if of == generation and path.suffix == ".bin"), reverse=True
    )


def _all(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """(generation, commit, file) of every snapshot, finished or not."""
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match:
            yield int(match[1]), int(match[2]), path


def write(folder: Path, header: Header, arrays: Mapping[str, NDArray[Any]]) -> int:
    """Make the snapshot of the header's commit durable under its name; its size in bytes.

    Parameters
    ----------
    header : Header     its sections are those of the arrays, and settled here
    arrays : any shape, dtypes of `sections.DTYPES`; not to change meanwhile

    Raises StorageError if the disk refuses; nothing is left behind then.
    """
    little = {name: np.asarray(a, a.dtype.newbyteorder("<"), order="C") for name, a in arrays.items()}
    length, sections = placed(header, little)
    path = folder / f"snap-{header.generation}-{header.seq}.bin"
    size = size_of(length, sections)

    def fill(fd: int) -> None:
        done = []
        for section, array in zip(sections, little.values(), strict=True):
            done.append(replace(section, checksum=section_sum(_written(fd, section.offset, array))))
        write_all(fd, replace(header, sections=done).stored(length), 0)
        os.ftruncate(fd, size)  # zeros behind the last section

    try:
        os.close(make_file(path, fill))
    except OSError as error:
        words = f"cannot write {path.name}: {error.strerror}; nothing is lost: what it was to hold can be rebuilt"
        raise StorageError(error.errno, words) from error
    return size


def _written(fd: int, offset: int, array: NDArray[Any]) -> Iterator[U64]:
    """The words of an array, each piece on its way into the file."""
    for piece in pieces_of(array):
        write_all(fd, piece.data, offset)
        offset += piece.nbytes
        yield piece


def fingerprint(codes: RecordFile | None, n: int) -> int:
    """A number that tells the first n records of the codes from others, by sixteen of them.

    It is for a snapshot that was left in its folder while another history of the collection was copied over it.
    """
    digest = hashlib.blake2b(digest_size=8)
    if codes is not None and n:
        for i in range(_SAMPLES):
            digest.update(codes.read(i * (n - 1) // (_SAMPLES - 1), 1)[0, :CODE_HEADER_WORDS].tobytes())
    return int.from_bytes(digest.digest(), "little")


def read(folder: Path, head: Head, codes: RecordFile | None) -> tuple[Snapshot | None, str | None]:
    """The newest snapshot that can be used at a commit; else None, and why not where there is one."""
    reason = None
    for _ in range(_TRIES):
        reason = None
        try:
            for _, path in found(folder, head.generation):
                try:
                    return load(path, head, codes), None
                except UnusableError as error:
                    reason = reason or f"{path.name} {error}; the graph will be rebuilt"
            break
        except FileNotFoundError:  # the writer has put a newer one in its place
            continue
        except OSError as error:
            return None, f"{folder} cannot be listed ({error.strerror}); the graph will be rebuilt"
    return None, reason


def load(path: Path, head: Head, codes: RecordFile | None) -> Snapshot:
    """One snapshot, checked; UnusableError if it cannot be used at a commit, FileNotFoundError if it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        try:
            header, size = _checked(fd), os.fstat(fd).st_size
            _check_fits(path.name, header, head)
            if fingerprint(codes, header.n) != header.codes:
                raise UnusableError("was derived from other records than there are")
            for section in header.sections:
                if section_sum(_words(fd, section)) != section.checksum:
                    raise UnusableError(f"does not agree with the checksum of its section {section.name!r}")
            data = mmap.mmap(fd, size, access=mmap.ACCESS_COPY)
        finally:
            os.close(fd)
        arrays = {s.name: np.ndarray(s.shape, s.dtype, data, s.offset) for s in header.sections}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, MemoryError, CorruptionError) as error:  # a failing disk; no address space
        raise UnusableError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    return Snapshot(
        header.n, header.seq, dict(header.numbers), arrays, data, {section.name: section for section in header.sections}
    )


def _checked(fd: int) -> Header:
    """The header of a file, which agrees with the file's size and its own checksum."""
    size = os.fstat(fd).st_size
    length = header_length(os.pread(fd, PREFIX.size, 0), size)
    data = os.pread(fd, length, 0)
    if len(data) < length:
        raise UnusableError(f"ended at byte {len(data):,} while being read")
    return parsed(data, size)


def _check_fits(name: str, header: Header, head: Head) -> None:
    """Whether a snapshot belongs to a commit, or to one before it of the same generation."""
    if header.store_id != head.store_id:
        raise UnusableError("is of another collection")
    if header.generation != head.generation or name != f"snap-{header.generation}-{header.seq}.bin":
        raise UnusableError(f"is of commit {header.seq} of generation {header.generation}, which its name denies")
    if header.seq > head.seq or header.n > head.n_slots:
        raise UnusableError(
            f"covers {header.n:,} records at commit {header.seq}, and there are {head.n_slots:,} at commit {head.seq}: "
            "the collection may come from an older copy"
        )


def _words(fd: int, section: Section) -> Iterator[U64]:
    """The words of a section as they stand in the file, a piece at a time, each in the place of the last."""
    left, offset = -(-section.n_bytes // 8) * 8, section.offset
    buffer = np.empty(min(PIECE, left), np.uint8)
    while left:
        piece = buffer[:left]
        done = 0
        while done < len(piece):
            got = os.preadv(fd, [piece[done:].data], offset + done)
            if got == 0:
                raise UnusableError(f"ended at byte {offset + done:,} while being read")
            done += got
        yield piece.view(np.uint64)
        left, offset = left - done, offset + done


def remove_older(folder: Path, generation: int, seq: int) -> None:
    """Remove the snapshots that one of this commit has made useless."""
    with suppress(OSError):  # they cost space, no more
        for other, path in found(folder, generation):
            if other < seq:
                path.unlink()


def remove_others(folder: Path, generation: int) -> None:
    """Remove the snapshots of other generations, also one that is being written: its writer looks for that."""
    for of, _, path in _all(folder):
        if of != generation:
            with suppress(OSError):
                path.unlink()


def sweep(folder: Path, head: Head) -> None:
    """Remove, before anything is committed, what no reader may use: temporaries, other generations, later commits.

    The last is more than tidiness: in a folder that came from an older copy the numbers of commits are given again,
    to other contents.
    """
    for generation, seq, path in _all(folder):
        if generation != head.generation or seq > head.seq or path.suffix == ".tmp":
            with suppress(OSError):
                path.unlink()
