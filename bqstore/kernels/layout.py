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
DOUBTFUL = -4  # a query that is not finite, or too long or too short to compute with
SHORT = -3  # a walk has met fewer accepted nodes than were asked for, and there are more: a scan finds them

# lengths between which a sum of squares in float32 is neither infinite nor lost
SHORTEST = 1e-15
LONGEST = 1e18

# query encoding: how many bit planes stand for a query (Qdrant's binary, scalar4bits, scalar8bits)
BINARY = 1
SCALAR_4_BITS = 4
SCALAR_8_BITS = 8

# kind: what a code holds (see `Quantizer`)
ONE_BIT = 0
ONE_AND_HALF_BITS = 1
TWO_BITS = 2
RABITQ = 3

# what a search counts, by place in ``Scratch.counters``
COUNT_EPOCH = 0
COUNT_DISTANCES = 1
COUNT_HOPS = 2
COUNT_RESCORED = 3

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


class Quantizer(NamedTuple):
    """How vectors become codes, and queries comparable with them.

    ``kind`` : ONE_BIT: the signs. ONE_AND_HALF_BITS, TWO_BITS: Qdrant's three levels a value, two bits or one and a
    half each, compared as signs are. RABITQ: the residual beside ``mean``, ``bits`` bits a value, and two float32.
    ``bits`` : planes of a code, the signs first: 1, or 1, 2 or 4 under RABITQ. Each has ``width`` words, bit j of word
    w for dimension 64 * w + j. A value is the odd whole number sum over planes p of 2^(bits - 1 - p) * (bit ? 1 : -1).
    ``width`` : words of a plane; ``lanes`` : bits of it in use, dim or, of Qdrant's two kinds, more.
    ``dim`` : how many of a vector's values are encoded, its first ones; there may be more. Under COSINE that part is
    brought to unit length.
    ``mean`` : float32 (dim,), taken off under RABITQ; the middle of the three levels. (0,) under ONE_BIT.
    ``deviation`` : float32 (dim,), of Qdrant's two kinds; else (0,).
    ``turns`` : float32 (count, dim), +-1, the signs before each transform (`rotate`); none: nothing is turned.
    ``spread`` : float32 (2,), RABITQ: what the error of an estimate is made of (`encode.error_of`).

    Under RABITQ a code ends with one word more, two float32: ``add`` low and ``factor`` high, so that
    ``add + factor * <query, values>`` ranks as the score does.
    """

    kind: int
    bits: int
    width: int
    lanes: int
    dim: int
    mean: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]
    turns: npt.NDArray[np.float32]
    spread: npt.NDArray[np.float32]


class Codes(NamedTuple):
    """The codes of every vector: uint64 (capacity, `words_per_code`), C-order; the first ``n`` rows hold codes."""

    words: npt.NDArray[np.uint64]
    n: int
    quantizer: Quantizer


class Encoded(NamedTuple):
    """A query as codes are compared with it.

    ``planes`` : uint64 (>= encoding, width), plane p holds bit p of the levels. ``encoding`` : how many of them.
    ``bits``, ``width`` : of the codes. ``corrected`` : 1 under RABITQ, else 0.
    ``half`` : float32, half a level in units of the query's values. ``top`` : the product of the code and the query, in
    such units, at distance 0.
    ``offset`` : RABITQ: what makes an estimate a score. ``error`` : RABITQ: times a factor, the estimate's spread;
    infinite where a part of the vector is encoded, which tells nothing sure of the whole.
    ``square`` : squared length in units of ``half``, of the other kinds.
    """

    planes: npt.NDArray[np.uint64]
    encoding: int
    bits: int
    width: int
    corrected: int
    half: np.float32
    top: int
    offset: float
    error: float
    square: float


class Originals(NamedTuple):
    """The records kept for exact scores: uint32 (slots, stride), C-order, always a READ-ONLY array.

    When originals are not kept, ``records`` is read-only of shape (0, RECORD_HEADER_WORDS); ``metric``
    counts all the same, for the scores of the codes themselves.
    """

    records: npt.NDArray[np.uint32]
    dim: int
    form: int
    metric: int


