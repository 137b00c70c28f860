"""Every byte of a snapshot: its header and the checksum of a section. `FORMAT.md` says the same in words.

Knows no folder and no open file. What comes from a header is compared with all that it could be wrong about: the
arrays go to machine code that checks no bounds.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .format import CHECKSUM_SEED, U32, U64, sum64

SNAPSHOT_VERSION: Final = 1  # its own: a snapshot that cannot be read costs a rebuild, not the collection
MAGIC: Final = b"BQSTsnap"
PREFIX: Final = struct.Struct("<8s2I6Q")  # magic, version, header length, then the numbers of `Header`, checksum
DTYPES: Final = {
    *("int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
    *("float32", "float64"),
}
_UNIT: Final = 64  # sections begin on cache lines, and those of a page or more on pages, so that they can be released
_PAGE: Final = 4096
_NUMBERS: Final = range(-(2**63), 2**63)

LANES: Final = 4096
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_SHIFT: Final = np.uint64(29)
PIECE: Final = 8 * LANES * 8  # bytes summed, read or written at a time: whole rows of lanes, and they stay in the cache


class UnusableError(Exception):
    """Why a snapshot cannot be used: what is wrong with it, to go behind its name."""


@dataclass(frozen=True)
class Section:
    """Where an array stands in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    checksum: int

    @property
    def n_bytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Header:
    """What a snapshot says of itself.

    Parameters
    ----------
    generation, store_id : int  of the collection
    n : int                     slots covered
    seq : int                   the commit it was taken at
    codes : int                 `fingerprint` of the records that it was derived from
    numbers : dict              the caller's, 64 bits each
    sections : sequence         one for each array
    """

    generation: int
    store_id: int
    n: int
    seq: int
    codes: int
    numbers: Mapping[str, int]
    sections: Sequence[Section]

    def table(self) -> bytes:
        """What has no fixed length, as JSON, which takes no name amiss."""
        sections = [[s.name, s.dtype, list(s.shape), s.offset, s.checksum] for s in self.sections]
        numbers = {name: int(number) for name, number in self.numbers.items()}
        table = {"codes": self.codes, "numbers": numbers, "sections": sections}
        return json.dumps(table, separators=(",", ":")).encode()

    def stored(self, length: int) -> bytes:
        """The header in so many bytes; spaces after the table fill them."""
        table = self.table().ljust(length - PREFIX.size)
        assert PREFIX.size + len(table) == length and length % _UNIT == 0
        numbers = (self.generation, self.store_id, self.n, self.seq, size_of(length, self.sections))
        fields = (SNAPSHOT_VERSION, length, *numbers)
        words = np.frombuffer(PREFIX.pack(MAGIC, *fields, 0) + table, np.uint32).copy()
        words[14:16] = np.array([_sum(words)], np.uint64).view(np.uint32)
        return words.tobytes()


def _sum(words: U32) -> int:
    """The checksum of a header, sum64 but for its own place."""
    parts = sum64(words[None, :14], 0)[0], sum64(words[None, 16:], 16)[0]
    return (int(parts[0]) + int(parts[1]) - CHECKSUM_SEED) % 2**64


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def size_of(length: int, sections: Iterable[Section]) -> int:
    """The size of a file with a header of a length and these sections."""
    return max([length, *(_round_up(s.offset + s.n_bytes, _UNIT) for s in sections)])


def placed(header: Header, arrays: Mapping[str, NDArray[Any]]) -> tuple[int, list[Section]]:
    """The length of the header, and each array's section, its checksum still to come."""
    assert all(int(number) in _NUMBERS for number in header.numbers.values())
    widest = [Section(name, str(a.dtype.name), a.shape, _NUMBERS.stop, 2**64 - 1) for name, a in arrays.items()]
    length = _round_up(PREFIX.size + len(replace(header, sections=widest).table()), _UNIT)
    sections, at = [], length
    for section in widest:
        assert section.dtype in DTYPES, f"{section.name} is an array of {section.dtype}"
        at = _round_up(at, _PAGE if section.n_bytes >= _PAGE else _UNIT)
        sections.append(Section(section.name, section.dtype, section.shape, at, 0))
        at += section.n_bytes
    return length, sections


