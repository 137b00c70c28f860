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

from bqstore.kernels.encode import code_score, encode_query, reach_of
from bqstore.kernels.exact import prepare_row, rescore_candidates, rescore_row, scan_originals, write_hits
from bqstore.kernels.filtered_walk import beam_filtered
from bqstore.kernels.heap import EMPTY
from bqstore.kernels.jit import leaf, root
from bqstore.kernels.layout import (
    BINARY,
    COSINE,
    COUNT_RESCORED,
    DOUBTFUL,
    FINE,
    FLOAT32,
    ONE_BIT,
    OUT_OF_RANGE,
    RABITQ,
    SHORT,
    Accept,
    Candidates,
    Codes,
    Encoded,
    Graph,
    Hits,
    Originals,
    Quantizer,
    Scratch,
    Way,
    lanes_of,
    words_per_plane,
    words_per_record,
)
from bqstore.kernels.link import enough_of, faults_of, find_one, merge_one
from bqstore.kernels.quantize import pack_vectors
from bqstore.kernels.records import fits
from bqstore.kernels.scan import QUERY_NUMBERS, keep_query, kept_query, scan_codes
from bqstore.kernels.walk import ACCEPTED, DISTANCE_SHIFT, ORDINAL_MASK, ORDINAL_SHIFT, beam, descend, row_at, scan_tail

KERNELS_STAMP = "5b430a8732398048"


@root
def encode(vectors: npt.NDArray[np.float32], quantizer: Quantizer, metric: int, out: npt.NDArray[np.uint64]) -> None:
    """Write the codes of vectors.

    Parameters
    ----------
    vectors : float32 (m, dim)      as they came; the first ``quantizer.dim`` values of each are encoded
    quantizer : Quantizer           ONE_BIT: bit j % 64 of word j // 64 is 1 iff the value is > 0 (0 and -0 are 0)
    metric : int                    what the corrections of RABITQ are for
    out : uint64 (m, columns)       written, columns = `words_per_code`; bits past the lanes are 0
    """
    if matches(quantizer, vectors.shape[1], out.shape[1]):
        pack_vectors(vectors, quantizer, metric, out)


lanes_in = leaf(lanes_of)  # layout knows no numba


@leaf
def matches(quantizer: Quantizer, dim: int, columns: int) -> bool:
    """Whether a quantizer is whole, and makes codes of ``columns`` words of vectors of ``dim`` values, or of a part."""
    kind, bits, width, coded = quantizer.kind, quantizer.bits, quantizer.width, quantizer.dim
    corrected = kind == RABITQ
    means = 0 if kind == ONE_BIT else coded
    deviations = 0 if kind == ONE_BIT or corrected else coded
    return (
        ONE_BIT <= kind <= RABITQ
        and 1 <= coded <= dim
        and quantizer.lanes == lanes_in(coded, kind)
        and (quantizer.lanes + 63) // 64 == width
        and (bits == 1 or (corrected and bits in (2, 4)))
        and columns == bits * width + (1 if corrected else 0)
        and quantizer.mean.shape[0] == means
        and quantizer.deviation.shape[0] == deviations
        and (quantizer.turns.shape[0] == 0 or quantizer.turns.shape[1] == coded)
        and quantizer.spread.shape[0] == 2
    )


@leaf
def told_score(codes: Codes, ordinal: int, distance: int, query: Encoded, metric: int, way: Way) -> np.float32:
    """Return the score of a code that is not rescored, or, sparing, the best that its original may have."""
    if way.sparing:
        return reach_of(codes.words, ordinal, distance, query, metric, 1)
    return code_score(distance, query, metric)