class Graph(NamedTuple):
    """A hierarchical navigable small world: links on level 0 and on the levels above (Malkov and Yashunin 2016).

    ``links`` : int32 (capacity, 2m), the neighbors of each ordinal on level 0, the first -1 ends a row.
    ``upper`` : int32 (rows, m), likewise for the upper levels; a node of level v has v rows.
    ``first`` : int32 (capacity,), the row of its level 1; level l is at ``first + l - 1``; -1 for a node of level 0.
    ``levels`` : uint8 (capacity,), the highest level of each node.
    ``same`` : int32 (capacity,), of nodes with equal codes only the first has links; from it leads a list of the
    others, the newest first and each next one older, that -1 ends.
    ``n`` : nodes linked; ordinals from here on are the tail. ``entry``, ``top``: where a walk begins, and its level.

    A writer changes rows while searches read them. Any mix of an old and a new row holds ordinals only, each of which
    is compared with the reader's own ``n`` before it is followed; see ARCHITECTURE.md.
    """

    links: npt.NDArray[np.int32]
    upper: npt.NDArray[np.int32]
    first: npt.NDArray[np.int32]
    levels: npt.NDArray[np.uint8]
    same: npt.NDArray[np.int32]
    n: int
    entry: int
    top: int


class Way(NamedTuple):
    """How a walk is done.

    ``ef`` : width of the beam, at least ``candidates``. ``room`` : nodes it may hold, accepted or not, >= ef.
    ``candidates`` : the nearest of the beam that are ordered by exact score. ``most`` : how many at most, while the
    last of them bring hits (`rescore_row`); no more than ``candidates`` if it is less. ``rescoring`` : 1; 0 leaves them
    as they are. ``encoding`` : of the query, BINARY and so on. ``sparing`` : 1 leaves originals unread that cannot be
    among the hits.

    Under a filter, ``inside`` : 1 walks from accepted node to accepted node, 0 through all. ``against`` : the width of
    a beam inside where the filter goes against the query, fewer than ``rare`` of 1,024 around it being accepted; 0:
    SHORT, for a scan is better then. ``along`` : the width of a beam through all where the filter goes
    along with the query, half of those around it being accepted; 0: as else.
    """

    ef: int
    room: int
    candidates: int
    rescoring: int
    encoding: int
    sparing: int
    most: int = 0
    inside: int = 0
    against: int = 0
    along: int = 0
    rare: int = 0


class Scratch(NamedTuple):
    """What one running walk writes to; never shared by two.

    ``visited`` : uint8 (at least the ordinals,), the epoch in which each was last met.
    ``keys`` : int64 (room + 8,), the beam: distance, ordinal and two flags in one number, ascending.
    ``rows`` : int32 (at least 8m,), neighbors not met before, and ``distances`` : int32 (same,), theirs.
    ``bridges`` : int32 (2m,), neighbors that are not accepted.
    ``found`` : int32 (at least ``most``,), ordinals to be rescored, and ``reach`` : float32 (same,), the best
    score that each may have. ``best`` : int64 (1, at least k), the hits.
    ``query`` : float32 (1, dim), the query, of unit length if the metric is COSINE; ``turned`` : float32 (64 * width,),
    as the quantizer sees it. ``planes`` : uint64 (8, width), its bit planes, and ``levels`` : uint8 (64 * width,), what
    they are made of.
    ``counters`` : int64 (8,), see ``COUNT_EPOCH`` and what follows it.
    """

    visited: npt.NDArray[np.uint8]
    keys: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    distances: npt.NDArray[np.int32]
    found: npt.NDArray[np.int32]
    reach: npt.NDArray[np.float32]
    best: npt.NDArray[np.int64]
    query: npt.NDArray[np.float32]
    turned: npt.NDArray[np.float32]
    planes: npt.NDArray[np.uint64]
    levels: npt.NDArray[np.uint8]
    bridges: npt.NDArray[np.int32]
    counters: npt.NDArray[np.int64]


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


def words_per_plane(dim: int, kind: int = ONE_BIT) -> int:
    """Return the uint64 words of one plane of a code."""
    return (lanes_of(dim, kind) + 63) // 64


def lanes_of(dim: int, kind: int) -> int:
    """Return the bits of a plane that are in use."""
    return dim + (dim + 1) // 2 if kind == ONE_AND_HALF_BITS else 2 * dim if kind == TWO_BITS else dim


def words_per_code(dim: int, kind: int = ONE_BIT, bits: int = 1) -> int:
    """Return the uint64 words of a code."""
    return bits * words_per_plane(dim, kind) + (kind == RABITQ)


def words_per_record(dim: int, form: int) -> int:
    """Return the stride of a record in uint32 words."""
    payload_bytes = dim * (4, 2, 1)[form]
    unit = 4 * RECORD_ALIGN_WORDS
    return RECORD_HEADER_WORDS + (payload_bytes + unit - 1) // unit * RECORD_ALIGN_WORDS
