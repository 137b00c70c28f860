"""The roots for vectors and graphs: kernels that Python calls, which are cached on disk (`metadata.py` has the others).

All arrays are C-order and writable, except ``originals.records``, which is read-only; all scalars are plain Python
ints. Any other type compiles a second version. Roots never raise, release the GIL, write only to their outputs, and
check every ordinal against the lengths of the arrays before use. The caller must ensure that the arrays of a batch
have one row for each of its m queries.

Searches return a status: ``layout.OK`` (-1), ``OUT_OF_RANGE``, ``TOO_FEW``, ``BAD_QUERY``, or the ordinal (>= 0) of a
damaged record. For any status but OK the outputs are undefined, except for TOO_FEW (`search_graph`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqstore.kernels.encode_query import encode_query, score_bound, unrescored_score
from bqstore.kernels.exact_scores import (
    pad_hits,
    prepare_row,
    rescore_candidates,
    rescore_row,
    scan_originals,
    write_hits,
)
from bqstore.kernels.filtered_walk import beam_filtered
from bqstore.kernels.heap import EMPTY
from bqstore.kernels.jit import root
from bqstore.kernels.layout import (
    BAD_QUERY,
    COUNT_RESCORED,
    OK,
    OUT_OF_RANGE,
    TOO_FEW,
    Accept,
    Candidates,
    Codes,
    Graph,
    Hits,
    Originals,
    Quantizer,
    Scratch,
    SearchSettings,
)
from bqstore.kernels.link import codes_fit, count_faults, fill_target, link_node, merge_back_links
from bqstore.kernels.quantize import pack_vectors, quantizer_fits
from bqstore.kernels.records import fits
from bqstore.kernels.scan import QUERY_NUMBERS, load_query, scan_codes, store_query
from bqstore.kernels.walk import (
    ACCEPTED,
    DISTANCE_SHIFT,
    ORDINAL_MASK,
    ORDINAL_SHIFT,
    beam,
    descend,
    nearest_seeds,
    row_at,
    scan_tail,
)


@root
def encode(vectors: npt.NDArray[np.float32], quantizer: Quantizer, metric: int, out: npt.NDArray[np.uint64]) -> None:
    """Write the codes of vectors.

    Parameters
    ----------
    vectors : float32 (m, dim)      of any length; the first ``quantizer.dim`` values of each are encoded
    quantizer : Quantizer           ONE_BIT: bit j % 64 of word j // 64 is 1 iff the value is > 0 (0 and -0 give 0)
    metric : int                    COSINE scales to unit length first; the corrections of RABITQ depend on it
    out : uint64 (m, columns)       written, columns = `words_per_code`; bits past the lanes are 0
    """
    if quantizer_fits(quantizer, vectors.shape[1], out.shape[1]):
        pack_vectors(vectors, quantizer, metric, out)


@root
def search_bits(
    queries: npt.NDArray[np.float32],
    codes: Codes,
    originals: Originals,
    accept: Accept,
    settings: SearchSettings,
    candidates: Candidates,
    hits: Hits,
) -> tuple[int, int]:
    """Scan all codes for the nearest to each query, and order these by exact score or by the score of their codes.

    Parameters
    ----------
    queries : float32 (m, dim)      unit length when the metric is COSINE
    codes : Codes                   the first ``codes.n`` are scanned
    originals : Originals           may be empty when ``settings.rescoring`` is 0
    accept : Accept                 the ordinals that may be found
    settings : SearchSettings       ``rescoring``, ``encoding``, ``prune``, ``candidates`` and ``max_candidates``.
                                    Without rescoring, a score is the code's, or its upper bound if ``prune`` is 1
    candidates : Candidates         written: the c nearest codes, by (distance, ordinal)
    hits : Hits                     written: the k best of the candidates, by (score descending, ordinal)

    Returns
    -------
    status : int                    see the head of this file
    read : int                      originals that were read

    Notes
    -----
    Two-pass search with oversampling, by a flat scan. O(m * n * W). Each block of codes is compared with all queries.
    """
    m, dim = queries.shape
    quantizer = codes.quantizer
    width = quantizer.width
    if not quantizer_fits(quantizer, dim, codes.words.shape[1]):
        return OUT_OF_RANGE, 0
    planes = np.empty((m, settings.encoding, quantizer.bits * width), np.uint64)
    levels = np.zeros(64 * width, np.uint8)
    rotated = np.zeros(64 * width, np.float32)
    numbers = np.empty((m, QUERY_NUMBERS))
    for query in range(m):
        encoded = encode_query(
            queries[query], quantizer, settings.encoding, originals.metric, levels, rotated, planes[query]
        )
        store_query(encoded, numbers[query])
    scan_codes(planes, numbers, settings.encoding, codes, accept, candidates)
    bounds = np.empty((m if settings.rescoring else 0, candidates.ordinals.shape[1]), np.float32)
    for query in range(m):
        encoded = load_query(planes[query], numbers[query], settings.encoding, quantizer)
        count = min(candidates.counts[query], candidates.ordinals.shape[1])
        if not settings.rescoring:
            count = min(count, hits.ordinals.shape[1])
            pad_hits(hits, query, count)
        for i in range(count):
            ordinal, distance = candidates.ordinals[query, i], candidates.distances[query, i]
            if settings.rescoring:
                bounds[query, i] = score_bound(
                    codes.words, ordinal, distance, encoded, originals.metric, settings.prune
                )
            else:
                hits.ordinals[query, i] = ordinal
                hits.scores[query, i] = unrescored_score(
                    codes.words, ordinal, distance, encoded, originals.metric, settings.prune
                )
    if settings.rescoring:
        first = settings.candidates if settings.max_candidates > 0 else candidates.ordinals.shape[1]
        return rescore_candidates(queries, originals, codes.n, candidates, bounds, first, hits)
    return OK, 0


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
    The checksum of every record is verified, once a batch. O(n * dim * m).
    """
    if n > 0 and (n > originals.records.shape[0] or not fits(originals, queries.shape[1])):
        return OUT_OF_RANGE
    m = queries.shape[0]
    heap = np.full((m, max(0, min(hits.ordinals.shape[1], n))), EMPTY)
    if heap.shape[1] > 0:
        status = scan_originals(queries, originals, n, accept, heap)
        if status != OK:
            return status
    for query in range(m):
        write_hits(heap, query, hits, query)
    return OK


