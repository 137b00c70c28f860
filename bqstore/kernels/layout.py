"""The arguments of the kernels: tuples of arrays, their dtypes, and integer constants for choices.

Does not import numba. numba compiles a root for the exact types of its arguments: another dtype, a strided slice, or a
writable ``records`` array would compile a second version.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bqstore import record_words

# metric: how the score of two vectors is defined
COSINE = 0
DOT = 1
EUCLID = 2

# form: how the payload of a record is stored
FLOAT32 = 0
FLOAT16 = 1
INT8 = 2

# status of a search; an ordinal (>= 0) means that this record is damaged
OK = -1
OUT_OF_RANGE = -2  # the shapes of the arguments do not agree, or an ordinal lies outside of them
TOO_FEW = -3  # the walk found fewer accepted nodes than requested although more exist: the caller scans instead
BAD_QUERY = -4  # a query is not finite, or so long or short that its squares overflow or underflow

# lengths between which a float32 sum of squares neither overflows nor underflows
SHORTEST = 1e-15
LONGEST = 1e18

# encoding: the number of bit planes of an encoded query (Qdrant's binary, scalar4bits, scalar8bits)
BINARY = 1
SCALAR_4_BITS = 4
SCALAR_8_BITS = 8

# kind: what a code holds (see `Quantizer`)
ONE_BIT = 0
ONE_AND_HALF_BITS = 1
TWO_BITS = 2
RABITQ = 3

# indices into ``Scratch.counters``
COUNT_EPOCH = 0
COUNT_DISTANCES = 1
COUNT_HOPS = 2
COUNT_RESCORED = 3

LAST_EPOCH = 255  # of ``Scratch.visited``, which is cleared after it

# of records (`record_words`)
RECORD_HEADER_WORDS = record_words.VECTOR_HEADER_WORDS
RECORD_ALIGN_WORDS = record_words.ALIGN_WORDS
WORD_NORM = record_words.WORD_NORM
WORD_SCALE = record_words.WORD_SCALE
CHECKSUM_SEED = record_words.CHECKSUM_SEED
CHECKSUM_FACTOR = record_words.CHECKSUM_FACTOR


class Quantizer(NamedTuple):
    """How vectors become codes, and how queries are encoded to be compared with them.

    Fields
    ------
    kind : ONE_BIT: the sign of each value. ONE_AND_HALF_BITS, TWO_BITS: Qdrant's three levels per value, compared like
        signs. RABITQ: the vector minus ``mean``, ``bits`` bits per value, and two float32 corrections
    bits : planes of a code, the most significant first: 1, or 1, 2 or 4 under RABITQ. Bit j of word w of a plane
        belongs to dimension 64 * w + j. A value is the sum over planes p of 2^(bits - 1 - p) * (bit ? 1 : -1), an odd
        integer
    width : words per plane
    lanes : bits of a plane in use: dim, or more for Qdrant's two kinds
    dim : number of leading values of a vector that are encoded; under COSINE this part is scaled to unit length
    mean : float32 (dim,), subtracted under RABITQ; the center of the middle level for Qdrant's kinds; (0,) for ONE_BIT
    deviation : float32 (dim,), standard deviations, for Qdrant's two kinds; otherwise (0,). 0: the dimension is
        constant, and only the sign is encoded
    rotation_signs : float32 (rounds, dim), +-1, the signs before each transform (`rotate`); no rows: no rotation
    error_scales : float32 (2,), RABITQ: the two factors of an estimate's error (`encode_query.estimate_deviation`)
    linking : float32 (3,), how two codes are compared when linking (`bits.code_as_query`). The first value is 0 to
        compare signs only; otherwise the estimated product is multiplied by it. The others, reach and spread, define a
        code's lift (`bits.lift_of`); reach 0: no lift. A spread below 0 is minus half the square of a code, per square
        of its factor and per lane
    shifts : uint64 (bits * width,), for each word of a code the shift of its bit counts: bits - 1 - p for plane p

    A RABITQ code ends with one more word, two float32: ``add`` (low) and ``factor`` (high). The estimate
    ``share * add + factor * <query, values>`` has the same order as the score.
    """

    kind: int
    bits: int
    width: int
    lanes: int
    dim: int
    mean: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]
    rotation_signs: npt.NDArray[np.float32]
    error_scales: npt.NDArray[np.float32]
    linking: npt.NDArray[np.float32]
    shifts: npt.NDArray[np.uint64]


class Codes(NamedTuple):
    """The codes of every vector: uint64 (capacity, `words_per_code`), C-order; the first ``n`` rows hold codes."""

    words: npt.NDArray[np.uint64]
    n: int
    quantizer: Quantizer


class EncodedQuery(NamedTuple):
    """An encoded query, for comparison with codes.

    Fields
    ------
    planes : uint64 (>= encoding, bits * width), plane p holds bit p of the query's levels, repeated per plane of a code
    encoding : number of these planes
    bits, width : of the codes
    corrected : 1 under RABITQ, else 0
    half : float32, half the difference between two levels, in units of the query's values
    top : the product of code and query, in units of ``half``, at distance 0
    offset : RABITQ: added to an estimate to get the score
    error : RABITQ: the standard deviation of an estimate, divided by the code's factor; infinite if only a part of
        each vector is encoded, because the rest may change the score by any amount
    square : other kinds: squared length of the query in units of ``half``
    share : float32, RABITQ: the multiple of the mean that was subtracted from the query (`encode_query`), and so the
        factor of each code's ``add``; otherwise 1
    lift : float32, of a code used as a query when linking (`bits.code_as_query`), otherwise 0
    linking, shifts : of the quantizer
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
    share: np.float32
    lift: np.float32
    linking: npt.NDArray[np.float32]
    shifts: npt.NDArray[np.uint64]


