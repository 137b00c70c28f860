"""The bytes of the flat files: headers, records and checksums, as `FORMAT.md` describes them.

Works on bytes and arrays; opens no file. All numbers are little-endian.
"""

import hashlib
import struct
import sys
import zlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import RESTORE, CorruptionError, FormatVersionError
from ..record_words import ALIGN_WORDS, CHECKSUM_FACTOR, CHECKSUM_SEED, VECTOR_HEADER_WORDS, WORD_NORM, WORD_SCALE

if sys.byteorder != "little":  # records are used in place, through the page cache
    raise ImportError("bqstore reads its files in place and needs a little-endian machine")

FORMAT_VERSION: Final = 7  # the newest this code reads; written for collections that had a record of `index()`
WITH_EXPIRY: Final = 6  # written for collections that had an expiring document
WITH_WORDS: Final = 5  # written for collections that have a text index
WITH_SCALES: Final = 4  # written for float16 records that have a scale
WITH_TRUNCATED: Final = 3  # written for codes of truncated vectors
WITH_PARAMETERS: Final = 2  # written for codes of any form but ONE_BIT, for which it is 1
HEADER_BYTES: Final = 64  # without the parameters, which follow it
HEADER: Final = struct.Struct("<8s6I4Q")  # magic, six numbers, generation, store id, digest of parameters, checksum
MAGIC: Final = {"vectors": b"BQSTvecs", "codes": b"BQSTcode"}

# how originals are stored, in the header and in the kernels; "none" has no file
FORMS: Final = {"float32": 0, "float16": 1, "int8": 2}

# how codes are stored, by (encoding, estimator) of the coding in the settings
CODE_FORMS: Final = {
    ("one_bit", "sign"): 1,
    ("one_and_half_bits", "sign"): 2,
    ("two_bits", "sign"): 3,
    ("one_bit", "rabitq"): 4,
    ("two_bits", "rabitq"): 5,
    ("four_bits", "rabitq"): 6,
}
ONE_BIT: Final = 1  # the only form without parameters, and the only one in format version 1
_PLANES: Final = {4: 1, 5: 2, 6: 4}  # bit planes of a RaBitQ code, by form

CODE_HEADER_WORDS: Final = 4  # checksum (2 words), rid (2)

SHORT_OF_HALVES: Final = 2.0**-8

F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

NO_PARAMETERS: Final[F32] = np.zeros(0, np.float32)
NO_PARAMETERS.flags.writeable = False


