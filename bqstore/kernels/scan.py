"""The flat scan: every accepted code against a batch of queries, the nearest kept.

Codes are visited in blocks that stay in the nearest caches while all queries pass over them, so that a batch
is bound by arithmetic and not by memory. Originals are not known here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqstore.kernels.bits import measure
from bqstore.kernels.heap import EMPTY, key_ordinal, key_rank, make_key, offer, sort_row
from bqstore.kernels.intrinsics import popcount, prefetch
from bqstore.kernels.jit import leaf
from bqstore.kernels.layout import BINARY, RABITQ, Accept, Candidates, Codes, Encoded, Quantizer
from bqstore.kernels.nearest import BLOCK, make_nearest, offer_block, write_candidates

ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
ZERO = np.uint64(0)
ONE = np.uint64(1)
# 18 KB: from 9 KB on, a scan from memory takes 4.3 ns a code of 192 bytes and not 6.0; with 1.5 KB it gains nothing
AHEAD_WORDS = 2304
QUERY_NUMBERS = 5
PORTION = 16  # codes of a scattered scan that are asked for at once; their lines are as many as a core waits for
CACHED_WORDS = 1 << 20  # 8 MB of codes are likely to stay in a cache, where asking ahead costs 0.3 ns a code


@leaf
def next_rows(accept: Accept, n: int, word: int, rows: npt.NDArray[np.int32]) -> tuple[int, int]:
    """Write the next accepted ordinals to ``rows``, ascending, starting at ``64 * word``.

    Parameters
    ----------
    accept : Accept
    n : int                     ordinals end here
    word : int                  where the last call stopped; 0 at first
    rows : int32 (size,)        written; size >= 64

    Returns
    -------
    count : int                 rows written; 0 only when none is left
    word : int                  where to go on
    """
    last = (n + 63) // 64
    if not accept.everything:
        last = min(last, accept.words.shape[0])
    count = 0
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
def keep_query(query: Encoded, out: npt.NDArray[np.float64]) -> None:
    """Write the numbers of an encoded query to ``out``, float64 (QUERY_NUMBERS,): kernels hold no lists of tuples."""
    out[0], out[1], out[2], out[3] = query.half, query.offset, query.error, query.square
    out[4] = query.top


@leaf
def kept_query(
    planes: npt.NDArray[np.uint64], numbers: npt.NDArray[np.float64], encoding: int, quantizer: Quantizer
) -> Encoded:
    """Return the encoded query whose planes and numbers were kept."""
    corrected = 1 if quantizer.kind == RABITQ else 0
    half, offset, error, square, top = np.float32(numbers[0]), numbers[1], numbers[2], numbers[3], int(numbers[4])
    return Encoded(planes, encoding, quantizer.bits, quantizer.width, corrected, half, top, offset, error, square)


@leaf
def ask_for(words: npt.NDArray[np.uint64], rows: npt.NDArray[np.int32], start: int, stop: int) -> None:
    """Ask for the codes of some rows, so that they are on their way from memory together."""
    for i in range(start, stop):
        for w in range(0, words.shape[1], 8):
            prefetch(words, rows[i], w)


@leaf
def measure_scattered(
    words: npt.NDArray[np.uint64],
    rows: npt.NDArray[np.int32],
    count: int,
    query: Encoded,
    distances: npt.NDArray[np.int32],
) -> None:
    """`measure` of codes that lie apart, each portion while the next one is on its way; 28 ns a code without."""
    ask_for(words, rows, 0, min(count, PORTION))
    for at in range(0, count, PORTION):
        stop = min(count, at + PORTION)
        ask_for(words, rows, stop, min(count, stop + PORTION))
        measure(words, rows[at:stop], stop - at, query, 0, distances[at:stop])


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
    planes : uint64 (m, encoding, W)    queries
    queries : float64 (m, QUERY_NUMBERS)    their numbers (`keep_query`)
    encoding : int                      planes of a query
    codes : Codes
    accept : Accept
    candidates : Candidates             written
    """
    words = codes.words
    m = planes.shape[0]
    n = max(0, min(codes.n, words.shape[0]))
    c = min(candidates.ordinals.shape[1], n)
    # Hamming distances are few, and counted; those of more planes are many, and go through a heap
    binary = encoding == BINARY and codes.quantizer.kind != RABITQ
    nearest = make_nearest(m, c if binary else 0, n if binary else 0, 64 * words.shape[1] if binary else 0)
    heap = np.full((0 if binary else m, c), EMPTY)
    rows = np.empty(BLOCK, np.int32)
    distances = np.empty(BLOCK, np.int32)
    far = max(1, AHEAD_WORDS // words.shape[1]) if n * words.shape[1] > CACHED_WORDS else 0
    count, word = next_rows(accept, n, 0, rows)
    while count > 0 and c > 0:
        dense = rows[count - 1] - rows[0] < 2 * count
        for query in range(m):
            # the first query brings the block in; the others find it there
            encoded = kept_query(planes[query], queries[query], encoding, codes.quantizer)
            if dense or far == 0 or query > 0:
                measure(words, rows, count, encoded, far if query == 0 else 0, distances)
            else:
                measure_scattered(words, rows, count, encoded, distances)
            if binary:
                offer_block(nearest, query, c, rows, distances, count)
            else:
                for i in range(count):
                    offer(heap, query, make_key(distances[i], rows[i]))
        count, word = next_rows(accept, n, word, rows)
    if binary:
        write_candidates(nearest, c, candidates)
        return
    for query in range(m):
        found = sort_row(heap, query)
        candidates.counts[query] = found
        for i in range(candidates.ordinals.shape[1]):
            candidates.ordinals[query, i] = key_ordinal(heap[query, i]) if i < found else -1
            candidates.distances[query, i] = key_rank(heap[query, i]) if i < found else -1
