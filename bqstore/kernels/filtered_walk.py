"""Walks under a filter: a beam of accepted nodes only, which steps over rejected ones.

Distances are computed for accepted nodes only, and only these are kept. When a node is expanded, its rejected neighbors
are bridges: their neighbors are visited in their place, for one bit test each and no distance. This is the two-hop
expansion of ACORN (Patel et al., SIGMOD 2024, section 5.3), on the graph that all searches share. The walk also starts
from the nearest of a sample of accepted nodes of the whole graph, so that it does not end early if few nodes around the
query are accepted. Originals are not used.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqstore.kernels.bits import measure, prefetch_code, rank_to_estimate
from bqstore.kernels.intrinsics import popcount, prefetch
from bqstore.kernels.jit import leaf
from bqstore.kernels.layout import (
    COUNT_DISTANCES,
    COUNT_HOPS,
    Accept,
    EncodedQuery,
    Graph,
    Scratch,
    SearchSettings,
    Walk,
)
from bqstore.kernels.walk import (
    DISTANCE_SHIFT,
    EXPANDED,
    FARTHEST,
    NO_KEY,
    ORDINAL_MASK,
    ORDINAL_SHIFT,
    beam,
    is_accepted,
    nearest_seeds,
    new_epoch,
    offer,
    offer_copies,
)

SEEDS = 128  # accepted nodes in the sample that a walk starts from
AROUND = 64  # accepted nodes to find around the start of a walk
TRIED = 16  # expanded nodes from which the number of distances of an accepted-only beam is predicted
QUIET = 8  # expanded nodes in a row without one of the nearest, after which such a beam may end
DENSE = 512  # of 1,024 nodes around the query; if this many are accepted, a beam through all nodes finds enough
ONE = np.uint64(1)
FACTOR = np.uint64(0x9E37_79B1)
LOW = np.uint64(0xFFFF_FFFF)
HALF = np.uint64(32)


@leaf
def sample_accepted(accept: Accept, n: int, rows: npt.NDArray[np.int32], wanted: int) -> int:
    """Write a sample of accepted ordinals below n to ``rows``, at most ``wanted``; return how many.

    A hash selects words of the bitmap, at most four times ``wanted``, and the lowest set bit of each is taken. Equal
    filters give equal samples.
    """
    words = min(accept.words.shape[0], (n + 63) >> 6)
    count = 0
    if accept.everything or words == 0:
        return 0
    for i in range(4 * wanted):
        if count == wanted:
            break
        at = np.int64((((np.uint64(i + 1) * FACTOR) & LOW) * np.uint64(words)) >> HALF)
        bits = accept.words[at]
        if bits != np.uint64(0):
            ordinal = 64 * at + popcount((bits - ONE) & ~bits)
            if ordinal < n:
                rows[count] = ordinal
                count += 1
    return count


@leaf
def measure_and_offer(walk: Walk, count: int, found: tuple[int, int, np.int64, int]) -> tuple[int, int, np.int64, int]:
    """Compute distances of ``scratch.rows[:count]``, and offer the accepted nodes and the copies of all to the beam.

    found : size, accepted, bound, and the first key that is not expanded; returns their new values.
    """
    size, accepted, bound, first = found
    rows, distances = walk.scratch.rows, walk.scratch.distances
    measure(walk.words, rows, count, walk.query, 0, distances)
    walk.scratch.counters[COUNT_DISTANCES] += count
    for i in range(count):
        if distances[i] < bound:
            node, distance = rows[i], distances[i]
            if is_accepted(walk.accept, node):
                size, accepted, place, bound = offer(
                    walk.scratch.keys, walk.max_beam, size, accepted, walk.ef, distance, node, 1
                )
                first = min(first, place)
            if walk.graph.same[node] >= 0:
                size, accepted, bound = offer_copies(walk, (size, accepted, bound), distance, node)
                first = 0
    return size, accepted, bound, first


@leaf
def expand(
    walk: Walk, row: int, epoch: np.uint8, found: tuple[int, int, np.int64, int]
) -> tuple[int, int, np.int64, int]:
    """Offer the accepted neighbors of a node and, in place of a rejected one, its accepted neighbors."""
    words, graph, accept, n, scratch = walk.words, walk.graph, walk.accept, walk.n, walk.scratch
    rows, visited, links = scratch.rows, scratch.visited, graph.links
    degree = links.shape[1]
    limit = rows.shape[0] - 1  # the last one is used by `offer_copies`
    bridges = scratch.bridges
    count = 0
    waiting = 0
    for j in range(degree):
        other = links[row, j]
        if other < 0:
            break
        if other >= n or visited[other] == epoch:
            continue
        visited[other] = epoch
        good = is_accepted(accept, other)
        if good or graph.same[other] >= 0:
            rows[count] = other
            count += 1
            prefetch_code(words, other)
        if not good and waiting < bridges.shape[0]:
            bridges[waiting] = other
            waiting += 1
            for w in range(0, degree, 16):
                prefetch(links, other, w)
    for i in range(waiting):
        if count + degree > limit:
            found = measure_and_offer(walk, count, found)
            count = 0
        for j in range(degree):
            other = links[bridges[i], j]
            if other < 0:
                break
            if other < n and is_accepted(accept, other) and visited[other] != epoch:
                visited[other] = epoch
                rows[count] = other
                count += 1
                prefetch_code(words, other)
    scratch.counters[COUNT_HOPS] += 1 + waiting
    return measure_and_offer(walk, count, found)


@leaf
def surround(
    walk: Walk, starts: int, epoch: np.uint8, found: tuple[int, int, np.int64, int]
) -> tuple[int, int, np.int64, int]:
    """Offer the accepted nodes around ``scratch.rows[:starts]``, breadth first, through rejected ones.

    Through all rejected neighbors of the first start, then farther until ``AROUND`` accepted nodes are found or
    ``scratch.bridges`` is used up. Two hops may not be enough: if long vectors, the nearest under an inner product,
    are rejected, all neighbors of their neighbors may be rejected, too.
    """
    words, graph, accept, n, scratch = walk.words, walk.graph, walk.accept, walk.n, walk.scratch
    rows, visited, links, bridges = scratch.rows, scratch.visited, graph.links, scratch.bridges
    degree = links.shape[1]
    limit = rows.shape[0] - 1  # the last one is used by `offer_copies`
    count, met, waiting, at = 0, 0, 0, 0
    start = rows[0]
    for i in range(starts):
        other = rows[i]
        if other >= n or visited[other] == epoch:
            continue
        if is_accepted(accept, other):
            rows[count] = other
            count += 1
            prefetch_code(words, other)
        elif waiting < bridges.shape[0]:
            bridges[waiting] = other
            waiting += 1
        visited[other] = epoch
    ring = waiting
    while at < waiting and (met < AROUND or at < ring):
        if count + degree >= limit:
            found = measure_and_offer(walk, count, found)
            count = 0
        row = bridges[at]
        if graph.same[row] >= 0:
            rows[count] = row
            count += 1
            prefetch_code(words, row)
        for j in range(degree):
            other = links[row, j]
            if other < 0:
                break
            if other >= n or visited[other] == epoch:
                continue
            if is_accepted(accept, other):
                rows[count] = other
                count += 1
                met += 1
                prefetch_code(words, other)
            elif waiting < bridges.shape[0]:
                bridges[waiting] = other
                waiting += 1
                for w in range(0, degree, 16):
                    prefetch(links, other, w)
            else:
                continue
            visited[other] = epoch
        at += 1
        if row == start:
            ring = waiting
    for i in range(at, waiting):  # nothing has gone through these: so later ones may
        visited[bridges[i]] = 0
    scratch.counters[COUNT_HOPS] += at
    return measure_and_offer(walk, count, found)


@leaf
def accepted_share(graph: Graph, accept: Accept, start: int, n: int) -> int:
    """Return how many of 1,024 neighbors of a node's neighbors are accepted; 0 if there are none."""
    links = graph.links
    met = 0
    good = 0
    for j in range(links.shape[1]):
        other = links[start, j]
        if other < 0:
            break
        if other >= n:
            continue
        for i in range(links.shape[1]):
            far = links[other, i]
            if far < 0:
                break
            met += 1
            good += is_accepted(accept, far)
    return (good << 10) // max(1, met)