class Originals(NamedTuple):
    """The stored vectors, read for exact scores: uint32 records (slots, stride), C-order, always a READ-ONLY array.

    A record is a row of little-endian words: a header of ``RECORD_HEADER_WORDS``, then the payload, zero-padded.
    If no originals are stored, ``records`` has shape (0, RECORD_HEADER_WORDS). ``metric`` is always set, since scores
    of codes depend on it.
    """

    records: npt.NDArray[np.uint32]
    dim: int
    form: int
    metric: int


NO_SEEDS = np.zeros(0, np.int32)
NO_SIGNS = np.zeros((0, 1), np.uint64)


class Graph(NamedTuple):
    """A hierarchical navigable small world graph (Malkov and Yashunin 2016).

    Fields
    ------
    links : int32 (capacity, 2m), the neighbors of each ordinal on level 0; the first -1 ends a row
    upper : int32 (rows, m), the same for the levels above; a node of level v has v rows
    first : int32 (capacity,), the row of a node's level 1; level l is at ``first + l - 1``; -1 for a node of level 0
    levels : uint8 (capacity,), the highest level of each node
    same : int32 (capacity,). Identical codes share one graph node; the other copies hang off it in a list, newest
        first: ``same`` is the next ordinal of that list, always an older one after the first step; -1 ends it
    n : nodes that are linked; ordinals from here on are the tail
    entry, top : the entry point and its level
    seeds : int32 (s,), a sample of the nodes; a search starts at the nearest of them. If empty, it starts at ``entry``
    seed_signs : uint64 (s, width), the first planes of their codes, contiguous in memory

    A writer changes rows while searches read them. A search may see a mix of an old and a new row, but it only contains
    ordinals, and each is compared with the search's own ``n`` before it is followed (docs/design/no-reader-lock.md).
    """

    links: npt.NDArray[np.int32]
    upper: npt.NDArray[np.int32]
    first: npt.NDArray[np.int32]
    levels: npt.NDArray[np.uint8]
    same: npt.NDArray[np.int32]
    n: int
    entry: int
    top: int
    seeds: npt.NDArray[np.int32] = NO_SEEDS
    seed_signs: npt.NDArray[np.uint64] = NO_SIGNS


class SearchSettings(NamedTuple):
    """The settings of one search, resolved by the planner.

    Fields
    ------
    ef : width of the beam: accepted nodes it keeps, at least ``candidates``
    max_beam : nodes the beam keeps in all, accepted or not, >= ef
    candidates : number of the beam's nearest nodes that are ordered by exact score
    rescoring : 1: order the candidates by exact score; 0: by the score of their codes
    encoding : of the query, BINARY, SCALAR_4_BITS or SCALAR_8_BITS
    prune : 1: do not read originals whose upper score bound is below the k-th hit
    max_candidates : candidates are added while the last ones bring hits (`rescore_row`), up to this number

    For walks under a filter:

    accepted_only : 1: the beam holds accepted nodes only and steps over the others; 0: it holds both
    ef_sparse : width of an accepted-only beam if the filter accepts few nodes around the query, fewer than
        ``sparse_below`` of 1,024; 0: return TOO_FEW then, because a scan is faster
    ef_dense : width of a beam through all nodes if at least half of the nodes around the query are accepted;
        0: no special width
    most_distances : distances of an accepted-only beam beyond which a scan is faster: TOO_FEW is returned as soon as
        the first nodes predict more; 0: no limit
    settled : number of nearest nodes that end an accepted-only beam early if they stand out; 0: it never ends early
    ef_settled : if ``ef_sparse`` is 0, width of a beam that is abandoned for a scan unless nodes stand out; 0: none
    """

    ef: int
    max_beam: int
    candidates: int
    rescoring: int
    encoding: int
    prune: int
    max_candidates: int = 0
    accepted_only: int = 0
    ef_sparse: int = 0
    ef_dense: int = 0
    sparse_below: int = 0
    most_distances: int = 0
    settled: int = 0
    ef_settled: int = 0


