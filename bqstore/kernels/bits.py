"""Codes: packing signs, and the distance of an encoded query from a code."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from bqstore.kernels.intrinsics import (
    as_float32,
    as_int32,
    distance_1,
    distance_2,
    distance_4,
    distance_8,
    popcount,
    prefetch,
)
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
def square_of_values(words: npt.NDArray[np.uint64], row: int, bits: int, width: int, lanes: int) -> int:
    """Return the squared length of a code's values: of their sum over planes, each plane of +-1 times its weight."""
    total = ((1 << (2 * bits)) - 1) // 3 * lanes
    for p in range(bits):
        for q in range(p + 1, bits):
            apart = 0
            for w in range(width):
                apart += popcount(words[row, p * width + w] ^ words[row, q * width + w])
            total += (1 << (2 * bits - 1 - p - q)) * (lanes - 2 * apart)
    return total


@leaf
def lift_of(
    words: npt.NDArray[np.uint64], row: int, bits: int, width: int, lanes: int, linking: npt.NDArray[np.float32]
) -> np.float32:
    """Return one coordinate more of a vector, which makes all of them equally long, from the corrections of its code.

    With it, the order by products with one of them is that by distances from it (Bachrach et al., RecSys 2014, section
    3): a graph that is linked by these has a way to every node. By products alone, no link leads to a vector that is
    shorter than those around it. Vectors longer than the reach have none.

    linking : float32 (3,)      of the quantizer; reach is the square of the length, plus that of the mean. The square
                                of the residual is spread times that of ``factor * values``, as products with it are
    """
    word = words[row, bits * width]
    add, factor = as_float32(np.uint32(word & LOW)), as_float32(np.uint32(word >> HALF))
    square = factor * factor * np.float32(square_of_values(words, row, bits, width, lanes))
    rest = linking[1] - np.float32(2) * add - linking[2] * square
    return np.float32(math.sqrt(rest)) if rest > 0 else np.float32(0)


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


def _make_loop(planes_of_query: int, distance: Callable[..., int]) -> Callable[..., None]:
    """The loop of `measure` for one encoding: one that chose for each row made searches an eighth slower."""

    def loop(
        words: npt.NDArray[np.uint64],
        rows: npt.NDArray[np.int32],
        count: int,
        planes: npt.NDArray[np.uint64],
        shifts: npt.NDArray[np.uint64] | None,
        width: int,
        ahead: int,
        out: npt.NDArray[np.int32],
    ) -> None:
        last = rows.shape[0] - 1
        for i in range(count):
            if ahead > 0:
                prefetch_code(words, rows[min(i + ahead, last)])
            out[i] = distance(words, rows[i], planes, shifts, width)

    # numba's symbols have the name, the types and a number of the process that compiled: of one name, kernels from two
    # processes could take each other's loops, as the linker keeps the first of weak symbols that are called the same
    loop.__qualname__ = f"loop_{planes_of_query}"
    return leaf(loop)


