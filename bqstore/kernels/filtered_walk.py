"""The walk under a filter: a beam of accepted nodes alone, which steps over rejected ones.

Only accepted nodes are measured and kept. Of a node that is expanded, neighbors that are not accepted are bridges:
their own neighbors are looked at in their place, which costs a bit each and no distance. That is the two-hop expansion
of ACORN (Patel et al., SIGMOD 2024, section 5.3), on the graph that all searches share; where ACORN would begin outside
of what is accepted, or has nothing to step to, the nearest of some accepted nodes from all over the graph are taken. So
a filter that goes against the query does not end the walk. Knows codes, no originals.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqstore.kernels.bits import measure
from bqstore.kernels.intrinsics import popcount, prefetch
from bqstore.kernels.jit import leaf
from bqstore.kernels.layout import COUNT_DISTANCES, COUNT_HOPS, Accept, Encoded, Graph, Scratch, Way
from bqstore.kernels.walk import (
    EXPANDED,
    NO_KEY,
    ORDINAL_MASK,
    ORDINAL_SHIFT,
    beam,
    is_accepted,
    new_epoch,
    offer,
    offer_same,
)

SEEDS = 128  # accepted nodes, from all over, whose nearest a walk also begins at
MANY = 512  # of 1,024: then a beam through all meets accepted ones enough
ONE = np.uint64(1)
FACTOR = np.uint64(0x9E37_79B1)
LOW = np.uint64(0xFFFF_FFFF)
HALF = np.uint64(32)


@leaf
def some_accepted(accept: Accept, n: int, rows: npt.NDArray[np.int32], wanted: int) -> int:
    """Write some accepted ordinals below n to ``rows``, the same for the same filter; return how many, at most wanted.

    Words of the bitmap are looked at in an order that a hash gives, four times as many as are wanted at most; of each
    the lowest bit that is set.
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
def take_in(
    words: npt.NDArray[np.uint64],
    graph: Graph,
    accept: Accept,
    ef: int,
    query: Encoded,
    count: int,
    n: int,
    found: tuple[int, int, np.int64, int],
    scratch: Scratch,
) -> tuple[int, int, np.int64, int]:
    """Measure ``scratch.rows[:count]`` and offer them to the beam; of one that is rejected, its copies.

    found : size, accepted, bound, first key that is not expanded; returns what they are now.
    """
    size, accepted, bound, first = found
    rows, distances = scratch.rows, scratch.distances
    measure(words, rows, count, query, 0, distances)
    scratch.counters[COUNT_DISTANCES] += count
    for i in range(count):
        if distances[i] < bound:
            node, distance = rows[i], distances[i]
            if is_accepted(accept, node):
                size, accepted, place, bound = offer(scratch.keys, ef, size, accepted, ef, distance, node, 1)
                first = min(first, place)
            if graph.same[node] >= 0:
                size, accepted, bound = offer_same(
                    graph, accept, scratch.keys, ef, size, accepted, ef, distance, node, bound, n, words, query, scratch
                )
                first = 0
    return size, accepted, bound, first


@leaf
def look_at(
    words: npt.NDArray[np.uint64],
    graph: Graph,
    accept: Accept,
    ef: int,
    query: Encoded,
    row: int,
    n: int,
    epoch: np.uint8,
    found: tuple[int, int, np.int64, int],
    scratch: Scratch,
) -> tuple[int, int, np.int64, int]:
    """Take in the accepted neighbors of a node and, where a neighbor is rejected, those of the neighbor."""
    rows, visited, links = scratch.rows, scratch.visited, graph.links
    degree, width = links.shape[1], words.shape[1]
    room = rows.shape[0] - 1  # the last is for copies
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
            for w in range(0, width, 8):
                prefetch(words, other, w)
        if not good and waiting < bridges.shape[0]:
            bridges[waiting] = other
            waiting += 1
            for w in range(0, degree, 16):
                prefetch(links, other, w)
    for i in range(waiting):
        if count + degree > room:
            found = take_in(words, graph, accept, ef, query, count, n, found, scratch)
            count = 0
        for j in range(degree):
            other = links[bridges[i], j]
            if other < 0:
                break
            if other < n and is_accepted(accept, other) and visited[other] != epoch:
                visited[other] = epoch
                rows[count] = other
                count += 1
                for w in range(0, width, 8):
                    prefetch(words, other, w)
    scratch.counters[COUNT_HOPS] += 1 + waiting
    return take_in(words, graph, accept, ef, query, count, n, found, scratch)


