"""What the kernels are given: tuples of arrays, their dtypes, and the small integers that stand for choices.

Knows nothing of files or ids, and does not import numba. Every field's dtype and C-order is part of the type
that numba compiles for: another dtype, a strided slice, or a writable ``records`` means a second compilation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# metric: which score the originals give
COSINE = 0
DOT = 1
EUCLID = 2

# form: how the payload of a record is kept
FLOAT32 = 0
FLOAT16 = 1
INT8 = 2

# status of a search: an ordinal (>= 0) means that this record is damaged
FINE = -1
OUT_OF_RANGE = -2

# A record is a row of little-endian uint32 words: this header, then the payload, zero-padded to 32 bytes.
RECORD_HEADER_WORDS = 8
RECORD_ALIGN_WORDS = 8
WORD_CHECKSUM = 0  # two words, low first
WORD_RID = 2  # two words, unused here
WORD_NORM = 4  # float32, Euclidean norm of the kept vector
WORD_SCALE = 5  # float32, value = scale * int8; 1.0 in the other forms

# sum64 = CHECKSUM_SEED + sum over words j >= 2 of ((CHECKSUM_FACTOR * (j + 1)) mod 2^32 | 1) * w[j], mod 2^64
# (multiply-and-add hashing with fixed odd keys, Carter and Wegman 1979). The seed is not
# zero, so that a record of zeros (a hole in a file) is damaged.
CHECKSUM_SEED = 0x6271_7374_6F72_6531
CHECKSUM_FACTOR = 0x9E37_79B1

VECTOR_DTYPE = np.float32
CODE_DTYPE = np.uint64
RECORD_DTYPE = np.uint32
ORDINAL_DTYPE = np.int32
SCORE_DTYPE = np.float32


class Codes(NamedTuple):
    """The packed signs of every vector: uint64 (capacity, W), C-order; the first ``n`` rows hold codes."""

    words: npt.NDArray[np.uint64]
    n: int


class Originals(NamedTuple):
    """The records kept for exact scores: uint32 (slots, stride), C-order, always a READ-ONLY array.

    When originals are not kept, ``records`` is read-only of shape (0, RECORD_HEADER_WORDS); ``metric``
    counts all the same, for the scores of the codes themselves.
    """

    records: npt.NDArray[np.uint32]
    dim: int
    form: int
    metric: int


class Accept(NamedTuple):
    """Which ordinals may be found: bit ``o % 64`` of ``words[o // 64]``, uint64; all, if ``everything`` is 1.

    Ordinals past the end of ``words`` are not accepted; bits at n and beyond are ignored.
    """

    words: npt.NDArray[np.uint64]
    everything: int


class Candidates(NamedTuple):
    """The nearest codes of m queries: int32 (m, c) twice and int64 (m,), ascending by (distance, ordinal).

    Row i holds ``counts[i]`` candidates and then -1.
    """

    ordinals: npt.NDArray[np.int32]
    distances: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]


class Hits(NamedTuple):
    """The answer to m queries: int32 (m, k) and float32 (m, k), best first, padded with -1 and NaN."""

    ordinals: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]


def words_per_code(dim: int) -> int:
    """Return W, the uint64 words of a code of ``dim`` bits."""
    return (dim + 63) // 64


def words_per_record(dim: int, form: int) -> int:
    """Return the stride of a record in uint32 words."""
    payload_bytes = dim * (4, 2, 1)[form]
    unit = 4 * RECORD_ALIGN_WORDS
    return RECORD_HEADER_WORDS + (payload_bytes + unit - 1) // unit * RECORD_ALIGN_WORDS
