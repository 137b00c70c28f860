"""The kernels that Python calls, and the only ones numba caches.

Roots (a status is ``layout.FINE`` -1, the ordinal >= 0 of a damaged record, ``OUT_OF_RANGE``,
``SHORT`` or ``DOUBTFUL``)::

    pack_signs(vectors float32 (m, dim), out uint64 (m, W)) -> None
    search_bits(queries float32 (m, dim), codes Codes, originals Originals, accept Accept, way Way,
                candidates Candidates, hits Hits) -> int
    search_exact(queries float32 (m, dim), originals Originals, n int, accept Accept, hits Hits) -> int
    search_graph(queries float32 (m, dim), codes Codes, graph Graph, originals Originals, accept Accept, way Way,
                 scratch Scratch, hits Hits) -> int
    rescore(queries float32 (m, dim), originals Originals, n int, candidates Candidates, hits Hits) -> int
    prepare(queries float32 (m, dim), metric int, out float32 (m, dim)) -> int
    find_links(words uint64 (n, W), graph Graph, start int, stop int, ef int, scratch Scratch) -> None
    merge_links(words uint64 (n, W), graph Graph, level int, targets int32 (t,), ends int64 (t + 1,),
                sources int32 (s,), span (int, int), scratch Scratch) -> None
    check_graph(graph Graph) -> int

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

from bqstore.kernels.bits import pack_row
from bqstore.kernels.encode import code_score, encode_query
from bqstore.kernels.exact import prepare_row, rescore_candidates, rescore_row, scan_originals, write_hits
from bqstore.kernels.heap import EMPTY
from bqstore.kernels.jit import root
from bqstore.kernels.layout import (
    BINARY,
    COSINE,
    COUNT_RESCORED,
    DOUBTFUL,
    FINE,
    FLOAT32,
    OUT_OF_RANGE,
    SHORT,
    Accept,
    Candidates,
    Codes,
    Graph,
    Hits,
    Originals,
    Scratch,
    Way,
    words_per_code,
    words_per_record,
)
from bqstore.kernels.link import enough_of, faults_of, find_one, merge_one
from bqstore.kernels.records import fits
from bqstore.kernels.scan import scan_codes
from bqstore.kernels.walk import ACCEPTED, DISTANCE_SHIFT, ORDINAL_MASK, ORDINAL_SHIFT, beam, descend, row_at, scan_tail

KERNELS_STAMP = "f434db0e737db9a2"


@root
def pack_signs(vectors: npt.NDArray[np.float32], out: npt.NDArray[np.uint64]) -> None:
    """Write the sign bits of vectors: bit j % 64 of word j // 64 is 1 iff the value is > 0 (0 and -0 are 0).

    Parameters
    ----------
    vectors : float32 (m, dim)
    out : uint64 (m, W)     written, W = ceil(dim / 64); the bits past dim are 0
    """
    for row in range(min(vectors.shape[0], out.shape[0])):
        pack_row(vectors, row, out, row)


@root
def search_bits(
    queries: npt.NDArray[np.float32],
    codes: Codes,
    originals: Originals,
    accept: Accept,
    way: Way,
    candidates: Candidates,
    hits: Hits,
) -> int:
    """Scan the codes for each query's nearest, and order those by exact score or by the score of the codes.

    Parameters
    ----------
    queries : float32 (m, dim)      unit length when the metric is COSINE
    codes : Codes                   the first ``codes.n`` are scanned
    originals : Originals           may be empty when ``way.rescoring`` is 0
    accept : Accept                 the ordinals that may be found
    way : Way                       ``rescoring``, ``encoding``. Not rescored, a score is that of the code read as +-1
    candidates : Candidates         written: the c nearest codes, by (distance, ordinal)
    hits : Hits                     written: the k best of the candidates, by (score descending, ordinal)

    Returns
    -------
    status : int                    see the head of this file

    Notes
    -----
    The flat form of the two-pass search with oversampling. O(m * n * W). The batch is scanned block by block.
    """
    m, dim = queries.shape
    width = codes.words.shape[1]
    if (dim + 63) // 64 != width:
        return OUT_OF_RANGE
    planes = np.empty((m, way.encoding, width), np.uint64)
    levels = np.zeros(64 * width, np.uint8)
    scale = np.empty((m, 2))
    for query in range(m):
        scale[query, 0], scale[query, 1] = encode_query(queries, query, way.encoding, levels, planes[query])
    scan_codes(planes, way.encoding, codes, accept, candidates)
    if way.rescoring:
        return rescore_candidates(queries, originals, codes.n, candidates, hits)
    for query in range(m):
        count = min(candidates.counts[query], hits.ordinals.shape[1])
        step, norm = scale[query, 0], scale[query, 1]
        for i in range(count):
            distance = candidates.distances[query, i]
            hits.ordinals[query, i] = candidates.ordinals[query, i]
            hits.scores[query, i] = code_score(distance, dim, way.encoding, step, norm, originals.metric)
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
def prepare(queries: npt.NDArray[np.float32], metric: int, out: npt.NDArray[np.float32]) -> int:
    """Write queries to ``out``, float32 (m, dim), at unit length under COSINE; FINE, or DOUBTFUL if one cannot be."""
    for query in range(min(queries.shape[0], out.shape[0])):
        if not prepare_row(queries, query, metric, out, query):
            return DOUBTFUL
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


@root
def search_graph(
    queries: npt.NDArray[np.float32],
    codes: Codes,
    graph: Graph,
    originals: Originals,
    accept: Accept,
    way: Way,
    scratch: Scratch,
    hits: Hits,
) -> int:
    """Walk the graph for each query's nearest codes, scan the tail, and order what was found by exact score.

    Parameters
    ----------
    queries : float32 (m, dim)      of any length; under COSINE they are scaled here
    codes : Codes                   ``graph.n`` of them are linked, the others are the tail
    graph : Graph                   of at least one node
    originals : Originals           may be empty when ``way.rescoring`` is 0
    accept : Accept                 the ordinals that may be found; the others are walked through
    way : Way
    scratch : Scratch               written; ``counters`` are added to
    hits : Hits                     written: the k best of the candidates, by (score descending, ordinal)

    Returns
    -------
    status : int                    see the head of this file; SHORT when a query found fewer than ``way.candidates``

    Notes
    -----
    Algorithm 5 of Malkov and Yashunin 2016, on bits, then the second pass of the two-pass search.
    """
    dim, k = queries.shape[1], hits.ordinals.shape[1]
    n = min(codes.n, codes.words.shape[0], scratch.visited.shape[0])
    linked = min(graph.n, n, graph.links.shape[0], graph.first.shape[0], graph.levels.shape[0], graph.same.shape[0])
    graph = Graph(graph.links, graph.upper, graph.first, graph.levels, graph.same, linked, graph.entry, graph.top)
    limit = min(n, originals.records.shape[0]) if fits(originals, dim) else 0
    width = codes.words.shape[1]
    if not 0 <= graph.entry < linked or (dim + 63) // 64 != width or scratch.query.shape[1] != dim:
        return OUT_OF_RANGE
    planes = scratch.planes
    for query in range(queries.shape[0]):
        if not prepare_row(queries, query, originals.metric, scratch.query, 0):
            return DOUBTFUL
        step, norm = encode_query(scratch.query, 0, way.encoding, scratch.levels, planes)
        start, distance = descend(codes.words, graph, 0, planes, way.encoding, scratch)
        found = beam(codes.words, graph, 0, accept, way.ef, way.room, way.encoding, start, distance, 1, scratch)
        if linked < n:
            found = scan_tail(codes.words, linked, n, accept, way.ef, way.room, way.encoding, found, scratch)
        if found[1] < way.candidates:
            return SHORT
        count = 0
        at = 0
        while count < way.candidates:
            key = scratch.keys[at]
            at += 1
            if key & ACCEPTED:
                scratch.found[count] = (key >> ORDINAL_SHIFT) & ORDINAL_MASK
                if not way.rescoring and count < k:
                    hits.ordinals[query, count] = scratch.found[count]
                    distance = key >> DISTANCE_SHIFT
                    hits.scores[query, count] = code_score(distance, dim, way.encoding, step, norm, originals.metric)
                count += 1
        if way.rescoring:
            scratch.counters[COUNT_RESCORED] += count
            status = rescore_row(scratch.query, 0, originals, limit, scratch.found, count, scratch.best, hits, query)
            if status != FINE:
                return status
        else:
            for i in range(count, k):
                hits.ordinals[query, i] = -1
                hits.scores[query, i] = np.nan
    return FINE


@root
def find_links(words: npt.NDArray[np.uint64], graph: Graph, start: int, stop: int, ef: int, scratch: Scratch) -> None:
    """Write the links of the new nodes ``start <= ordinal < stop``, found on the graph as it stands.

    Parameters
    ----------
    words : uint64 (capacity, W)    codes, of the new nodes too
    graph : Graph                   of n >= 1 nodes; the new nodes' rows are written, nothing else
    start, stop : int               n <= start <= stop <= the rows of every array
    ef : int                        ``ef_construct``, at most ``scratch.keys.shape[0] - 8``
    scratch : Scratch               written

    Notes
    -----
    The first half of a batch: any number of calls may run at once, each on nodes and a scratch of its own.
    """
    everything = Accept(np.zeros(1, np.uint64), 1)
    if not 0 <= graph.entry < min(graph.n, words.shape[0]):
        return
    for ordinal in range(start, min(stop, words.shape[0], graph.links.shape[0])):
        find_one(words, graph, ordinal, ef, scratch, everything)


@root
def merge_links(
    words: npt.NDArray[np.uint64],
    graph: Graph,
    level: int,
    targets: npt.NDArray[np.int32],
    ends: npt.NDArray[np.int64],
    sources: npt.NDArray[np.int32],
    span: tuple[int, int],
    scratch: Scratch,
) -> None:
    """Add the links back from old nodes to new ones, on one level.

    Parameters
    ----------
    words : uint64 (capacity, W)
    graph : Graph                   rows of the targets are written
    targets : int32 (t,)            old nodes, each once
    ends : int64 (t + 1,)           where the sources of each begin, and after the last one end
    sources : int32 (s,)            new nodes
    span : first and last + 1 of the targets to do
    scratch : Scratch               written

    Notes
    -----
    The second half of a batch: any number of calls may run at once, each on targets and a scratch of its own.
    """
    n = min(words.shape[0], graph.links.shape[0])
    for i in range(span[0], span[1]):
        target = targets[i]
        if not 0 <= target < n:
            continue
        new = sources[ends[i] : ends[i + 1]]
        if level == 0:
            merge_one(words, graph.links[target], target, new, enough_of(graph), scratch)
        else:
            row = row_at(graph, target, level)
            if row >= 0:
                merge_one(words, graph.upper[row], target, new, 0, scratch)


@root
def check_graph(graph: Graph) -> int:
    """Return how many rows of a graph are not as a walk may rely on: -1 when its numbers or shapes are wrong.

    Notes
    -----
    Every link leads to a linked node that is on that level, not to itself, and lies before the row's first -1; every
    level has a row; the entry point is on the top level, which no node is above.
    """
    return faults_of(graph)


ROOTS = (
    pack_signs,
    search_bits,
    search_exact,
    search_graph,
    rescore,
    prepare,
    find_links,
    merge_links,
    check_graph,
)


def warm_up() -> None:
    """Compile every root, or load it from numba's cache, by one call each on a vector of one dimension."""
    queries = np.ones((1, 1), np.float32)
    words = np.zeros((2, words_per_code(1)), np.uint64)
    records = np.zeros((0, words_per_record(1, FLOAT32)), np.uint32)
    records.flags.writeable = False
    originals = Originals(records, 1, FLOAT32, COSINE)
    accept = Accept(np.zeros(1, np.uint64), 1)
    candidates = Candidates(np.empty((1, 1), np.int32), np.empty((1, 1), np.int32), np.empty(1, np.int64))
    hits = Hits(np.empty((1, 1), np.int32), np.empty((1, 1), np.float32))
    way = Way(ef=1, room=1, candidates=1, rescoring=0, encoding=BINARY)
    prepare(queries, COSINE, queries)
    pack_signs(queries, words)
    search_bits(queries, Codes(words, 1), originals, accept, way, candidates, hits)
    search_exact(queries, originals, 0, accept, hits)
    candidates.counts[0] = 0
    rescore(queries, originals, 0, candidates, hits)
    links, upper = np.full((2, 4), -1, np.int32), np.zeros((0, 2), np.int32)
    graph = Graph(
        links, upper, np.full(2, -1, np.int32), np.zeros(2, np.uint8), np.full(2, -1, np.int32), n=1, entry=0, top=0
    )
    scratch = Scratch(
        np.zeros(2, np.uint8),
        np.zeros(16, np.int64),
        np.zeros(16, np.int32),
        np.zeros(16, np.int32),
        np.zeros(1, np.int32),
        np.zeros((1, 1), np.int64),
        np.zeros((1, 1), np.float32),
        np.zeros((8, 1), np.uint64),
        np.zeros(64, np.uint8),
        np.zeros(8, np.int64),
    )
    check_graph(graph)
    find_links(words, graph, 1, 2, 4, scratch)
    merge_links(words, graph, 0, np.zeros(1, np.int32), np.array([0, 1]), np.ones(1, np.int32), (0, 1), scratch)
    search_graph(queries, Codes(words, 2), graph, originals, accept, way, scratch, hits)