@root
def search_bits(
    queries: npt.NDArray[np.float32],
    codes: Codes,
    originals: Originals,
    accept: Accept,
    way: Way,
    candidates: Candidates,
    hits: Hits,
) -> tuple[int, int]:
    """Scan the codes for each query's nearest, and order those by exact score or by the score of the codes.

    Parameters
    ----------
    queries : float32 (m, dim)      unit length when the metric is COSINE
    codes : Codes                   the first ``codes.n`` are scanned
    originals : Originals           may be empty when ``way.rescoring`` is 0
    accept : Accept                 the ordinals that may be found
    way : Way                       ``rescoring``, ``encoding``, ``sparing``. Not rescored, a score is that of the code
                                    (`code_score`), or, sparing, the best that its original may have
    candidates : Candidates         written: the c nearest codes, by (distance, ordinal)
    hits : Hits                     written: the k best of the candidates, by (score descending, ordinal)

    Returns
    -------
    status : int                    see the head of this file
    read : int                      originals that were read

    Notes
    -----
    The flat form of the two-pass search with oversampling. O(m * n * W). The batch is scanned block by block.
    """
    m, dim = queries.shape
    quantizer = codes.quantizer
    width = quantizer.width
    if not matches(quantizer, dim, codes.words.shape[1]):
        return OUT_OF_RANGE, 0
    planes = np.empty((m, way.encoding, width), np.uint64)
    levels = np.zeros(64 * width, np.uint8)
    turned = np.zeros(64 * width, np.float32)
    numbers = np.empty((m, QUERY_NUMBERS))
    for query in range(m):
        encoded = encode_query(queries[query], quantizer, way.encoding, originals.metric, levels, turned, planes[query])
        keep_query(encoded, numbers[query])
    scan_codes(planes, numbers, way.encoding, codes, accept, candidates)
    reach = np.empty((m if way.rescoring else 0, candidates.ordinals.shape[1]), np.float32)
    for query in range(m):
        encoded = kept_query(planes[query], numbers[query], way.encoding, quantizer)
        count = min(candidates.counts[query], candidates.ordinals.shape[1])
        if way.rescoring:
            for i in range(count):
                ordinal, distance = candidates.ordinals[query, i], candidates.distances[query, i]
                reach[query, i] = reach_of(codes.words, ordinal, distance, encoded, originals.metric, way.sparing)
            continue
        count = min(count, hits.ordinals.shape[1])
        for i in range(count):
            hits.ordinals[query, i] = candidates.ordinals[query, i]
            hits.scores[query, i] = told_score(
                codes, candidates.ordinals[query, i], candidates.distances[query, i], encoded, originals.metric, way
            )
        for i in range(count, hits.ordinals.shape[1]):
            hits.ordinals[query, i] = -1
            hits.scores[query, i] = np.nan
    if way.rescoring:
        first = way.candidates if way.most > 0 else candidates.ordinals.shape[1]
        return rescore_candidates(queries, originals, codes.n, candidates, reach, first, hits)
    return FINE, 0


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
def rescore(
    queries: npt.NDArray[np.float32],
    originals: Originals,
    n: int,
    candidates: Candidates,
    reach: npt.NDArray[np.float32],
    first: int,
    hits: Hits,
) -> tuple[int, int]:
    """Order each query's candidates by exact score and keep the k best.

    Parameters
    ----------
    queries : float32 (m, dim)      unit length when the metric is COSINE
    originals : Originals
    n : int                         ordinals end here
    candidates : Candidates         ``ordinals`` and ``counts`` are read, ``distances`` is not
    reach : float32 (m or 1, c)     the best score that each may have; one that cannot be among the k best is not read
    first : int                     candidates looked at in any case; more while they bring hits (`rescore_row`)
    hits : Hits                     written: the k best, by (score descending, ordinal)

    Returns
    -------
    status : int                    see the head of this file; OUT_OF_RANGE for an ordinal outside [0, n)
    read : int                      originals that were read

    Notes
    -----
    Second pass of the two-pass search. Every record read is checked. O(m * c * dim).
    """
    if reach.shape[0] < 1 or reach.shape[1] < candidates.ordinals.shape[1]:
        return OUT_OF_RANGE, 0
    return rescore_candidates(queries, originals, n, candidates, reach, first, hits)


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
    words, quantizer, metric = codes.words, codes.quantizer, originals.metric
    if not 0 <= graph.entry < linked or not matches(quantizer, dim, words.shape[1]) or scratch.query.shape[1] != dim:
        return OUT_OF_RANGE
    if scratch.planes.shape[1] != quantizer.width or scratch.turned.shape[0] != 64 * quantizer.width:
        return OUT_OF_RANGE
    for query in range(queries.shape[0]):
        if not prepare_row(queries, query, originals.metric, scratch.query, 0):
            return DOUBTFUL
        encoded = encode_query(
            scratch.query[0], quantizer, way.encoding, metric, scratch.levels, scratch.turned, scratch.planes
        )
        start, distance = descend(words, graph, 0, encoded, scratch)
        if way.rare > 0 or way.inside:
            found = beam_filtered(words, graph, accept, way, encoded, start, distance, scratch)
        else:
            found = beam(words, graph, 0, accept, way.ef, way.room, encoded, start, distance, 1, scratch)
        if linked < n:
            found = scan_tail(words, linked, n, accept, way.ef, way.room, encoded, found, scratch)
        if found[1] < way.candidates:
            return SHORT
        count = 0
        at = 0
        wanted = min(max(way.candidates, way.most), found[1], scratch.found.shape[0])
        while count < wanted:
            key = scratch.keys[at]
            at += 1
            if key & ACCEPTED:
                ordinal = (key >> ORDINAL_SHIFT) & ORDINAL_MASK
                distance = key >> DISTANCE_SHIFT
                scratch.found[count] = ordinal
                if way.rescoring:
                    scratch.reach[count] = reach_of(words, ordinal, distance, encoded, metric, way.sparing)
                elif count < k:
                    hits.ordinals[query, count] = ordinal
                    hits.scores[query, count] = told_score(codes, ordinal, distance, encoded, metric, way)
                count += 1
        if way.rescoring:
            status, read = rescore_row(
                scratch.query,
                0,
                originals,
                limit,
                scratch.found,
                scratch.reach,
                count,
                way.candidates,
                scratch.best,
                hits,
                query,
            )
            scratch.counters[COUNT_RESCORED] += read
            if status != FINE:
                return status
        else:
            for i in range(count, k):
                hits.ordinals[query, i] = -1
                hits.scores[query, i] = np.nan
    return FINE


