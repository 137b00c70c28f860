"""The bytes of a snapshot: its header and the checksums of its sections, as `FORMAT.md` describes them.

Works on bytes and arrays; opens no file. Every number of a header is bounded before it is used, because kernels read
the arrays without bounds checks.
"""

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..record_words import CHECKSUM_SEED
from .format import U32, U64, digest64, sum64

SNAPSHOT_VERSION: Final = 1  # separate from the collection's: an unreadable snapshot costs a rebuild, no data
MAGIC: Final = b"BQSTsnap"
PREFIX: Final = struct.Struct("<8s2I6Q")  # magic, version, header length, numbers of `Header`, file size, checksum
DTYPES: Final = {
    *("int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
    *("float32", "float64"),
}
_UNIT: Final = 64  # sections start on cache lines, and those of a page or more on pages, so that they can be released
_PAGE: Final = 4096
_LONGEST_HEADER: Final = 16 << 20  # that of 256 columns takes some 200 KB
_INT64: Final = range(-(2**63), 2**63)

LANES: Final = 4096
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_SHIFT: Final = np.uint64(29)
PIECE: Final = 8 * LANES * 8  # bytes summed, read or written at a time: whole rows of lanes that fit in the cache


class UnusableError(Exception):
    """Why a snapshot cannot be used, as the rest of a sentence that starts with its name."""


@dataclass(frozen=True)
class Section:
    """Where an array is in the file."""

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
    """The header of a snapshot.

    Parameters
    ----------
    generation, store_id : int  of the collection
    n : int                     slots covered
    seq : int                   the commit it was taken at
    codes : int                 `graph_snapshot.fingerprint` of the records it was derived from
    numbers : dict              int64, the caller's
    sections : sequence         one per array
    """

    generation: int
    store_id: int
    n: int
    seq: int
    codes: int
    numbers: Mapping[str, int]
    sections: Sequence[Section]

    def table(self) -> bytes:
        """The fields of variable length, as JSON, which escapes any name."""
        sections = [[s.name, s.dtype, list(s.shape), s.offset, s.checksum] for s in self.sections]
        numbers = {name: int(number) for name, number in self.numbers.items()}
        table = {"codes": self.codes, "numbers": numbers, "sections": sections}
        return json.dumps(table, separators=(",", ":")).encode()

    def stored(self, length: int) -> bytes:
        """The header as ``length`` bytes, padded with spaces."""
        table = self.table().ljust(length - PREFIX.size)
        assert PREFIX.size + len(table) == length and length % _UNIT == 0
        numbers = (self.generation, self.store_id, self.n, self.seq, size_of(length, self.sections))
        fields = (SNAPSHOT_VERSION, length, *numbers)
        words = np.frombuffer(PREFIX.pack(MAGIC, *fields, 0) + table, np.uint32).copy()
        words[14:16] = np.array([_header_sum(words)], np.uint64).view(np.uint32)
        return words.tobytes()


def _header_sum(words: U32) -> int:
    """The checksum of a header: `sum64` of all words but the checksum's own."""
    parts = sum64(words[None, :14], 0)[0], sum64(words[None, 16:], 16)[0]
    return (int(parts[0]) + int(parts[1]) - CHECKSUM_SEED) % 2**64


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def size_of(length: int, sections: Iterable[Section]) -> int:
    """The size of a file with a header of ``length`` bytes and these sections."""
    return max([length, *(_round_up(s.offset + s.n_bytes, _UNIT) for s in sections)])


def place_sections(header: Header, arrays: Mapping[str, NDArray[Any]]) -> tuple[int, list[Section]]:
    """The length that the header will have, and a section for each array, its checksum still 0."""
    assert all(int(number) in _INT64 for number in header.numbers.values())
    widest = [Section(name, str(a.dtype.name), a.shape, _INT64.stop, 2**64 - 1) for name, a in arrays.items()]
    length = _round_up(PREFIX.size + len(replace(header, sections=widest).table()), _UNIT)
    sections, at = [], length
    for section in widest:
        assert section.dtype in DTYPES, f"{section.name} is an array of {section.dtype}"
        at = _round_up(at, _PAGE if section.n_bytes >= _PAGE else _UNIT)
        sections.append(replace(section, offset=at, checksum=0))
        at += section.n_bytes
    return length, sections


def header_length(data: bytes, size: int) -> int:
    """The length of the header that starts with ``data``, in a file of a size. Raises UnusableError."""
    if len(data) < PREFIX.size:
        raise UnusableError(f"holds {len(data)} bytes, less than a header")
    magic, version, length, *_ = PREFIX.unpack(data[: PREFIX.size])
    if magic != MAGIC:
        raise UnusableError("does not start like a snapshot")
    if version > SNAPSHOT_VERSION:
        raise UnusableError(f"is in format {version}, and this bqstore reads snapshots up to {SNAPSHOT_VERSION}")
    if length % _UNIT or not PREFIX.size <= length <= min(size, _LONGEST_HEADER):
        raise UnusableError(f"holds {size:,} bytes, and its header should take {length:,} of them")
    return int(length)


def parse_header(data: bytes, size: int) -> Header:
    """The header of a file of a size, from as many bytes as `header_length` says.

    Raises UnusableError if its checksum does not match, or if the file cannot hold what it describes.
    """
    *_, generation, store_id, n, seq, whole, checksum = PREFIX.unpack(data[: PREFIX.size])
    if checksum != _header_sum(np.frombuffer(data, np.uint32)):
        raise UnusableError("does not match the checksum of its header")
    try:
        table = json.loads(data[PREFIX.size :])
        sections = [Section(name, dtype, tuple(shape), *rest) for name, dtype, shape, *rest in table["sections"]]
        header = Header(generation, store_id, n, seq, table["codes"], table["numbers"], sections)
        fits = all(_fits(section, len(data), size) for section in sections)
        fits &= all(isinstance(number, int) and number in _INT64 for number in header.numbers.values())
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
    if not all(isinstance(n, int) and 0 <= n < _INT64.stop for n in (*section.shape, section.offset)):
        return False
    inside = header <= section.offset and section.offset + section.n_bytes <= size
    return inside and section.offset % _UNIT == 0


def pieces_of(array: NDArray[Any]) -> Iterator[U64]:
    """The bytes of an array in C order as 64-bit words, a piece at a time; the last word is padded with zeros."""
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
    pieces : uint64 (any,)      its words in order; all pieces but the last are whole rows of `LANES`

    Notes
    -----
    Word i goes into lane i mod LANES: ``lane = (lane ^ lane >> 29) * odd + word``, modulo 2**64. Each step is
    invertible, so a change within one word always changes its lane, and the result depends on the order of the words.
    BLAKE2b hashes the lanes to one number. The sums of products that protect records suit 32-bit words only: with
    64 bits, changes of the upper bits of two words could cancel. Lanes run at four vector instructions a row: 7 GB/s on
    one core of an AMD EPYC (BLAKE2b alone 1.4; zlib's CRC-32 between 1 and 7, depending on the build of zlib).
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
    return digest64(lanes[:used].data)