@root
def prepare(queries: npt.NDArray[np.float32], metric: int, out: npt.NDArray[np.float32]) -> int:
    """Copy queries to ``out``, float32 (m, dim), at unit length under COSINE; return OK or BAD_QUERY."""
    for query in range(min(queries.shape[0], out.shape[0])):
        if not prepare_row(queries, query, metric, out, query):
            return BAD_QUERY
    return OK


@root
def rescore(
    queries: npt.NDArray[np.float32],
    originals: Originals,
    n: int,
    candidates: Candidates,
    bounds: npt.NDArray[np.float32],
    first: int,
    hits: Hits,
) -> tuple[int, int]:
    """Order each query's candidates by exact score and keep the k best.

    Parameters
    ----------
    queries : float32 (m, dim)      unit length when the metric is COSINE
    originals : Originals
    n : int                         number of ordinals
    candidates : Candidates         ``ordinals`` and ``counts`` are read, ``distances`` is not
    bounds : float32 (m or 1, c)    upper bound of each candidate's score; if below the k-th hit's, it is not read
    first : int                     candidates always considered; more while they bring hits (`rescore_row`)
    hits : Hits                     written: the k best, by (score descending, ordinal)

    Returns
    -------
    status : int                    see the head of this file; OUT_OF_RANGE for an ordinal outside [0, n)
    read : int                      originals that were read

    Notes
    -----
    Second pass of the two-pass search. The checksum of every record read is verified. O(m * c * dim).
    """
    if bounds.shape[0] < 1 or bounds.shape[1] < candidates.ordinals.shape[1]:
        return OUT_OF_RANGE, 0
    return rescore_candidates(queries, originals, n, candidates, bounds, first, hits)