@leaf
def fitting(codes: Codes, scratch: Scratch) -> bool:
    """Whether codes are as long as their quantizer says, and the scratch has room for the planes of one."""
    quantizer = codes.quantizer
    whole = matches(quantizer, quantizer.dim, codes.words.shape[1])
    return whole and scratch.planes.shape[1] == quantizer.width


@root
def find_links(codes: Codes, graph: Graph, start: int, stop: int, ef: int, scratch: Scratch) -> None:
    """Write the links of the new nodes ``start <= ordinal < stop``, found on the graph as it stands.

    Parameters
    ----------
    codes : Codes                   of the new nodes too
    graph : Graph                   of n >= 1 nodes; the new nodes' rows are written, nothing else
    start, stop : int               n <= start <= stop <= the rows of every array
    ef : int                        ``ef_construct``, at most ``scratch.keys.shape[0] - 8``
    scratch : Scratch               written

    Notes
    -----
    The first half of a batch: any number of calls may run at once, each on nodes and a scratch of its own.
    """
    everything = Accept(np.zeros(1, np.uint64), 1)
    words = codes.words
    if not 0 <= graph.entry < min(graph.n, words.shape[0]) or not fitting(codes, scratch):
        return
    for ordinal in range(start, min(stop, words.shape[0], graph.links.shape[0])):
        find_one(codes, graph, ordinal, ef, scratch, everything)


@root
def merge_links(
    codes: Codes,
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
    codes : Codes
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
    n = min(codes.words.shape[0], graph.links.shape[0])
    if not fitting(codes, scratch):
        return
    for i in range(span[0], span[1]):
        target = targets[i]
        if not 0 <= target < n:
            continue
        new = sources[ends[i] : ends[i + 1]]
        if level == 0:
            merge_one(codes, graph.links[target], target, new, enough_of(graph), scratch)
        else:
            row = row_at(graph, target, level)
            if row >= 0:
                merge_one(codes, graph.upper[row], target, new, 0, scratch)


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
    encode,
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
    words = np.zeros((2, words_per_plane(1)), np.uint64)
    nothing = np.zeros(0, np.float32)
    quantizer = Quantizer(ONE_BIT, 1, 1, 1, 1, nothing, nothing, np.zeros((0, 1), np.float32), np.zeros(2, np.float32))
    records = np.zeros((0, words_per_record(1, FLOAT32)), np.uint32)
    records.flags.writeable = False
    originals = Originals(records, 1, FLOAT32, COSINE)
    accept = Accept(np.zeros(1, np.uint64), 1)
    candidates = Candidates(np.empty((1, 1), np.int32), np.empty((1, 1), np.int32), np.empty(1, np.int64))
    hits = Hits(np.empty((1, 1), np.int32), np.empty((1, 1), np.float32))
    way = Way(ef=1, room=1, candidates=1, rescoring=0, encoding=BINARY, sparing=0, most=1)
    prepare(queries, COSINE, queries)
    encode(queries, quantizer, COSINE, words)
    search_bits(queries, Codes(words, 1, quantizer), originals, accept, way, candidates, hits)
    search_exact(queries, originals, 0, accept, hits)
    candidates.counts[0] = 0
    rescore(queries, originals, 0, candidates, np.zeros((1, 1), np.float32), 1, hits)
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
        np.zeros(1, np.float32),
        np.zeros((1, 1), np.int64),
        np.zeros((1, 1), np.float32),
        np.zeros(64, np.float32),
        np.zeros((8, 1), np.uint64),
        np.zeros(64, np.uint8),
        np.zeros(4, np.int32),
        np.zeros(8, np.int64),
    )
    check_graph(graph)
    codes = Codes(words, 2, quantizer)
    find_links(codes, graph, 1, 2, 4, scratch)
    merge_links(codes, graph, 0, np.zeros(1, np.int32), np.array([0, 1]), np.ones(1, np.int32), (0, 1), scratch)
    search_graph(queries, codes, graph, originals, accept, way, scratch, hits)
