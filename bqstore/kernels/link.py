"""Links a batch of new nodes: finds their neighbors in the present graph, then adds the reverse links.

Malkov and Yashunin 2016, algorithms 1 and 4, in two halves as in ParlayANN (Manohar et al., PPoPP 2024). The first
writes only rows of new nodes, to which no link leads yet; the second writes the row of each target once. So the graph
does not depend on the number of threads. Distances are computed between codes: Hamming, or the product estimated from
both codes (`bits.code_as_query`). Originals are not used.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqstore.kernels.bits import HALF, LOW, code_as_query, distance_to, measure, prefetch_codes
from bqstore.kernels.intrinsics import as_float32, distance_1
from bqstore.kernels.jit import leaf
from bqstore.kernels.layout import Accept, Codes, Graph, Scratch
from bqstore.kernels.quantize import quantizer_fits
from bqstore.kernels.walk import DISTANCE_SHIFT, ORDINAL_MASK, ORDINAL_SHIFT, beam, descend, row_at

COPY_CANDIDATES = 8  # nearest nodes checked for copies; by estimated distances a copy need not be the first
ROUNDED = np.float32(0.01)  # corrections with a smaller relative difference belong to the same vector


@leaf
def contains(row: npt.NDArray[np.int32], count: int, ordinal: int) -> bool:
    """Whether an ordinal is among the first ``count`` of a row."""
    found = False
    for j in range(count):  # without a break: vectorized
        found |= row[j] == ordinal
    return found


@leaf
def select(
    codes: Codes,
    node: int,
    keys: npt.NDArray[np.int64],
    size: int,
    enough: int,
    row: npt.NDArray[np.int32],
    planes: npt.NDArray[np.uint64],
) -> None:
    """Select a node's neighbors: candidates nearer to it than to any neighbor selected before, then the nearest others.

    Parameters
    ----------
    codes : Codes
    keys : int64 (>= size,)     the candidates as `beam` leaves them, ascending by distance from the node
    enough : int                number of links up to which a row is filled with the nearest remaining candidates
    row : int32 (degree,)       written; padded with -1
    planes : uint64 (4, bits * width)   scratch

    Notes
    -----
    Algorithm 4 of Malkov and Yashunin 2016, with ``keepPrunedConnections`` up to three quarters of the row. The last
    quarter is left free for later links, which then need no new selection. A beam of 30 found 95.6% of the 30 nearest
    of 100,000 codes of 1,536 bits (without filling 95.1%; filled completely 96.0%, for a third more build time), and
    97.5% of those of OpenAI's vectors (95.8%; 97.8%), for 2% and 6% more distances.
    """
    words, corrected = codes.words, codes.quantizer.linking[0] > 0
    count = 0
    for i in range(size):
        if count == row.shape[0]:
            return
        ordinal = (keys[i] >> ORDINAL_SHIFT) & ORDINAL_MASK
        distance = keys[i] >> DISTANCE_SHIFT
        good = True
        if corrected:  # estimates are comparable only for the same query, here the candidate
            query = code_as_query(words, ordinal, codes.quantizer, planes)
            distance = distance_to(words, node, query)
            for j in range(count):
                if distance_to(words, row[j], query) < distance:
                    good = False
                    break
        else:
            code = words[ordinal : ordinal + 1]
            for j in range(count):
                if distance_1(words, row[j], code, None, codes.quantizer.width) < distance:
                    good = False
                    break
        if good:
            row[count] = ordinal
            count += 1
    diverse = count
    for i in range(size):
        if count >= enough:
            break
        ordinal = (keys[i] >> ORDINAL_SHIFT) & ORDINAL_MASK
        if not contains(row, diverse, ordinal):
            row[count] = ordinal
            count += 1
    for j in range(count, row.shape[0]):
        row[j] = -1


@leaf
def is_copy(codes: Codes, a: int, b: int) -> bool:
    """Whether two codes are copies: equal signs for one-bit codes, equal in all words for codes of several bits.

    If linked by estimates, one-bit codes with equal signs are copies only if their corrections also agree, within
    rounding.
    """
    words, quantizer = codes.words, codes.quantizer
    same = True
    for w in range(quantizer.width if quantizer.bits == 1 else words.shape[1]):
        same &= words[a, w] == words[b, w]
    if same and quantizer.bits == 1 and quantizer.linking[0] > 0:
        one, other = words[a, quantizer.width], words[b, quantizer.width]
        same = is_near(as_float32(np.uint32(one & LOW)), as_float32(np.uint32(other & LOW))) and is_near(
            as_float32(np.uint32(one >> HALF)), as_float32(np.uint32(other >> HALF))
        )
    return same


@leaf
def is_near(a: np.float32, b: np.float32) -> bool:
    """Whether two corrections are of the same vector, up to rounding."""
    return bool(abs(a - b) <= ROUNDED * abs(b))


@leaf
def fill_target(graph: Graph) -> int:
    """Return the number of links up to which `select` fills a row of level 0; rows of higher levels are not filled."""
    return graph.links.shape[1] - graph.links.shape[1] // 4


@leaf
def clear_upper(graph: Graph, node: int, level: int) -> None:
    """Clear the rows of a node of this level on all levels above 0."""
    for j in range(level):
        row = row_at(graph, node, j + 1)
        if row >= 0:
            graph.upper[row] = -1


@leaf
def link_node(
    codes: Codes,
    graph: Graph,
    ordinal: int,
    ef: int,
    scratch: Scratch,
    everything: Accept,
) -> None:
    """Write the links of a new node, which no other node links to yet, on each of its levels.

    The graph has at least one node. Levels above ``graph.top`` stay empty: no other node is on them.
    """
    words = codes.words
    query = code_as_query(words, ordinal, codes.quantizer, scratch.planes)
    spare = scratch.planes[4:]
    level = graph.levels[ordinal]
    start, distance = descend(words, graph, min(level, graph.top), query, scratch)
    clear_upper(graph, ordinal, level)
    for at in range(min(level, graph.top), -1, -1):
        scratch.rows[0], scratch.distances[0] = start, distance
        size, _, _ = beam(words, graph, at, everything, ef, ef, query, 1, 0, scratch)
        start = (scratch.keys[0] >> ORDINAL_SHIFT) & ORDINAL_MASK
        distance = scratch.keys[0] >> DISTANCE_SHIFT
        copied = -1
        if at == 0:
            for i in range(min(size, COPY_CANDIDATES)):
                other = (scratch.keys[i] >> ORDINAL_SHIFT) & ORDINAL_MASK
                if copied < 0 and is_copy(codes, ordinal, other):
                    copied = other
        if copied >= 0:  # `HnswGraph.link` adds it to the list of this node
            graph.same[ordinal] = -2 - copied
            graph.links[ordinal] = -1
            clear_upper(graph, ordinal, level)
        elif at == 0:
            graph.same[ordinal] = -1
            select(codes, ordinal, scratch.keys, size, fill_target(graph), graph.links[ordinal], spare)
        else:
            row = row_at(graph, ordinal, at)
            if row >= 0:
                select(codes, ordinal, scratch.keys, size, 0, graph.upper[row], spare)


@leaf
def insert_sorted(keys: npt.NDArray[np.int64], size: int, key: np.int64) -> None:
    """Insert a key into the first ``size`` ascending ones."""
    place = size
    while place > 0 and keys[place - 1] > key:
        keys[place] = keys[place - 1]
        place -= 1
    keys[place] = key


@leaf
def merge_back_links(
    codes: Codes,
    row: npt.NDArray[np.int32],
    target: int,
    sources: npt.NDArray[np.int32],
    enough: int,
    scratch: Scratch,
) -> None:
    """Add links to a row: append them if there is room, otherwise select again from old and new links.

    Parameters
    ----------
    row : int32 (degree,)       written
    sources : int32 (count,)    new neighbors; those already in the row, from an interrupted batch, are skipped
    enough : int                as in `select`
    """
    degree = row.shape[0]
    words = codes.words
    rows, keys, distances = scratch.rows, scratch.keys, scratch.distances
    at = 0
    while at < sources.shape[0]:  # as many at a time as fit the scratch
        size = 0
        while size < degree and 0 <= row[size] < words.shape[0]:
            rows[size] = row[size]
            size += 1
        count = size
        while at < sources.shape[0] and count < 2 * degree:
            rows[count] = sources[at]
            inside = 0 <= sources[at] < words.shape[0]
            count += 1 if inside and not contains(row, size, sources[at]) else 0
            at += 1
        if count <= degree:
            for i in range(size, count):
                row[i] = rows[i]
            continue
        prefetch_codes(words, rows, 0, count)
        query = code_as_query(words, target, codes.quantizer, scratch.planes)
        measure(words, rows, count, query, 0, distances)
        for i in range(count):
            key = (np.int64(distances[i]) << DISTANCE_SHIFT) | (np.int64(rows[i]) << ORDINAL_SHIFT)
            insert_sorted(keys, i, key)
        select(codes, target, keys, count, enough, row, scratch.planes[4:])


@leaf
def is_faulty_row(graph: Graph, row: npt.NDArray[np.int32], node: int, level: int) -> int:
    """Return 1 if a row violates an invariant of its level, otherwise 0."""
    ended = False
    for j in range(row.shape[0]):
        other = row[j]
        if other == -1:
            ended = True
        elif ended or other < 0 or other >= graph.n or other == node or graph.levels[other] < level:
            return 1
    return 0


@leaf
def count_faults(graph: Graph) -> int:
    """Return how many rows violate an invariant; see ``api.check_graph``."""
    n = graph.n
    sizes = min(graph.links.shape[0], graph.first.shape[0], graph.levels.shape[0], graph.same.shape[0])
    if n < 0 or n > sizes or (n > 0 and not 0 <= graph.entry < n):
        return -1
    if n > 0 and graph.levels[graph.entry] != graph.top:
        return -1
    faults = 0
    for node in range(n):
        level = np.int64(graph.levels[node])
        first = np.int64(graph.first[node])
        if level > graph.top or (level > 0 and (first < 0 or first + level > graph.upper.shape[0])):
            faults += 1
            continue
        faults += is_faulty_row(graph, graph.links[node], node, 0)
        faults += 0 if -1 <= graph.same[node] < n else 1
        for up in range(level):
            faults += is_faulty_row(graph, graph.upper[first + up], node, up + 1)
    return faults


@leaf
def codes_fit(codes: Codes, dim: int, scratch: Scratch) -> bool:
    """Whether codes of vectors of ``dim`` values match their quantizer and the planes of a scratch."""
    quantizer = codes.quantizer
    planes = quantizer.bits * quantizer.width
    return quantizer_fits(quantizer, dim, codes.words.shape[1]) and scratch.planes.shape[1] == planes