@root
def search_graph(
    queries: npt.NDArray[np.float32],
    codes: Codes,
    graph: Graph,
    originals: Originals,
    accept: Accept,
    settings: SearchSettings,
    scratch: Scratch,
    hits: Hits,
) -> int:
    """Walk the graph for each query's nearest codes, scan the tail, and order these candidates by exact score.

    Parameters
    ----------
    queries : float32 (m, dim)      of any length; under COSINE they are scaled to unit length
    codes : Codes                   ``graph.n`` of them are linked, the others are the tail
    graph : Graph                   of at least one node
    originals : Originals           may be empty when ``settings.rescoring`` is 0
    accept : Accept                 the ordinals that may be found; the walk passes through the others
    settings : SearchSettings
    scratch : Scratch               written; ``counters`` are added to
    hits : Hits                     written: the k best of the candidates, by (score descending, ordinal)

    Returns
    -------
    status : int                    see the head of this file; TOO_FEW when a query found fewer than
                                    ``settings.candidates``: then ``hits.ordinals[i, 0]`` is TOO_FEW for each such query
                                    i, and the others are answered

    Notes
    -----
    Algorithm 5 of Malkov and Yashunin 2016 on codes, followed by the second pass of the two-pass search.
    """
    dim, k = queries.shape[1], hits.ordinals.shape[1]
    n = min(codes.n, codes.words.shape[0], scratch.visited.shape[0])
    linked = min(graph.n, n, graph.links.shape[0], graph.first.shape[0], graph.levels.shape[0], graph.same.shape[0])
    graph = Graph(
        graph.links,
        graph.upper,
        graph.first,
        graph.levels,
        graph.same,
        linked,
        graph.entry,
        graph.top,
        graph.seeds,
        graph.seed_signs,
    )
    limit = min(n, originals.records.shape[0]) if fits(originals, dim) else 0
    words, quantizer, metric = codes.words, codes.quantizer, originals.metric
    ef, max_beam, encoding, prune = settings.ef, settings.max_beam, settings.encoding, settings.prune
    if not 0 <= graph.entry < linked or not codes_fit(codes, dim, scratch):
        return OUT_OF_RANGE
    if scratch.query.shape[1] != dim or scratch.rotated.shape[0] != 64 * quantizer.width:
        return OUT_OF_RANGE
    if graph.seeds.shape[0] > 0 and graph.seed_signs.shape[1] != quantizer.width:
        return OUT_OF_RANGE
    outcome = OK
    for query in range(queries.shape[0]):
        if not prepare_row(queries, query, metric, scratch.query, 0):
            return BAD_QUERY
        encoded = encode_query(
            scratch.query[0], quantizer, encoding, metric, scratch.levels, scratch.rotated, scratch.planes
        )
        filtered = settings.sparse_below > 0 or settings.accepted_only
        starts = 0 if filtered else nearest_seeds(words, graph, encoded, scratch)
        if starts == 0:
            start, distance = descend(words, graph, 0, encoded, scratch)
            scratch.rows[0], scratch.distances[0], starts = start, distance, 1
        if filtered:
            start, distance = scratch.rows[0], scratch.distances[0]
            found = beam_filtered(words, graph, accept, settings, encoded, start, distance, scratch)
        else:
            found = beam(words, graph, 0, accept, ef, max_beam, encoded, starts, 1, scratch)
        if linked < n and found[2] > 0:  # the bound is 0 if the walk was abandoned for a scan
            found = scan_tail(words, linked, n, accept, ef, max_beam, encoded, found, scratch)
        if found[1] < settings.candidates:
            outcome = TOO_FEW
            pad_hits(hits, query, 0)
            if k > 0:
                hits.ordinals[query, 0] = TOO_FEW
            continue
        count = 0
        at = 0
        wanted = min(max(settings.candidates, settings.max_candidates), found[1], scratch.found.shape[0])
        while count < wanted:
            key = scratch.keys[at]
            at += 1
            if key & ACCEPTED:
                ordinal = (key >> ORDINAL_SHIFT) & ORDINAL_MASK
                distance = key >> DISTANCE_SHIFT
                scratch.found[count] = ordinal
                if settings.rescoring:
                    scratch.bounds[count] = score_bound(words, ordinal, distance, encoded, metric, prune)
                elif count < k:
                    hits.ordinals[query, count] = ordinal
                    hits.scores[query, count] = unrescored_score(words, ordinal, distance, encoded, metric, prune)
                count += 1
        if settings.rescoring:
            status, read = rescore_row(
                scratch.query,
                0,
                originals,
                limit,
                scratch.found,
                scratch.bounds,
                count,
                settings.candidates,
                scratch.best,
                hits,
                query,
            )
            scratch.counters[COUNT_RESCORED] += read
            if status != OK:
                return status
        else:
            pad_hits(hits, query, count)
    return outcome


