"""The flat scan: compare every accepted code with a batch of queries and keep the nearest.

Codes are read in blocks that stay in the L1 and L2 caches while all queries pass over them, so that a batch is bound by
arithmetic and not by memory. Knows no originals.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqstore.kernels.bits import measure, prefetch_codes
from bqstore.kernels.heap import EMPTY, key_ordinal, key_rank, make_key
from bqstore.kernels.intrinsics import popcount
from bqstore.kernels.jit import leaf
from bqstore.kernels.layout import BINARY, RABITQ, Accept, Candidates, Codes, EncodedQuery, Quantizer
from bqstore.kernels.nearest import BLOCK, SLACK, make_nearest, offer_block, write_candidates
from bqstore.kernels.selection import cut_to_best, sort_keys

ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
ZERO = np.uint64(0)
ONE = np.uint64(1)
# Prefetch distance, 18 KB. From 9 KB on, a scan of codes of 192 bytes in memory takes 4.3 ns a code instead of 6.0;
# 1.5 KB gains nothing.
PREFETCH_WORDS = 2304
# Of codes that lie apart, in codes: 8 to 64 are alike.
PREFETCH_SCATTERED = 16
QUERY_NUMBERS = 6
CACHED_WORDS = 1 << 20  # 8 MB of codes are likely to be in a cache, where prefetching costs 0.3 ns a code


@leaf
def next_rows(accept: Accept, n: int, word: int, rows: npt.NDArray[np.int32], count: int) -> tuple[int, int]:
    """Write the next accepted ordinals behind the first ``count`` of ``rows``, ascending.

    Parameters
    ----------
    accept : Accept
    n : int                     number of ordinals
    word : int                  where the last call stopped, a word of the bitmap or a place in the list; 0 at first
    rows : int32 (size,)        written from ``count`` on; size >= count + 64, or nothing is

    Returns
    -------
    count : int                 rows written, and those before them; unchanged only when none is left, or no room
    word : int                  where the next call starts
    """
    listed = accept.rows
    if listed.shape[0] > 0:
        while word < listed.shape[0] and count < rows.shape[0]:
            if 0 <= listed[word] < n:
                rows[count] = listed[word]
                count += 1
            word += 1
        return count, word
    last = (n + 63) // 64
    if not accept.everything:
        last = min(last, accept.words.shape[0])
    while word < last and count + 64 <= rows.shape[0]:
        first = 64 * word
        width = min(64, n - first)
        bits = ALL if accept.everything else accept.words[word]
        word += 1
        if bits == ALL:
            for b in range(width):
                rows[count + b] = first + b
            count += width
        else:
            while bits != ZERO:
                b = popcount((bits - ONE) & ~bits)  # the zeros below the lowest set bit
                bits &= bits - ONE
                if b < width:
                    rows[count] = first + b
                    count += 1
    return count, word


@leaf
def store_query(query: EncodedQuery, out: npt.NDArray[np.float64]) -> None:
    """Write the numbers of an encoded query to ``out``, float64 (QUERY_NUMBERS,): a kernel has no list of tuples."""
    out[0], out[1], out[2], out[3] = query.half, query.offset, query.error, query.square
    out[4], out[5] = query.top, query.share


@leaf
def load_query(
    planes: npt.NDArray[np.uint64], numbers: npt.NDArray[np.float64], encoding: int, quantizer: Quantizer
) -> EncodedQuery:
    """Return the encoded query that `store_query` wrote."""
    corrected = 1 if quantizer.kind == RABITQ else 0
    half, offset, error, square, top = np.float32(numbers[0]), numbers[1], numbers[2], numbers[3], int(numbers[4])
    bits, width, share = quantizer.bits, quantizer.width, np.float32(numbers[5])
    lift, linking, shifts = np.float32(0), quantizer.linking, quantizer.shifts
    return EncodedQuery(
        planes, encoding, bits, width, corrected, half, top, offset, error, square, share, lift, linking, shifts
    )


@leaf
def scan_codes(
    planes: npt.NDArray[np.uint64],
    queries: npt.NDArray[np.float64],
    encoding: int,
    codes: Codes,
    accept: Accept,
    candidates: Candidates,
) -> None:
    """Write the nearest accepted codes of every query to ``candidates``, by (distance, ordinal).

    Parameters
    ----------
    planes : uint64 (m, encoding, bits * W) of the queries
    queries : float64 (m, QUERY_NUMBERS)    their numbers (`store_query`)
    encoding : int                          planes of a query
    codes : Codes
    accept : Accept
    candidates : Candidates                 written
    """
    words = codes.words
    m = planes.shape[0]
    n = max(0, min(codes.n, words.shape[0]))
    c = min(candidates.ordinals.shape[1], n)
    # Hamming distances are small integers, and cut back by counting; other distances have too many values for that
    binary = encoding == BINARY and codes.quantizer.kind != RABITQ
    nearest = make_nearest(m, c if binary else 0, n if binary else 0, 64 * words.shape[1] if binary else 0)
    keys = np.empty((0 if binary else m, min(2 * max(c, SLACK), n) + BLOCK), np.int64)
    sizes, worst = np.zeros(m, np.int64), np.full(m, EMPTY)
    far = max(1, PREFETCH_WORDS // words.shape[1]) if n * words.shape[1] > CACHED_WORDS else 0
    # a block, and the rows behind it that are prefetched meanwhile
    rows = np.zeros(2 * BLOCK + far + 64, np.int32)
    distances = np.empty(BLOCK, np.int32)
    held, word = next_rows(accept, n, 0, rows, 0)
    prefetch_codes(words, rows, 0, min(held, far, PREFETCH_SCATTERED))
    while held > 0 and c > 0:
        count = min(held, BLOCK)
        dense = rows[count - 1] - rows[0] < 2 * count
        ahead = far if dense else min(far, PREFETCH_SCATTERED)
        for query in range(m):
            # the first query reads the block into the cache, where the others find it
            encoded = load_query(planes[query], queries[query], encoding, codes.quantizer)
            measure(words, rows, count, encoded, ahead if query == 0 else 0, distances)
            if binary:
                offer_block(nearest, query, c, rows, distances, count)
            else:
                size, limit = sizes[query], worst[query]
                for i in range(count):
                    key = make_key(distances[i], rows[i])
                    keys[query, size] = key
                    size += key < limit
                if size > keys.shape[1] - BLOCK:
                    worst[query] = cut_to_best(keys, query, size, c)
                    size = np.int64(c)
                sizes[query] = size
        held -= count
        for i in range(held):
            rows[i] = rows[count + i]
        held, word = next_rows(accept, n, word, rows, held)
    if binary:
        write_candidates(nearest, c, candidates)
        return
    for query in range(m):
        found = min(c, sizes[query])
        if found > 0:
            cut_to_best(keys, query, sizes[query], found)
        sort_keys(keys, query, found)
        candidates.counts[query] = found
        for i in range(candidates.ordinals.shape[1]):
            candidates.ordinals[query, i] = key_ordinal(keys[query, i]) if i < found else -1
            candidates.distances[query, i] = key_rank(keys[query, i]) if i < found else -1
