"""The kernels that Python calls, and the only ones numba caches.

Roots (a status is ``layout.FINE`` -1, the ordinal >= 0 of a damaged record, or ``layout.OUT_OF_RANGE`` -2)::

    pack_signs(vectors float32 (m, dim), out uint64 (m, W)) -> None
    search_bits(queries float32 (m, dim), codes Codes, originals Originals, accept Accept,
                rescoring int, candidates Candidates, hits Hits) -> int
    search_exact(queries float32 (m, dim), originals Originals, n int, accept Accept, hits Hits) -> int
    rescore(queries float32 (m, dim), originals Originals, n int, candidates Candidates, hits Hits) -> int

All arrays are C-order and writable, but ``originals.records``, which is read-only; all scalars are plain
Python ints. Any other type compiles a second version. Roots never raise, release the GIL, write only to their
outputs, and read no ordinal they have not compared with the arrays' lengths. After a status other than FINE
the outputs mean nothing. All arrays of a batch must have m rows: that is not checked here.

numba's cache is renewed when the text of this file changes, and only then: so it carries a stamp of the other
files' text, which ``tools/stamp_kernels.py`` rewrites and a test compares.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqstore.kernels.bits import code_score, pack_row
from bqstore.kernels.exact import rescore_candidates, scan_originals, write_hits
from bqstore.kernels.heap import EMPTY
from bqstore.kernels.jit import root
from bqstore.kernels.layout import (
    COSINE,
    FINE,
    FLOAT32,
    OUT_OF_RANGE,
    Accept,
    Candidates,
    Codes,
    Hits,
    Originals,
    words_per_code,
    words_per_record,
)
from bqstore.kernels.records import fits
from bqstore.kernels.scan import scan_codes

KERNELS_STAMP = "5f95e5fe7837bb8c"


@root
def pack_signs(vectors: npt.NDArray[np.float32], out: npt.NDArray[np.uint64]) -> None:
    """Write the sign bits of vectors: bit j % 64 of word j // 64 is 1 iff the value is > 0 (0 and -0 are 0).

    Parameters
    ----------
    vectors : float32 (m, dim)
    out : uint64 (m, W)     written, W = ceil(dim / 64); the bits past dim are 0
    """
    for row in range(min(vectors.shape[0], out.shape[0])):
        pack_row(vectors, row, out)


@root
def search_bits(
    queries: npt.NDArray[np.float32],
    codes: Codes,
    originals: Originals,
    accept: Accept,
    rescoring: int,
    candidates: Candidates,
    hits: Hits,
) -> int:
    """Scan the codes for each query's nearest, and order those by exact score or by the score of the codes.

    Parameters
    ----------
    queries : float32 (m, dim)      unit length when the metric is COSINE
    codes : Codes                   the first ``codes.n`` are scanned
    originals : Originals           may be empty when ``rescoring`` is 0
    accept : Accept                 the ordinals that may be found
    rescoring : int                 1: exact scores, from checked records; 0: those of the codes read as +-1
    candidates : Candidates         written: the c nearest codes, by (distance, ordinal)
    hits : Hits                     written: the k best of the candidates, by (score descending, ordinal)

    Returns
    -------
    status : int                    see the head of this file

    Notes
    -----
    The flat form of the two-pass search with oversampling. O(m * n * W). The batch is scanned block by block.
    """
    m = queries.shape[0]
    packed = np.empty((m, codes.words.shape[1]), np.uint64)
    for query in range(m):
        pack_row(queries, query, packed)
    scan_codes(packed, codes, accept, candidates)
    if rescoring:
        return rescore_candidates(queries, originals, codes.n, candidates, hits)
    for query in range(m):
        count = min(candidates.counts[query], hits.ordinals.shape[1])
        for i in range(count):
            hits.ordinals[query, i] = candidates.ordinals[query, i]
            hits.scores[query, i] = code_score(candidates.distances[query, i], queries.shape[1], originals.metric)
        for i in range(count, hits.ordinals.shape[1]):
            hits.ordinals[query, i] = -1
            hits.scores[query, i] = np.nan
    return FINE


@root
def search_exact(queries: npt.NDArray[np.float32], originals: Originals, n: int, accept: Accept, hits: Hits) -> int:
    """Score every accepted record for each query and keep the k best.

    Parameters
    ----------
    queries : float32 (m, dim)      unit length when the metric is COSINE
    originals : Originals
    n : int                         ordinals below this are scored
    accept : Accept                 the ordinals that may be found
    hits : Hits                     written: the k best, by (score descending, ordinal)

    Returns
    -------
    status : int                    see the head of this file

    Notes
    -----
    Every record read is checked, once for the batch. O(n * dim * m).
    """
    if n > 0 and (n > originals.records.shape[0] or not fits(originals, queries.shape[1])):
        return OUT_OF_RANGE
    m = queries.shape[0]
    heap = np.full((m, max(0, min(hits.ordinals.shape[1], n))), EMPTY)
    if heap.shape[1] > 0:
        status = scan_originals(queries, originals, n, accept, heap)
        if status != FINE:
            return status
    for query in range(m):
        write_hits(heap, query, hits, query)
    return FINE


@root
def rescore(queries: npt.NDArray[np.float32], originals: Originals, n: int, candidates: Candidates, hits: Hits) -> int:
    """Order each query's candidates by exact score and keep the k best.

    Parameters
    ----------
    queries : float32 (m, dim)      unit length when the metric is COSINE
    originals : Originals
    n : int                         ordinals end here
    candidates : Candidates         ``ordinals`` and ``counts`` are read, ``distances`` is not
    hits : Hits                     written: the k best, by (score descending, ordinal)

    Returns
    -------
    status : int                    see the head of this file; OUT_OF_RANGE for an ordinal outside [0, n)

    Notes
    -----
    Second pass of the two-pass search. Every record read is checked. O(m * c * dim).
    """
    return rescore_candidates(queries, originals, n, candidates, hits)


ROOTS = (pack_signs, search_bits, search_exact, rescore)


def warm_up() -> None:
    """Compile every root, or load it from numba's cache, by one call each on a vector of one dimension."""
    queries = np.ones((1, 1), np.float32)
    words = np.zeros((1, words_per_code(1)), np.uint64)
    records = np.zeros((0, words_per_record(1, FLOAT32)), np.uint32)
    records.flags.writeable = False
    originals = Originals(records, 1, FLOAT32, COSINE)
    accept = Accept(np.zeros(1, np.uint64), 1)
    candidates = Candidates(np.empty((1, 1), np.int32), np.empty((1, 1), np.int32), np.empty(1, np.int64))
    hits = Hits(np.empty((1, 1), np.int32), np.empty((1, 1), np.float32))
    pack_signs(queries, words)
    search_bits(queries, Codes(words, 1), originals, accept, 0, candidates, hits)
    search_exact(queries, originals, 0, accept, hits)
    candidates.counts[0] = 0
    rescore(queries, originals, 0, candidates, hits)