class Scratch(NamedTuple):
    """The working memory of one walk; never shared by two at a time.

    Fields
    ------
    visited : uint8 (>= ordinals,), the epoch in which each node was last visited
    keys : int64 (max_beam + 8,), the beam: distance, ordinal and two flags in one integer, ascending
    rows : int32 (>= 8m,), nodes whose distances are to be computed
    distances : int32 (>= 8m,), their distances
    found : int32 (>= max_candidates,), ordinals to be rescored
    bounds : float32 (>= max_candidates,), the upper bounds of their scores
    best : int64 (1, >= k), the heap of the hits
    query : float32 (1, dim), the query, of unit length under COSINE
    rotated : float32 (64 * width,), the query minus the mean, rotated
    planes : uint64 (8, bits * width), its bit planes
    levels : uint8 (64 * width,), the levels from which the planes are made
    bridges : int32 (>= 2m,), rejected nodes whose neighbors are visited in their place
    counters : int64 (8,), see ``COUNT_EPOCH`` and the others
    """

    visited: npt.NDArray[np.uint8]
    keys: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    distances: npt.NDArray[np.int32]
    found: npt.NDArray[np.int32]
    bounds: npt.NDArray[np.float32]
    best: npt.NDArray[np.int64]
    query: npt.NDArray[np.float32]
    rotated: npt.NDArray[np.float32]
    planes: npt.NDArray[np.uint64]
    levels: npt.NDArray[np.uint8]
    bridges: npt.NDArray[np.int32]
    counters: npt.NDArray[np.int64]


NO_ROWS = np.zeros(0, np.int32)


class Accept(NamedTuple):
    """The bitmap of the ordinals that may be found: bit ``o % 64`` of ``words[o // 64]``, uint64.

    Ordinals past the end of ``words`` are not accepted; bits at n and beyond are ignored. If ``everything`` is 1, all
    ordinals are accepted and ``words`` is not read.

    If ``rows``, int32, ascending, is not empty, scans use it in place of ``words``: a few ordinals of many are
    scattered over a bitmap whose words are mostly 0. Walks use ``words`` only.
    """

    words: npt.NDArray[np.uint64]
    everything: int
    rows: npt.NDArray[np.int32] = NO_ROWS


class Walk(NamedTuple):
    """The constants of one walk.

    Fields
    ------
    words, graph, accept, query : the codes, the graph, the accepted ordinals and the query (`walk.beam`)
    ef, max_beam : how many accepted nodes the beam keeps, and how many in all
    n : nodes that may be visited; all arrays have at least this length
    scratch : written
    """

    words: npt.NDArray[np.uint64]
    graph: Graph
    accept: Accept
    query: EncodedQuery
    ef: int
    max_beam: int
    n: int
    scratch: Scratch


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


def shifts_of(bits: int, width: int) -> npt.NDArray[np.uint64]:
    """Return the ``shifts`` of a quantizer."""
    return np.repeat(np.arange(bits - 1, -1, -1, dtype=np.uint64), width)


def words_per_record(dim: int, form: int) -> int:
    """Return the stride of a record in uint32 words."""
    payload_bytes = dim * (4, 2, 1)[form]
    unit = 4 * RECORD_ALIGN_WORDS
    return RECORD_HEADER_WORDS + (payload_bytes + unit - 1) // unit * RECORD_ALIGN_WORDS


def quantizer_fits(quantizer: Quantizer, dim: int, columns: int) -> bool:
    """Whether a quantizer's fields are consistent, and match codes of ``columns`` words of ``dim`` values."""
    kind, bits, coded = quantizer.kind, quantizer.bits, quantizer.dim
    corrected = kind == RABITQ
    means = 0 if kind == ONE_BIT else coded
    deviations = 0 if kind == ONE_BIT or corrected else coded
    lanes = coded  # as `lanes_of`, which numba cannot call from here
    if kind == ONE_AND_HALF_BITS:
        lanes += (coded + 1) // 2
    elif kind == TWO_BITS:
        lanes += coded
    return (
        ONE_BIT <= kind <= RABITQ
        and 1 <= coded <= dim
        and quantizer.lanes == lanes
        and (lanes + 63) // 64 == quantizer.width
        and (bits == 1 or (corrected and bits in (2, 4)))
        and columns == bits * quantizer.width + (1 if corrected else 0)
        and quantizer.mean.shape[0] == means
        and quantizer.deviation.shape[0] == deviations
        and (quantizer.rotation_signs.shape[0] == 0 or quantizer.rotation_signs.shape[1] == coded)
        and quantizer.error_scales.shape[0] == 2
        and quantizer.linking.shape[0] == 3
        and quantizer.shifts.shape[0] == bits * quantizer.width
    )


def records_fit(originals: Originals, dim: int) -> bool:
    """Whether records hold vectors of ``dim`` dimensions; otherwise reading one would exceed its row."""
    payload_bytes = 4 * (originals.records.shape[1] - RECORD_HEADER_WORDS)
    known = 0 <= originals.form <= INT8
    return bool(known and originals.dim == dim and payload_bytes >= dim * (4 >> originals.form))