def parsed(data: bytes, size: int) -> Header:
    """The header that a file of a size begins with; UnusableError unless every number in it can be.

    ``data`` is as much of it as `header_length` has asked for.
    """
    *_, generation, store_id, n, seq, whole, checksum = PREFIX.unpack(data[: PREFIX.size])
    if checksum != _sum(np.frombuffer(data, np.uint32)):
        raise UnusableError("does not agree with the checksum of its header")
    try:
        table = json.loads(data[PREFIX.size :])
        sections = [Section(name, dtype, tuple(shape), *rest) for name, dtype, shape, *rest in table["sections"]]
        header = Header(generation, store_id, n, seq, table["codes"], table["numbers"], sections)
        fits = all(_fits(section, len(data), size) for section in sections)
        fits &= all(isinstance(number, int) and number in _NUMBERS for number in header.numbers.values())
        fits &= len({section.name for section in sections}) == len(sections)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        fits = False
    if not fits or not size == whole == size_of(len(data), sections):
        raise UnusableError(f"holds {size:,} bytes, or has sections, that its header does not allow")
    return header


def _fits(section: Section, header: int, size: int) -> bool:
    """Whether the file can hold the section, and numpy the array."""
    if not isinstance(section.name, str) or section.dtype not in DTYPES:
        return False
    if not all(isinstance(n, int) and 0 <= n < _NUMBERS.stop for n in (*section.shape, section.offset)):
        return False
    inside = header <= section.offset and section.offset + section.n_bytes <= size
    return inside and section.offset % _UNIT == 0


def header_length(data: bytes, size: int) -> int:
    """The length that the first bytes of a file of a size give its header; UnusableError if they cannot be."""
    if len(data) < PREFIX.size:
        raise UnusableError(f"holds {len(data)} bytes, less than a header")
    magic, version, length, *_ = PREFIX.unpack(data[: PREFIX.size])
    if magic != MAGIC:
        raise UnusableError("does not begin as a snapshot does")
    if version > SNAPSHOT_VERSION:
        raise UnusableError(f"is in format {version}, and this bqstore reads snapshots up to {SNAPSHOT_VERSION}")
    if length % _UNIT or not PREFIX.size <= length <= size:
        raise UnusableError(f"holds {size:,} bytes, and its header should take {length:,} of them")
    return int(length)


def pieces_of(array: NDArray[Any]) -> Iterator[U64]:
    """The bytes of an array in C order as 64-bit words, a piece at a time; zeros fill the last word."""
    flat = array.reshape(-1).view(np.uint8)
    for at in range(0, len(flat), PIECE):
        piece = flat[at : at + PIECE]
        if len(piece) % 8:
            piece = np.concatenate([piece, np.zeros(-len(piece) % 8, np.uint8)])
        yield piece.view(np.uint64)


def section_sum(pieces: Iterable[U64]) -> int:
    """The checksum of a section.

    Parameters
    ----------
    pieces : uint64 (any,)      its words in their order; all but the last piece are whole rows of `LANES`

    Notes
    -----
    Word i goes into lane i mod LANES: ``lane = (lane ^ lane >> 29) * odd + word``, modulo 2**64. Each step can be
    undone, so that a change within one word changes its lane for certain, and it depends on the order. BLAKE2b makes
    one number of the lanes. Plain sums of products, as of the records, would do for 32-bit words only: in 64 bits the
    upper ones of two words cancel each other. Lanes run at the speed of four vector instructions a row: 7 GB/s on
    one core of an AMD EPYC (BLAKE2b alone 1.4; zlib's CRC-32 between 1 and 7, by how zlib was built).
    """
    lanes, scratch, used = np.zeros(LANES, np.uint64), np.empty(LANES, np.uint64), 0
    for words in pieces:
        for at in range(0, len(words), LANES):
            row = words[at : at + LANES]
            n = len(row)
            some, mixed = lanes[:n], scratch[:n]
            np.right_shift(some, _SHIFT, out=mixed)
            np.bitwise_xor(some, mixed, out=some)
            np.multiply(some, _MULTIPLIER, out=some)
            np.add(some, row, out=some)
            used = max(used, n)
    return int.from_bytes(hashlib.blake2b(lanes[:used].data, digest_size=8).digest(), "little")