@leaf
def share_around(graph: Graph, accept: Accept, start: int, n: int) -> int:
    """Return how many of 1,024 of the neighbors' neighbors of a node are accepted; 0 if it has none."""
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
def beam_filtered(
    words: npt.NDArray[np.uint64],
    graph: Graph,
    accept: Accept,
    way: Way,
    query: Encoded,
    start: int,
    distance: int,
    scratch: Scratch,
) -> tuple[int, int, np.int64]:
    """Fill ``scratch.keys`` as the way says: inside what is accepted or through all, and otherwise if that is no good.

    Returns what `walk.beam` does; fewer accepted than are wanted if a scan should follow.
    """
    n = min(graph.n, scratch.visited.shape[0], words.shape[0], graph.links.shape[0])
    most = scratch.keys.shape[0] - 8
    share = share_around(graph, accept, start, n)
    if way.along > 0 and share >= MANY:
        found = beam(words, graph, 0, accept, min(way.along, most), most, query, start, distance, 1, scratch)
        if found[1] >= way.candidates:
            return found
    if share >= way.rare:
        if way.inside:
            return beam_inside(words, graph, accept, min(way.ef, most), query, start, scratch)
        if way.along == 0 or share < MANY:  # else it has been tried
            found = beam(
                words, graph, 0, accept, min(way.ef, most), min(way.room, most), query, start, distance, 1, scratch
            )
            if found[1] >= way.candidates:
                return found
    if way.against == 0:
        return 0, 0, np.int64(0)
    return beam_inside(words, graph, accept, min(way.against, most), query, start, scratch)


@leaf
def beam_inside(
    words: npt.NDArray[np.uint64],
    graph: Graph,
    accept: Accept,
    ef: int,
    query: Encoded,
    start: int,
    scratch: Scratch,
) -> tuple[int, int, np.int64]:
    """Fill ``scratch.keys`` with the nearest accepted nodes of level 0, at most ef.

    Parameters
    ----------
    start : int         the node to begin at, accepted or not
    query : Encoded
    scratch : Scratch   written

    Returns
    -------
    size, accepted, bound   as `walk.offer` does
    """
    keys, visited = scratch.keys, scratch.visited
    epoch = new_epoch(scratch)
    n = min(graph.n, visited.shape[0], words.shape[0], graph.links.shape[0], graph.same.shape[0])
    for i in range(ef + 8):
        keys[i] = NO_KEY
    found = (0, 0, np.int64(0x3FFF_FFFF), 0)
    found_seeds = some_accepted(accept, n, scratch.rows, min(SEEDS, scratch.rows.shape[0] - 2))
    count = 0
    for i in range(found_seeds):
        seed = scratch.rows[i]
        if visited[seed] == epoch or graph.links[seed, 0] < 0:  # taken already, or a copy, which its first one offers
            continue
        visited[seed] = epoch
        scratch.rows[count] = seed
        count += 1
        for w in range(0, words.shape[1], 8):
            prefetch(words, seed, w)
    if visited[start] != epoch:
        visited[start] = epoch
        scratch.rows[count] = start
        count += 1
    found = take_in(words, graph, accept, ef, query, count, n, found, scratch)
    if not is_accepted(accept, start):
        found = look_at(words, graph, accept, ef, query, start, n, epoch, found, scratch)
    size, accepted, bound, first = found
    first = 0
    while first < size:
        key = keys[first]
        first += 1
        if key & EXPANDED:
            continue
        keys[first - 1] = key | EXPANDED
        row = (key >> ORDINAL_SHIFT) & ORDINAL_MASK
        found = (size, accepted, bound, first)
        size, accepted, bound, first = look_at(words, graph, accept, ef, query, row, n, epoch, found, scratch)
    return size, accepted, bound
