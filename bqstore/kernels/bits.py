"""Codes: packing signs, counting the bits that differ, and what the two floats of a corrected code make of that."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqstore.kernels.intrinsics import as_float32, as_int32, distance_1, distance_2, distance_4, distance_8, prefetch
from bqstore.kernels.jit import leaf
from bqstore.kernels.layout import BINARY, SCALAR_4_BITS, Encoded, Quantizer

BIT = (np.uint64(1) << np.arange(64, dtype=np.uint64)).astype(np.uint64)
ZERO = np.uint64(0)
TWO_PLANES = 2  # of a code that is the query; nobody scans with it
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
            for b in range(64):  # a constant count: this loop becomes compares and masks
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
def rank_of(estimate: np.float32) -> int:
    """Return a whole number from 0 to 2^30 - 1 that falls as an estimate rises, so that it can be a distance.

    The bits of a float32, as whole numbers, order as the values do; two of the 23 behind the point are given up.
    """
    bits = as_int32(-estimate)
    return ((bits ^ ((bits >> 31) & 0x7FFF_FFFF)) >> 2) + 0x2000_0000


@leaf
def estimate_of(rank: int) -> np.float32:
    """Return the estimate that `rank_of` made a distance of, to some 21 bits."""
    ordered = (np.int64(rank) - 0x2000_0000) << 2
    return -as_float32(np.uint32((ordered ^ ((ordered >> 63) & 0x7FFF_FFFF)) & 0xFFFF_FFFF))


@leaf
def measure(
    words: npt.NDArray[np.uint64],
    rows: npt.NDArray[np.int32],
    count: int,
    query: Encoded,
    ahead: int,
    out: npt.NDArray[np.int32],
) -> None:
    """Write the distances between an encoded query and ``words[rows[:count]]`` to ``out[:count]``.

    Parameters
    ----------
    words : uint64 (n, columns) codes
    rows : int32 (>= count,)    ordinals, each < n
    query : Encoded             of codes that are ``columns`` words long
    ahead : int                 ask for the codes that lie so many rows behind each; 0: they are in the cache
    out : int32 (>= count,)     written: the distance, as `encode` says, or, of corrected codes, `rank_of` the estimate
    """
    planes, encoding, bits, width = query.planes, query.encoding, query.bits, query.width
    columns = words.shape[1]
    for p in range(bits):  # each plane of a code weighs half of the one before; all rows are in the cache by the second
        first = p * width
        far = ahead if p == 0 else 0
        if encoding == BINARY:
            for i in range(count):
                if far > 0:
                    for w in range(0, columns, 8):
                        prefetch(words, rows[i] + far, w)
                apart = distance_1(words, rows[i], first, planes, width)
                out[i] = apart if p == 0 else 2 * out[i] + apart
        elif encoding == TWO_PLANES:
            for i in range(count):
                apart = distance_2(words, rows[i], first, planes, width)
                out[i] = apart if p == 0 else 2 * out[i] + apart
        elif encoding == SCALAR_4_BITS:
            for i in range(count):
                if far > 0:
                    for w in range(0, columns, 8):
                        prefetch(words, rows[i] + far, w)
                apart = distance_4(words, rows[i], first, planes, width)
                out[i] = apart if p == 0 else 2 * out[i] + apart
        else:
            for i in range(count):
                if far > 0:
                    for w in range(0, columns, 8):
                        prefetch(words, rows[i] + far, w)
                apart = distance_8(words, rows[i], first, planes, width)
                out[i] = apart if p == 0 else 2 * out[i] + apart
    if query.corrected:
        half, top, place = query.half, np.int32(query.top), columns - 1
        for i in range(count):
            word = words[rows[i], place]
            add, factor = as_float32(np.uint32(word & LOW)), as_float32(np.uint32(word >> HALF))
            out[i] = rank_of(add + factor * (half * np.float32(top - 2 * out[i])))


@leaf
def distance_to(words: npt.NDArray[np.uint64], row: int, query: Encoded) -> int:
    """Return what `measure` writes, of one row."""
    planes, encoding, width = query.planes, query.encoding, query.width
    total = 0
    for p in range(query.bits):
        if encoding == BINARY:
            apart = distance_1(words, row, p * width, planes, width)
        elif encoding == TWO_PLANES:
            apart = distance_2(words, row, p * width, planes, width)
        elif encoding == SCALAR_4_BITS:
            apart = distance_4(words, row, p * width, planes, width)
        else:
            apart = distance_8(words, row, p * width, planes, width)
        total = 2 * total + apart
    if query.corrected:
        word = words[row, words.shape[1] - 1]
        add, factor = as_float32(np.uint32(word & LOW)), as_float32(np.uint32(word >> HALF))
        return rank_of(add + factor * (query.half * np.float32(np.int32(query.top) - 2 * total)))
    return total


@leaf
def code_as_query(
    words: npt.NDArray[np.uint64], ordinal: int, quantizer: Quantizer, planes: npt.NDArray[np.uint64]
) -> Encoded:
    """Return a code as the query: its bit planes are those of the query, the last one of a code being bit 0.

    Of several bits, distances are the ranks of ``add_x + factor_x factor <values_x, values>``, the product of what is
    beside the mean estimated on both sides, which for one query orders as the scores do: a graph of MiniLM's vectors
    then finds .986 in place of .978, with a sixth fewer distances. Of one bit that gains nothing over the signs.

    planes : uint64 (>= bits, width), written
    """
    bits, width = quantizer.bits, quantizer.width
    for p in range(bits):
        for w in range(width):
            planes[p, w] = words[ordinal, (bits - 1 - p) * width + w]
    if bits == 1:
        return Encoded(planes, BINARY, 1, width, 0, np.float32(1), quantizer.lanes, 0.0, 0.0, 0.0)
    steps = (1 << bits) - 1
    factor = factor_of(words, ordinal, words.shape[1] - 1)
    return Encoded(planes, bits, bits, width, 1, factor, steps * steps * quantizer.lanes, 0.0, 0.0, 0.0)
