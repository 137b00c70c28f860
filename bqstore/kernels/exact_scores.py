"""Exact scores from the originals, of candidates or of all accepted records. Every record read is verified."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bqstore.kernels.heap import (
    EMPTY,
    key_ordinal,
    key_rank,
    make_key,
    offer,
    rank_to_score,
    score_to_rank,
    sort_row,
)
from bqstore.kernels.intrinsics import prefetch
from bqstore.kernels.jit import float_leaf, leaf
from bqstore.kernels.layout import (
    COSINE,
    DOT,
    FLOAT16,
    FLOAT32,
    INT8,
    LONGEST,
    OK,
    OUT_OF_RANGE,
    RECORD_HEADER_WORDS,
    SHORTEST,
    WORD_NORM,
    WORD_SCALE,
    Accept,
    Candidates,
    Hits,
    Originals,
)
from bqstore.kernels.quantize import dot
from bqstore.kernels.records import fetch_record, fits, is_sound, read_half, read_int8
from bqstore.kernels.scan import next_rows

GROUP_BYTES = 1 << 16  # of a group of vectors scored for all queries: group and queries fit the L2 cache
ROWS = 256
AHEAD, PAGES_AHEAD = 4, 16  # how many records ahead are prefetched, and have their pages touched
PAGE_WORDS = 1024  # words of the smallest memory page, 4 KB


@float_leaf
def squared_distance(query: npt.NDArray[np.float32], vector: npt.NDArray[np.float32]) -> np.float32:
    """Return the squared Euclidean distance of two vectors, float32 (dim,), summed as in :func:`dot`."""
    total = np.float32(0)
    for j in range(query.shape[0]):
        difference = query[j] - vector[j]
        total += difference * difference
    return total


@float_leaf
def scale_row(
    vectors: npt.NDArray[np.float32], row: int, factor: np.float32, out: npt.NDArray[np.float32], place: int
) -> None:
    """Write a row, times a factor, to ``out[place]``."""
    for j in range(out.shape[1]):
        out[place, j] = vectors[row, j] * factor


@leaf
def prepare_row(
    queries: npt.NDArray[np.float32], row: int, metric: int, out: npt.NDArray[np.float32], place: int
) -> bool:
    """Copy a query to ``out[place]``, at unit length under COSINE; return False if it is not finite, too long or short.

    An infinite or NaN value makes the sum of squares infinite or NaN, so that the comparisons below are false. Under
    DOT a nonzero query is too short if its squares underflow: the caller scales it up.
    """
    square = dot(queries[row], queries[row])
    if not square < np.float32(LONGEST * LONGEST):
        return False
    long_enough = square > np.float32(SHORTEST * SHORTEST)
    if metric != COSINE:
        scale_row(queries, row, np.float32(1), out, place)
        if metric == DOT and not long_enough:
            for j in range(queries.shape[1]):  # .any() would make numba import scipy when loading the kernel
                if queries[row, j] != 0:
                    return False
        return True
    if not long_enough:
        return False
    scale_row(queries, row, np.float32(1.0 / math.sqrt(square)), out, place)
    return True


@leaf
def vector_score(
    query: npt.NDArray[np.float32], vector: npt.NDArray[np.float32], norm: np.float32, metric: int
) -> np.float32:
    """Return the score of a query and a vector of length ``norm``, float32 (dim,): larger is nearer."""
    if metric == COSINE:
        if norm <= 0:
            return np.float32(0)
        return np.float32(min(max(dot(query, vector) / norm, np.float32(-1)), np.float32(1)))
    if metric == DOT:
        return dot(query, vector)
    return np.float32(-math.sqrt(squared_distance(query, vector)))


@leaf
def touch_pages(records: npt.NDArray[np.uint32], row: int) -> None:
    """Prefetch one cache line in each page of a record."""
    for line in range(0, records.shape[1], PAGE_WORDS):
        prefetch(records, row, line)


@leaf
def rescore_row(
    queries: npt.NDArray[np.float32],
    query: int,
    originals: Originals,
    limit: int,
    ordinals: npt.NDArray[np.int32],
    bounds: npt.NDArray[np.float32],
    count: int,
    first: int,
    heap: npt.NDArray[np.int64],
    hits: Hits,
    place: int,
) -> tuple[int, int]:
    """Order the candidates of one query by exact score and write the best to row ``place`` of ``hits``.

    Parameters
    ----------
    limit : int                     number of ordinals
    ordinals : int32 (>= count,)    candidates, nearest by their codes first
    bounds : float32 (>= count,)    upper bound of each one's score; if below the worst hit so far, it is not read
    first : int                     candidates always considered. The number is doubled while one from their second
                                    half is among the best, as then the estimates do not separate them
    heap : int64 (1, size)          written; size is at least min(k, count)
    hits : Hits                     written

    Returns
    -------
    status : int                    OK, a damaged record's ordinal, or OUT_OF_RANGE
    read : int                      records that were read

    Notes
    -----
    Each record is prefetched four records ahead, one cache line at a time during the checksum of the current record.
    Prefetching its 97 lines at once fills the memory queue, and the checksum has to wait.
    """
    records = originals.records
    # created once: a view costs half as much as a dot product
    floats, halves, small = records.view(np.float32), records.view(np.uint16), records.view(np.int8)
    dim, form, metric = originals.dim, originals.form, originals.metric
    decoded = np.empty(dim if form != FLOAT32 else 0, np.float32)
    vector_of_query = queries[query]
    heap[:] = EMPTY
    for i in range(count):
        if ordinals[i] < 0 or ordinals[i] >= limit:
            return OUT_OF_RANGE, 0
    read = 0
    worst = np.float32(-np.inf)  # of the hits so far, once there are enough
    start = 0
    stop = min(count, max(1, first))
    last = -1  # the last candidate that was among the best
    while start < stop:
        for i in range(start, stop):
            touch_pages(records, ordinals[i])  # of all records first, so that the TLB misses overlap
        for i in range(start, min(stop, start + 4)):
            fetch_record(records, ordinals[i])
        for i in range(start, stop):
            if bounds[i] < worst:
                continue
            read += 1
            ordinal = ordinals[i]
            record = floats[ordinal]
            vector = record[RECORD_HEADER_WORDS : RECORD_HEADER_WORDS + dim]
            norm = record[WORD_NORM]
            if form == FLOAT32:
                score = vector_score(vector_of_query, vector, norm, metric)
            else:
                if form == FLOAT16:
                    read_half(halves[ordinal], record[WORD_SCALE], decoded)
                else:
                    read_int8(small[ordinal], record[WORD_SCALE], decoded)
                score = vector_score(vector_of_query, decoded, norm, metric)
            if not is_sound(records, ordinal, ordinals[min(i + 4, stop - 1)]):
                return int(ordinal), read
            if heap.shape[1] > 0:
                key = make_key(score_to_rank(score), ordinal)
                last = i if key < heap[0, 0] else last
                offer(heap, 0, key)
                if heap[0, 0] != EMPTY:
                    worst = rank_to_score(key_rank(heap[0, 0]))
        start = stop
        if last >= stop >> 1:  # in the second half of those considered
            stop = min(count, stop + max(1, first))
    write_hits(heap, 0, hits, place)
    return OK, read


@leaf
def rescore_candidates(
    queries: npt.NDArray[np.float32],
    originals: Originals,
    n: int,
    candidates: Candidates,
    bounds: npt.NDArray[np.float32],
    first: int,
    hits: Hits,
) -> tuple[int, int]:
    """Order each query's candidates by exact score and keep the k best; see ``api.rescore``.

    bounds : float32 (m or 1, c)    one row for each query, or one for all
    """
    limit = min(n, originals.records.shape[0]) if fits(originals, queries.shape[1]) else 0
    heap = np.empty((1, min(hits.ordinals.shape[1], candidates.ordinals.shape[1])), np.int64)
    total = 0
    for query in range(queries.shape[0]):
        count = min(candidates.counts[query], candidates.ordinals.shape[1])
        own = bounds[min(query, bounds.shape[0] - 1)]
        status, read = rescore_row(
            queries, query, originals, limit, candidates.ordinals[query], own, count, first, heap, hits, query
        )
        total += read
        if status != OK:
            return status, total
    return OK, total


@leaf
def scan_originals(
    queries: npt.NDArray[np.float32],
    originals: Originals,
    n: int,
    accept: Accept,
    heap: npt.NDArray[np.int64],
) -> int:
    """Offer every accepted record below ``n`` to the heap of every query, by (score descending, ordinal).

    Each record is read, verified and decoded once for all queries. Writes ``heap``, int64 (m, size), size > 0; returns
    a status. Scattered records are prefetched as in `rescore_row`: a thousand of 64 values take 68 us instead of 106,
    of 384 values 290 instead of 362. For consecutive records prefetching is slower.
    """
    records = originals.records
    floats, halves, small = records.view(np.float32), records.view(np.uint16), records.view(np.int8)
    dim, form, metric = originals.dim, originals.form, originals.metric
    group = max(1, min(ROWS, GROUP_BYTES // (4 * dim)))
    rows = np.empty(ROWS, np.int32)
    decoded = np.empty((group, dim), np.float32)
    count, word = next_rows(accept, n, 0, rows, 0)
    while count > 0:
        apart = rows[count - 1] - rows[0] >= 2 * count  # consecutive records are prefetched by the hardware
        for i in range(min(PAGES_AHEAD, count) if apart else 0):
            touch_pages(records, rows[i])
        for i in range(min(AHEAD, count) if apart else 0):
            fetch_record(records, rows[i])
        for first in range(0, count, group):
            size = min(group, count - first)
            for slot in range(size):
                ordinal = rows[first + slot]
                coming = ordinal
                if apart:
                    touch_pages(records, rows[min(first + slot + PAGES_AHEAD, count - 1)])
                    coming = rows[min(first + slot + AHEAD, count - 1)]
                elif first + slot + 1 < count:
                    fetch_record(records, rows[first + slot + 1])
                if not is_sound(records, ordinal, coming):
                    return int(ordinal)
                if form == FLOAT16:
                    read_half(halves[ordinal], floats[ordinal, WORD_SCALE], decoded[slot])
                elif form == INT8:
                    read_int8(small[ordinal], floats[ordinal, WORD_SCALE], decoded[slot])
            for query in range(queries.shape[0]):
                for slot in range(size):
                    ordinal = rows[first + slot]
                    record = floats[ordinal]
                    vector = record[RECORD_HEADER_WORDS : RECORD_HEADER_WORDS + dim]
                    norm = record[WORD_NORM]
                    if form == FLOAT32:
                        score = vector_score(queries[query], vector, norm, metric)
                    else:
                        score = vector_score(queries[query], decoded[slot], norm, metric)
                    offer(heap, query, make_key(score_to_rank(score), ordinal))
        count, word = next_rows(accept, n, word, rows, 0)
    return OK


@leaf
def write_hits(heap: npt.NDArray[np.int64], row: int, hits: Hits, query: int) -> None:
    """Write a heap of score ranks to row ``query`` of ``hits``, best first, padded with -1 and NaN."""
    count = sort_row(heap, row)
    for i in range(count):
        hits.ordinals[query, i] = key_ordinal(heap[row, i])
        hits.scores[query, i] = rank_to_score(key_rank(heap[row, i]))
    pad_hits(hits, query, count)


@leaf
def pad_hits(hits: Hits, query: int, count: int) -> None:
    """Fill row ``query`` of ``hits`` from index ``count`` on with -1 and NaN."""
    for i in range(count, hits.ordinals.shape[1]):
        hits.ordinals[query, i] = -1
        hits.scores[query, i] = np.nan
