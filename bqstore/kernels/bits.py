"""Codes: packing signs, and the distance of an encoded query from a code."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqstore.kernels.intrinsics import as_float32, as_int32, distance_1, distance_2, distance_4, distance_8, prefetch
from bqstore.kernels.jit import leaf
from bqstore.kernels.layout import BINARY, SCALAR_4_BITS, EncodedQuery, Quantizer

BIT = (np.uint64(1) << np.arange(64, dtype=np.uint64)).astype(np.uint64)
ZERO = np.uint64(0)
TWO_PLANES = 2  # a code of two bits as the query of a graph under construction; not an encoding of searches
LOW = np.uint64(0xFFFF_FFFF)
HALF = np.uint64(32)


@leaf
def pack_row(vector: npt.NDArray[np.float32], out: npt.NDArray[np.uint64], place: int) -> None:
    """Write the signs of a vector to ``out[place]``: bit j % 64 of word j // 64 is 1 iff value j > 0.

    Parameters
    ----------
    vector : float32 (dim,)
    out : uint64 (m, >= W)  its first W = ceil(dim / 64) words are written; the bits past dim are 0
    """
    dim = vector.shape[0]
    for w in range((dim + 63) // 64):
        word = ZERO
        first = 64 * w
        if first + 64 <= dim:
            for b in range(64):  # a constant count: vectorized into compares and masks
                word |= BIT[b] if vector[first + b] > 0 else ZERO
        else:
            for b in range(dim - first):
                word |= BIT[b] if vector[first + b] > 0 else ZERO
        out[place, w] = word


@leaf
def factor_of(words: npt.NDArray[np.uint64], row: int, place: int) -> np.float32:
    """Return the second of the two float32 that end a code."""
    return as_float32(np.uint32(words[row, place] >> HALF))


@leaf
def estimate_to_rank(estimate: np.float32) -> int:
    """Map an estimate to an integer from 0 to 2^30 - 1 with the reverse order, which serves as the distance.

    The bits of floats order as integers do. The last two bits of the 23 of the fraction are dropped.
    """
    bits = as_int32(-estimate)
    return ((bits ^ ((bits >> 31) & 0x7FFF_FFFF)) >> 2) + 0x2000_0000


@leaf
def rank_to_estimate(rank: int) -> np.float32:
    """Return the estimate that `estimate_to_rank` mapped to this integer, to some 21 bits."""
    ordered = (np.int64(rank) - 0x2000_0000) << 2
    return -as_float32(np.uint32((ordered ^ ((ordered >> 63) & 0x7FFF_FFFF)) & 0xFFFF_FFFF))


@leaf
def prefetch_code(words: npt.NDArray[np.uint64], row: int) -> None:
    """Prefetch every cache line of a code."""
    for w in range(0, words.shape[1], 8):
        prefetch(words, row, w)


@leaf
def prefetch_codes(words: npt.NDArray[np.uint64], rows: npt.NDArray[np.int32], start: int, stop: int) -> None:
    """Prefetch the codes of ``rows[start:stop]``, so that their cache misses overlap."""
    for i in range(start, stop):
        prefetch_code(words, rows[i])


@leaf
def measure(
    words: npt.NDArray[np.uint64],
    rows: npt.NDArray[np.int32],
    count: int,
    query: EncodedQuery,
    ahead: int,
    out: npt.NDArray[np.int32],
) -> None:
    """Write the distances between an encoded query and ``words[rows[:count]]`` to ``out[:count]``.

    Parameters
    ----------
    words : uint64 (n, columns) codes
    rows : int32 (>= count,)    ordinals, each < n
    query : EncodedQuery        for codes of ``columns`` words
    ahead : int                 prefetch the code so many rows behind each one; 0: the codes are in the cache
    out : int32 (>= count,)     written: the distance (see `encode`); of corrected codes `estimate_to_rank` of the
                                estimate
    """
    planes, encoding, bits, width = query.planes, query.encoding, query.bits, query.width
    for p in range(bits):  # each plane weighs half as much as the one before; from the second on, rows are cached
        first = p * width
        far = ahead if p == 0 else 0
        if encoding == BINARY:
            for i in range(count):
                if far > 0:
                    prefetch_code(words, rows[i] + far)
                apart = distance_1(words, rows[i], first, planes, width)
                out[i] = apart if p == 0 else 2 * out[i] + apart
        elif encoding == TWO_PLANES:
            for i in range(count):
                apart = distance_2(words, rows[i], first, planes, width)
                out[i] = apart if p == 0 else 2 * out[i] + apart
        elif encoding == SCALAR_4_BITS:
            for i in range(count):
                if far > 0:
                    prefetch_code(words, rows[i] + far)
                apart = distance_4(words, rows[i], first, planes, width)
                out[i] = apart if p == 0 else 2 * out[i] + apart
        else:
            for i in range(count):
                if far > 0:
                    prefetch_code(words, rows[i] + far)
                apart = distance_8(words, rows[i], first, planes, width)
                out[i] = apart if p == 0 else 2 * out[i] + apart
    if query.corrected:
        half, top, share, place = query.half, np.int32(query.top), query.share, words.shape[1] - 1
        for i in range(count):
            word = words[rows[i], place]
            add, factor = as_float32(np.uint32(word & LOW)), as_float32(np.uint32(word >> HALF))
            out[i] = estimate_to_rank(share * add + factor * (half * np.float32(top - 2 * out[i])))


@leaf
def distance_to(words: npt.NDArray[np.uint64], row: int, query: EncodedQuery) -> int:
    """Return the distance that `measure` writes, for one row; the query is a code of 1, 2 or 4 bits."""
    planes, encoding, width = query.planes, query.encoding, query.width
    total = 0
    for p in range(query.bits):
        if encoding == BINARY:
            apart = distance_1(words, row, p * width, planes, width)
        elif encoding == TWO_PLANES:
            apart = distance_2(words, row, p * width, planes, width)
        else:
            apart = distance_4(words, row, p * width, planes, width)
        total = 2 * total + apart
    if query.corrected:
        word = words[row, words.shape[1] - 1]
        add, factor = as_float32(np.uint32(word & LOW)), as_float32(np.uint32(word >> HALF))
        product = query.half * np.float32(np.int32(query.top) - 2 * total)
        return estimate_to_rank(query.share * add + factor * product)
    return total


@leaf
def code_as_query(
    words: npt.NDArray[np.uint64], ordinal: int, quantizer: Quantizer, planes: npt.NDArray[np.uint64]
) -> EncodedQuery:
    """Return a code as a query: the planes of the code are those of the query, in reverse order.

    For codes of several bits, distances are the ranks of ``add_x + factor_x factor <values_x, values>``: the product of
    the two residuals, estimated from both codes, which for one query orders as the scores do. A graph of MiniLM vectors
    then has a recall of .986 instead of .978, with a sixth fewer distances. For one bit it gains nothing over signs.

    planes : uint64 (>= bits, width), written
    """
    bits, width = quantizer.bits, quantizer.width
    for p in range(bits):
        for w in range(width):
            planes[p, w] = words[ordinal, (bits - 1 - p) * width + w]
    if bits == 1:
        return EncodedQuery(planes, BINARY, 1, width, 0, np.float32(1), quantizer.lanes, 0.0, 0.0, 0.0, np.float32(1))
    steps = (1 << bits) - 1
    factor = factor_of(words, ordinal, words.shape[1] - 1)
    top = steps * steps * quantizer.lanes
    return EncodedQuery(planes, bits, bits, width, 1, factor, top, 0.0, 0.0, 0.0, np.float32(1))