@dataclass(frozen=True)
class Layout:
    """The record layout of one flat file.

    Parameters
    ----------
    kind : "vectors" or "codes"
    dim : int               dimensions of a vector; for codes, how many of them are encoded
    form : int              a value of FORMS for vectors, of CODE_FORMS for codes
    """

    kind: str
    dim: int
    form: int

    @property
    def payload_bytes(self) -> int:
        """Payload bytes of a record, without padding."""
        if self.kind == "vectors":
            return self.dim * (4, 2, 1)[self.form]
        if self.form in _PLANES:  # the planes, then two float32
            return 8 * (_PLANES[self.form] * -(-self.dim // 64) + 1)
        bits = self.dim + (0, -(-self.dim // 2), self.dim)[self.form - 1]
        return 8 * -(-bits // 64)

    @property
    def version(self) -> int:
        """The format version of the file: the lowest that has this layout, so that older releases still read it."""
        return WITH_PARAMETERS if self.has_parameters else 1

    @property
    def has_parameters(self) -> bool:
        """Whether the header is followed by encoder parameters."""
        return self.kind == "codes" and self.form != ONE_BIT

    @property
    def header_words(self) -> int:
        """Header of a record, in words of 4 bytes."""
        return CODE_HEADER_WORDS if self.kind == "codes" else VECTOR_HEADER_WORDS

    @cached_property
    def record_bytes(self) -> int:
        """Bytes of a record."""
        unit = 8 if self.kind == "codes" else 4 * ALIGN_WORDS
        return -(-(self.header_words * 4 + self.payload_bytes) // unit) * unit


def digest64(data: bytes | memoryview) -> int:
    """BLAKE2b of 8 bytes, as a number."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def sum64(words: U32, first: int) -> U64:
    """The checksum of each row of words.

    Parameters
    ----------
    words : uint32 (n, m)   the words covered
    first : int             position of the first of them in its record; a word's key depends on its position

    Returns
    -------
    uint64 (n,)     seed + sum of key * word, modulo 2**64

    Notes
    -----
    Multiply-and-add hashing (Carter and Wegman 1979) with fixed odd 32-bit keys. A change within one word is always
    detected, any other with probability of about 1 - 2**-32. Chosen over a CRC because it runs at memory speed in
    vector instructions, so that a search can verify every record it reads.
    """
    keys = _keys(first, words.shape[1])
    out = np.empty(len(words), np.uint64)
    for at in range(0, len(words), 128):  # the 64-bit copy of a block stays in the cache
        out[at : at + 128] = words[at : at + 128].astype(np.uint64) @ keys
    return out + np.uint64(CHECKSUM_SEED)


@lru_cache(maxsize=16)
def _keys(first: int, count: int) -> U64:
    """The keys of words; the same for all records of a file."""
    places = np.arange(first + 1, first + 1 + count, dtype=np.uint64)
    return (places * np.uint64(CHECKSUM_FACTOR)) & np.uint64(0xFFFFFFFF) | np.uint64(1)


def seal(records: U32) -> U32:
    """Write each record's checksum into its first two words, in place, and return the records."""
    records[:, :2] = sum64(records[:, 2:], 2).view(np.uint32).reshape(-1, 2)
    return records


def damaged(records: U32) -> NDArray[np.bool_]:
    """bool (n,): True where a record does not match its checksum."""
    stored = np.ascontiguousarray(records[:, :2]).view(np.uint64)[:, 0]
    bad: NDArray[np.bool_] = stored != sum64(records[:, 2:], 2)
    return bad


def rids_of(records: U32) -> NDArray[np.int64]:
    """int64 (n,): the rid in each record."""
    return np.ascontiguousarray(records[:, 2:4]).view(np.int64)[:, 0]


def _blank(layout: Layout, rids: NDArray[np.int64]) -> U32:
    records = np.zeros((len(rids), layout.record_bytes // 4), np.uint32)
    records[:, 2:4] = rids.reshape(-1, 1).view(np.uint32)
    return records


def code_records(layout: Layout, rids: NDArray[np.int64], codes: U64) -> U32:
    """Records of codes, uint64 (n, words), with checksums."""
    assert codes.dtype == np.uint64 and codes.shape == (len(rids), layout.payload_bytes // 8)
    records = _blank(layout, rids)
    records[:, CODE_HEADER_WORDS:] = np.ascontiguousarray(codes).view(np.uint32)
    return seal(records)


def vector_records(layout: Layout, rids: NDArray[np.int64], vectors: F32) -> U32:
    """Records of vectors, float32 (n, dim), with checksums. Lossy in the forms float16 and int8."""
    records = _blank(layout, rids)
    floats, payload = records.view(np.float32), records[:, VECTOR_HEADER_WORDS:]
    scales: F32 = np.ones(len(vectors), np.float32)
    kept = vectors
    if layout.form == FORMS["float32"]:
        payload.view(np.float32)[:, : layout.dim] = vectors
    elif layout.form == FORMS["float16"]:
        scales = half_scales(vectors)
        halves = (vectors / scales[:, None]).astype(np.float16)
        payload.view(np.float16)[:, : layout.dim] = halves
        kept = halves.astype(np.float32) * scales[:, None]
    else:
        peak = np.abs(vectors).max(axis=1)
        scales = np.where(peak > 0, peak / np.float32(127), np.float32(1)).astype(np.float32)
        scales = np.maximum(scales, np.finfo(np.float32).tiny)  # dividing by a denormal scale gives infinity
        steps = np.clip(np.rint(vectors / scales[:, None]), -127, 127).astype(np.int8)
        payload.view(np.int8)[:, : layout.dim] = steps
        kept = steps.astype(np.float32) * scales[:, None]
    floats[:, WORD_NORM] = np.sqrt(np.einsum("ij,ij->i", kept, kept, dtype=np.float64))
    floats[:, WORD_SCALE] = scales
    return seal(records)


def half_scales(vectors: F32) -> F32:
    """What float16 values of each vector are multiplied by: float32 (n,), powers of two.

    1 but for vectors without a value of 2^-8 or more: theirs would be denormal halves, which have fewer digits the
    smaller they are. No vector of unit length is among these.
    """
    peaks = np.abs(vectors).max(axis=1, initial=0)
    short = (peaks > 0) & (peaks < SHORT_OF_HALVES)
    return np.ldexp(np.float32(1), np.where(short, np.frexp(peaks)[1], 0)).astype(np.float32)


def vectors_of(layout: Layout, records: U32) -> F32:
    """float32 (n, dim): the vectors in records, a copy."""
    payload = np.ascontiguousarray(records[:, VECTOR_HEADER_WORDS:])
    if layout.form == FORMS["float32"]:
        return payload.view(np.float32)[:, : layout.dim].copy()
    scales = np.ascontiguousarray(records[:, WORD_SCALE]).view(np.float32)
    values = payload.view(np.float16 if layout.form == FORMS["float16"] else np.int8)
    return values[:, : layout.dim].astype(np.float32) * scales[:, None]


def codes_of(layout: Layout, records: U32) -> U64:
    """uint64 (n, words): the codes in records, a copy."""
    return np.ascontiguousarray(records[:, CODE_HEADER_WORDS:]).view(np.uint64)


def header_bytes(layout: Layout, generation: int, store_id: int, parameters: F32 = NO_PARAMETERS) -> bytes:
    """The header of a flat file: 64 bytes, then the encoder parameters, float32 (count,), if its codes have some."""
    assert parameters.ndim == 1 and (layout.has_parameters or len(parameters) == 0)
    block = np.ascontiguousarray(parameters, np.float32).tobytes()
    block += bytes(-len(block) % HEADER_BYTES)
    fields = (
        layout.version,
        HEADER_BYTES + len(block),
        layout.dim,
        layout.form,
        layout.record_bytes,
        len(parameters),
        generation,
        store_id,
        digest64(block) if layout.has_parameters else 0,
    )
    body = HEADER.pack(MAGIC[layout.kind], *fields, 0)[:-8]
    return body + _header_sum(body) + block


def is_sealed(header: bytes) -> bool:
    """Whether the first bytes of a file are a header that matches its own checksum, of whatever collection."""
    return len(header) == HEADER_BYTES and header[56:64] == _header_sum(header[:56])


def _header_sum(body: bytes) -> bytes:
    return sum64(np.frombuffer(body, np.uint32).reshape(1, -1), 0).tobytes()


def header_length(name: str, data: bytes, layout: Layout) -> int:
    """The length of the header that starts with these 64 bytes. Raises FormatVersionError, CorruptionError."""
    if len(data) < HEADER_BYTES:
        raise CorruptionError(f"{name} holds {len(data)} bytes, less than its header; {RESTORE}")
    magic, version, length, _, _, _, count, *_ = HEADER.unpack(data[:HEADER_BYTES])
    if magic != MAGIC[layout.kind]:
        raise CorruptionError(f"{name} does not start like a file of {layout.kind}; {RESTORE}")
    if version > FORMAT_VERSION:
        raise newer_format(name, version)
    if data[56:64] != _header_sum(data[:56]) or length != HEADER_BYTES + -(-count * 4 // HEADER_BYTES) * HEADER_BYTES:
        raise _damaged_header(name)
    return int(length)


def check_header(name: str, data: bytes, layout: Layout, generation: int, store_id: int) -> F32:
    """Compare a header with the one this collection writes, and return its parameters.

    Returns float32 (count,), read-only: a view of ``data``, which is as long as `header_length` says.
    Raises FormatVersionError, CorruptionError.
    """
    length = header_length(name, data, layout)
    if len(data) < length:
        raise CorruptionError(f"{name} holds {len(data):,} bytes, less than its header; {RESTORE}")
    *_, count, _, _, digest, _ = HEADER.unpack(data[:HEADER_BYTES])
    parameters = np.frombuffer(data, np.float32, count, HEADER_BYTES)
    if layout.has_parameters and digest != digest64(data[HEADER_BYTES:length]):
        raise CorruptionError(f"the parameters in {name} do not match their checksum; {RESTORE}")
    if (count and not layout.has_parameters) or data != header_bytes(layout, generation, store_id, parameters):
        raise _damaged_header(name)
    return parameters


def _damaged_header(name: str) -> CorruptionError:
    return CorruptionError(f"the header of {name} is damaged or belongs to another collection; {RESTORE}")


def newer_format(name: str, version: int, known: int = FORMAT_VERSION) -> FormatVersionError:
    """The error for a file that a newer version wrote."""
    return FormatVersionError(
        f"{name} is in format {version}; this bqstore reads formats up to {known}: upgrade bqstore to open it"
    )


def row_crc(
    rid: int, seq: int, id_: str, text: str | None, metadata: str, private: str | None, ref_doc_id: str | None
) -> int:
    """CRC-32 of a row of the catalogue. The lengths come first, so that different rows are different bytes."""
    # one f-string: this runs for every hit of every search
    text_len = "-" if text is None else len(text)
    private_len = "-" if private is None else len(private)
    ref_len = "-" if ref_doc_id is None else len(ref_doc_id)
    head = f"{rid},{seq},{len(id_)},{text_len},{len(metadata)},{private_len},{ref_len}:"
    return zlib.crc32(f"{head}{id_}{text or ''}{metadata}{private or ''}{ref_doc_id or ''}".encode())


def key_crc(rid: int, seq: int, id_: str, ref_doc_id: str | None, metadata: str) -> int:
    """CRC-32 of the columns that ids and filters are loaded from, so that loading them reads no texts."""
    ref_len = "-" if ref_doc_id is None else len(ref_doc_id)
    return zlib.crc32(f"{rid},{seq},{len(id_)},{ref_len},{len(metadata)}:{id_}{ref_doc_id or ''}{metadata}".encode())