@leaf
def gap_between(near: np.int64, far: np.int64, corrected: int) -> np.float64:
    """Return the difference of two distances; ranks of estimates are converted first, as they are not evenly spaced."""
    if corrected:
        return np.float64(rank_to_estimate(int(near))) - np.float64(rank_to_estimate(int(far)))
    return np.float64(far - near)


@leaf
def stand_out(keys: npt.NDArray[np.int64], size: int, first: int, nearest: int, corrected: int) -> bool:
    """Return whether a gap separates the nearest keys from the remaining ones, wider than the spread of either side.

    first : int     keys before this one are expanded; the first key that is not expanded is the nearest remaining one
    """
    while first < size and keys[first] & EXPANDED:
        first += 1
    if nearest < 1 or first < nearest or first >= size:
        return False
    one, last, left = keys[0] >> DISTANCE_SHIFT, keys[nearest - 1] >> DISTANCE_SHIFT, keys[first] >> DISTANCE_SHIFT
    apart = max(gap_between(one, last, corrected), gap_between(left, keys[size - 1] >> DISTANCE_SHIFT, corrected))
    for i in range(nearest, first + 1):  # between two that follow each other
        if gap_between(keys[i - 1] >> DISTANCE_SHIFT, keys[i] >> DISTANCE_SHIFT, corrected) > apart:
            return True
    return False