_loop_1, _loop_2, _loop_4, _loop_8 = (
    _make_loop(planes, distance)
    for planes, distance in ((1, distance_1), (2, distance_2), (4, distance_4), (8, distance_8))
)


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
    ahead : int                 prefetch the code of the row so many places behind each one in ``rows``, as far as these
                                reach; 0: the codes are in the cache
    out : int32 (>= count,)     written: the distance (see `encode`); of corrected codes `estimate_to_rank` of the
                                estimate
    """
    planes, encoding, bits, width = query.planes, query.encoding, query.bits, query.width
    shifts, many = query.shifts, query.bits * query.width
    # of one bit without shifts, which would all be 0: they take a quarter of the time of one plane, a twelfth of four
    if bits == 1:
        if encoding == BINARY:
            _loop_1(words, rows, count, planes, None, width, ahead, out)
        elif encoding == SCALAR_4_BITS:
            _loop_4(words, rows, count, planes, None, width, ahead, out)
        else:
            _loop_8(words, rows, count, planes, None, width, ahead, out)
    elif encoding == BINARY:
        _loop_1(words, rows, count, planes, shifts, many, ahead, out)
    elif encoding == TWO_PLANES:
        _loop_2(words, rows, count, planes, shifts, many, ahead, out)
    elif encoding == SCALAR_4_BITS:
        _loop_4(words, rows, count, planes, shifts, many, ahead, out)
    else:
        _loop_8(words, rows, count, planes, shifts, many, ahead, out)
    if query.corrected:
        half, top, place = query.half, np.int32(query.top), words.shape[1] - 1
        share, lift = query.share, query.lift
        lanes = query.top // ((1 << bits) - 1) ** 2  # of a code as the query
        for i in range(count):
            word = words[rows[i], place]
            add, factor = as_float32(np.uint32(word & LOW)), as_float32(np.uint32(word >> HALF))
            estimate = share * add + factor * (half * np.float32(top - 2 * out[i]))
            if lift > 0:
                estimate += lift * lift_of(words, rows[i], bits, width, lanes, query.linking)
            elif lift < 0:
                estimate += lift * (factor * factor)
            out[i] = estimate_to_rank(estimate)


@leaf
def distance_to(words: npt.NDArray[np.uint64], row: int, query: EncodedQuery) -> int:
    """Return the distance that `measure` writes, for one row; the query is a code of 1, 2 or 4 bits."""
    planes, shifts, many = query.planes, query.shifts, query.bits * query.width
    if query.encoding == BINARY:
        total = distance_1(words, row, planes, shifts, many)
    elif query.encoding == TWO_PLANES:
        total = distance_2(words, row, planes, shifts, many)
    else:
        total = distance_4(words, row, planes, shifts, many)
    if query.corrected:
        word = words[row, words.shape[1] - 1]
        add, factor = as_float32(np.uint32(word & LOW)), as_float32(np.uint32(word >> HALF))
        estimate = query.share * add + factor * (query.half * np.float32(np.int32(query.top) - 2 * total))
        if query.lift > 0:
            lanes = query.top // ((1 << query.bits) - 1) ** 2
            estimate += query.lift * lift_of(words, row, query.bits, query.width, lanes, query.linking)
        elif query.lift < 0:
            estimate += query.lift * (factor * factor)
        return estimate_to_rank(estimate)
    return total


@leaf
def code_as_query(
    words: npt.NDArray[np.uint64], ordinal: int, quantizer: Quantizer, planes: npt.NDArray[np.uint64]
) -> EncodedQuery:
    """Return a code as a query: the planes of the code are those of the query, in reverse order.

    Distances are the ranks of ``add_x + linking[0] factor_x factor <values_x, values>``: the product of the two
    residuals, estimated from both codes, which for one query orders as the scores do. A graph of MiniLM vectors at two
    bits then has a recall of .986 instead of .978, with a sixth fewer distances. For one bit that gains nothing over
    signs under cosine. Where lengths differ it does: then a walk by estimates needs links by estimates, too. Lifts are
    added under DOT; for one bit under EUCLID ``linking[2] lanes factor^2`` takes the place of ``add``.

    planes : uint64 (>= bits, bits * width), written
    """
    bits, width = quantizer.bits, quantizer.width
    for p in range(bits):
        for q in range(bits):  # a remainder for each word made merging links a fifteenth slower
            for w in range(width):
                planes[p, q * width + w] = words[ordinal, (bits - 1 - p) * width + w]
    one, lift, linking, shifts = np.float32(1), np.float32(0), quantizer.linking, quantizer.shifts
    if linking[0] == 0:
        return EncodedQuery(
            planes, BINARY, 1, width, 0, one, quantizer.lanes, 0.0, 0.0, 0.0, one, lift, linking, shifts
        )
    steps = (1 << bits) - 1
    share = one
    if linking[1] > 0:
        lift = lift_of(words, ordinal, bits, width, quantizer.lanes, linking)
    elif linking[2] < 0:  # the square of a code of one bit is that of its factor, which products are consistent with
        share, lift = np.float32(0), linking[2] * np.float32(quantizer.lanes)
    half, top = linking[0] * factor_of(words, ordinal, words.shape[1] - 1), steps * steps * quantizer.lanes
    return EncodedQuery(planes, bits, bits, width, 1, half, top, 0.0, 0.0, 0.0, share, lift, linking, shifts)