@root
def find_links(codes: Codes, graph: Graph, start: int, stop: int, ef: int, scratch: Scratch) -> None:
    """Write the links of the new nodes ``start <= ordinal < stop``, found by searching the present graph.

    Parameters
    ----------
    codes : Codes                   of the new nodes too
    graph : Graph                   of n >= 1 nodes; the new nodes' rows are written, nothing else
    start, stop : int               n <= start <= stop <= the rows of every array
    ef : int                        ``ef_construct``, at most ``scratch.keys.shape[0] - 8``
    scratch : Scratch               written

    Notes
    -----
    The first half of a batch. Any number of calls may run concurrently, each on its own nodes and scratch.
    """
    everything = Accept(np.zeros(1, np.uint64), 1, np.zeros(0, np.int32))
    words = codes.words
    if not 0 <= graph.entry < min(graph.n, words.shape[0]) or not codes_fit(codes, codes.quantizer.dim, scratch):
        return
    for ordinal in range(start, min(stop, words.shape[0], graph.links.shape[0])):
        link_node(codes, graph, ordinal, ef, scratch, everything)


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
    """Add the links from old nodes back to new ones, on one level.

    Parameters
    ----------
    codes : Codes
    graph : Graph                   rows of the targets are written
    targets : int32 (t,)            old nodes, each once
    ends : int64 (t + 1,)           target i gets the sources from ``ends[i]`` to ``ends[i + 1]``
    sources : int32 (s,)            new nodes
    span : (int, int)               start and stop of the targets to process
    scratch : Scratch               written

    Notes
    -----
    The second half of a batch. Any number of calls may run concurrently, each on its own targets and scratch.
    """
    n = min(codes.words.shape[0], graph.links.shape[0])
    if not codes_fit(codes, codes.quantizer.dim, scratch):
        return
    for i in range(span[0], span[1]):
        target = targets[i]
        if not 0 <= target < n:
            continue
        new = sources[ends[i] : ends[i + 1]]
        if level == 0:
            merge_back_links(codes, graph.links[target], target, new, fill_target(graph), scratch)
        else:
            row = row_at(graph, target, level)
            if row >= 0:
                merge_back_links(codes, graph.upper[row], target, new, 0, scratch)


@root
def check_graph(graph: Graph) -> int:
    """Return the number of rows that violate an invariant of the graph, or -1 if its numbers or shapes do.

    Notes
    -----
    Links precede the row's first -1 and lead to another linked node of the same level; every level of a node has a
    row; the entry point is on the top level, and no node is above it.
    """
    return count_faults(graph)


ROOTS = (encode, search_bits, search_exact, search_graph, rescore, prepare, find_links, merge_links, check_graph)