@leaf
def beam_filtered(
    words: npt.NDArray[np.uint64],
    graph: Graph,
    accept: Accept,
    settings: SearchSettings,
    query: EncodedQuery,
    start: int,
    distance: int,
    scratch: Scratch,
) -> tuple[int, int, np.int64]:
    """Fill ``scratch.keys`` by the kind of beam that suits the share of accepted nodes around the start.

    Returns as `walk.beam`, but fewer accepted nodes than ``settings.candidates`` if a scan should follow.
    """
    n = min(graph.n, scratch.visited.shape[0], words.shape[0], graph.links.shape[0])
    most = scratch.keys.shape[0] - 8
    candidates, most_distances, settled = settings.candidates, settings.most_distances, settings.settled
    share = accepted_share(graph, accept, start, n)
    ef, max_beam, ef_dense = min(settings.ef, most), min(settings.max_beam, most), min(settings.ef_dense, most)
    if ef_dense > 0 and share >= DENSE:
        scratch.rows[0], scratch.distances[0] = start, distance
        found = beam(words, graph, 0, accept, ef_dense, most, query, 1, 1, scratch)
        if found[1] >= settings.candidates:
            return found
    if share >= settings.sparse_below:
        if settings.accepted_only:
            return beam_accepted(words, graph, accept, ef, query, start, scratch, most_distances, settled, candidates)
        if ef_dense == 0 or share < DENSE:  # otherwise a wider beam has failed already
            scratch.rows[0], scratch.distances[0] = start, distance
            found = beam(words, graph, 0, accept, ef, max_beam, query, 1, 1, scratch)
            if found[1] >= settings.candidates:
                return found
    if settings.ef_sparse == 0 and settings.ef_settled == 0:
        return 0, 0, np.int64(0)
    doubtful = 1 if settings.ef_sparse == 0 else 0
    ef = min(max(settings.ef_sparse, settings.ef_settled), most)
    return beam_accepted(words, graph, accept, ef, query, start, scratch, most_distances, settled, candidates, doubtful)


@leaf
def beam_accepted(
    words: npt.NDArray[np.uint64],
    graph: Graph,
    accept: Accept,
    ef: int,
    query: EncodedQuery,
    start: int,
    scratch: Scratch,
    most_distances: int,
    settled: int = 0,
    candidates: int = 0,
    doubtful: int = 0,
) -> tuple[int, int, np.int64]:
    """Fill ``scratch.keys`` with the nearest accepted nodes of level 0, at most ef.

    If every node leads to many new accepted ones, as when all are about equally far, this takes longer than a scan and
    finds less: it is abandoned when the first nodes predict that.

    Parameters
    ----------
    query : EncodedQuery
    start : int         the start node, accepted or not
    scratch : Scratch   written
    most_distances : int    0, or the number of distances beyond which a scan is faster
    settled : int           0, or the number of nearest nodes that suffice if they stand out: after several expanded
                            nodes without a new one of these, the beam ends, if it holds ``candidates``
    doubtful : int          1: a scan is faster, unless the nodes around the start stand out from a sample of all

    Returns
    -------
    size, accepted, bound   as in `walk.offer`; zeros if a scan is faster
    """
    keys, visited = scratch.keys, scratch.visited
    epoch = new_epoch(scratch)
    n = min(graph.n, visited.shape[0], words.shape[0], graph.links.shape[0], graph.same.shape[0])
    for i in range(ef + 8):
        keys[i] = NO_KEY
    walk = Walk(words, graph, accept, query, ef, ef, n, scratch)
    starts = nearest_seeds(words, graph, query, scratch)
    scratch.rows[starts], scratch.rows[0] = scratch.rows[0], start
    found = surround(walk, starts + 1, epoch, (0, 0, FARTHEST, 0))
    around = keys[settled - 1] if 0 < settled <= found[0] else NO_KEY
    seeds = sample_accepted(accept, n, scratch.rows, min(SEEDS, scratch.rows.shape[0] - 2))
    count = 0
    for i in range(seeds):
        seed = scratch.rows[i]
        if visited[seed] == epoch or graph.links[seed, 0] < 0:  # sampled twice, or a copy
            continue
        visited[seed] = epoch
        scratch.rows[count] = seed
        count += 1
        prefetch_code(words, seed)
    one, last, nearest = keys[0] >> DISTANCE_SHIFT, around >> DISTANCE_SHIFT, FARTHEST
    found = measure_and_offer(walk, count, found)
    for i in range(count):
        nearest = min(nearest, np.int64(scratch.distances[i]))
    standing = False  # whether the nodes around the start stand out from a sample of all
    if around != NO_KEY:
        apart = gap_between(one, last, query.corrected)
        standing = bool(gap_between(last, nearest, query.corrected) > apart)
    if doubtful and not standing:
        return 0, 0, np.int64(0)
    size, accepted, bound, first = found
    first, tried, quiet, before = 0, 0, 0, scratch.counters[COUNT_DISTANCES]
    while first < size:
        key = keys[first]
        first += 1
        if key & EXPANDED:
            continue
        keys[first - 1] = key | EXPANDED
        row = (key >> ORDINAL_SHIFT) & ORDINAL_MASK
        size, accepted, bound, first = expand(walk, row, epoch, (size, accepted, bound, first))
        tried += 1
        quiet = 0 if first < settled else quiet + 1
        if quiet >= QUIET and size >= candidates and stand_out(keys, size, first, settled, query.corrected):
            break
        # later nodes reach fewer new ones: over the whole walk some .6 times as many per node as the first
        taken = scratch.counters[COUNT_DISTANCES] - before
        if tried == TRIED and not standing and 0 < 5 * TRIED * most_distances < 3 * ef * taken:
            return 0, 0, np.int64(0)
    return size, accepted, bound
