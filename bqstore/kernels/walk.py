"""Beam search on level 0 for accepted ordinals, started at the nearest nodes of a sample.

Malkov and Yashunin 2016, algorithm 2. Their descent through the levels (algorithm 5) is used for building and for walks
under a filter: in clustered data it may end in the wrong cluster (docs/design/start-of-a-walk.md).

The beam is one sorted array of keys (distance, ordinal, accepted, expanded). It keeps the nearest nodes, accepted or
not, up to the ef-th accepted one: so rejected and deleted nodes never block a path, and without them the beam is ef
wide. Originals are not used.

Most of the time is spent on cache misses, then on mispredicted branches. So the neighbors of a node are prefetched
while the distances of the previous node's neighbors are computed, and data-dependent tests (visited? closer than the
bound?) are branch-free: they advance an index. That reduced a distance from 30 ns to 23 (100,000 codes of 1,536 bits,
4-bit query).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqstore.kernels.bits import measure, prefetch_code, prefetch_codes
from bqstore.kernels.intrinsics import count_below, distance_1, move_up, prefetch, prefetch_item
from bqstore.kernels.jit import leaf
from bqstore.kernels.layout import (
    COUNT_DISTANCES,
    COUNT_EPOCH,
    COUNT_HOPS,
    LAST_EPOCH,
    Accept,
    EncodedQuery,
    Graph,
    Scratch,
    Walk,
)

EXPANDED = np.int64(1)
ACCEPTED = np.int64(2)
ORDINAL_SHIFT = np.int64(2)
DISTANCE_SHIFT = np.int64(33)
ORDINAL_MASK = np.int64(0x7FFF_FFFF)
NO_KEY = np.int64(0x7FFF_FFFF_FFFF_FFFF)
FARTHEST = np.int64(0x3FFF_FFFF)  # an upper bound of distances: at most 255 * 2 * 16,384, or the rank of an estimate
LINEAR = 128  # number of keys up to which counting the smaller ones, eight at a time, beats binary search
MEASURED = 8  # seeds compared with the whole query
STARTS = 4  # the nearest of these, at which a walk starts
BITS = np.uint64(63)
ONE = np.uint64(1)


@leaf
def new_epoch(scratch: Scratch) -> np.uint8:
    """Return a new epoch, in which no node has been visited."""
    epoch = scratch.counters[COUNT_EPOCH] + 1
    if epoch > LAST_EPOCH:
        scratch.visited[:] = 0
        epoch = 1
    scratch.counters[COUNT_EPOCH] = epoch
    return np.uint8(epoch)


@leaf
def is_accepted(accept: Accept, ordinal: int) -> int:
    """Return 1 if an ordinal >= 0 may be found, else 0."""
    if accept.everything:
        return 1
    word = ordinal >> 6
    if word >= accept.words.shape[0]:
        return 0
    return 1 if (accept.words[word] >> (np.uint64(ordinal) & BITS)) & ONE else 0


@leaf
def insertion_point(keys: npt.NDArray[np.int64], size: int, key: np.int64) -> int:
    """Return how many of the first ``size`` keys, ascending, are below ``key``; the next 7 must be NO_KEY."""
    low = 0
    high = size
    while high - low > LINEAR:
        middle = (low + high) >> 1
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low + count_below(keys, low, high, key)


@leaf
def offer(
    keys: npt.NDArray[np.int64],
    max_beam: int,
    size: int,
    accepted: int,
    ef: int,
    distance: int,
    ordinal: int,
    good: int,
    flags: int = 0,
) -> tuple[int, int, int, np.int64]:
    """Insert a node nearer than the bound, and drop nodes beyond the ef-th accepted one.

    Parameters
    ----------
    keys : int64 (>= max_beam + 8,)     written; ascending, then NO_KEY
    max_beam : int                      maximum number of keys; beyond it the farthest is dropped, accepted or not
    size, accepted : int                number of keys, and of accepted ones
    good : int                          1 if the node is accepted
    flags : int                         EXPANDED for a node without links

    Returns
    -------
    size, accepted : int    their new values
    place : int             index of the new key
    bound : int64           nodes at this distance or farther need not be offered
    """
    key = (np.int64(distance) << DISTANCE_SHIFT) | (np.int64(ordinal) << ORDINAL_SHIFT) | (ACCEPTED * good) | flags
    place = insertion_point(keys, size, key)
    move_up(keys, place, size - place)
    keys[place] = key
    size += 1
    accepted += good
    if accepted > ef or size > max_beam:
        size -= 1
        accepted -= int((keys[size] >> 1) & 1)
        keys[size] = NO_KEY
    if accepted >= ef:
        while not keys[size - 1] & ACCEPTED:
            size -= 1
            keys[size] = NO_KEY
        return size, accepted, place, keys[size - 1] >> DISTANCE_SHIFT
    if size == max_beam:
        return size, accepted, place, keys[size - 1] >> DISTANCE_SHIFT
    return size, accepted, place, FARTHEST


@leaf
def offer_copies(walk: Walk, found: tuple[int, int, np.int64], distance: int, node: int) -> tuple[int, int, np.int64]:
    """Offer the accepted copies of ``node``, which have no links of their own.

    found : size, accepted and bound of the beam; returns their new values.

    One-bit RABITQ codes with equal signs are copies; their corrections differ, so the distance of each is computed.
    After the first step the ordinals of a list descend, so that following a damaged list ends, too.
    """
    size, accepted, bound = found
    graph, scratch = walk.graph, walk.scratch
    copy = graph.same[node]
    measured = walk.query.corrected and walk.query.bits == 1  # of several bits, copies are equal in all words
    at = scratch.rows.shape[0] - 1
    while 0 <= copy < graph.same.shape[0] and (measured or distance < bound):
        if copy < walk.n and is_accepted(walk.accept, copy):
            apart = distance
            if measured:
                scratch.rows[at] = copy
                measure(walk.words, scratch.rows[at:], 1, walk.query, 0, scratch.distances[at:])
                apart = scratch.distances[at]
            if apart < bound:
                size, accepted, _, bound = offer(
                    scratch.keys, walk.max_beam, size, accepted, walk.ef, apart, copy, 1, int(EXPANDED)
                )
        following = graph.same[copy]
        if following >= copy:
            break
        copy = following
    return size, accepted, bound


@leaf
def row_at(graph: Graph, node: int, level: int) -> int:
    """Return the row of ``graph.upper`` with a node's links on a level >= 1; -1 for a node on level 0 only."""
    first = np.int64(graph.first[node])
    row = first + level - 1
    return int(row) if first >= 0 and row < graph.upper.shape[0] else -1


@leaf
def descend(
    words: npt.NDArray[np.uint64],
    graph: Graph,
    last: int,
    query: EncodedQuery,
    scratch: Scratch,
) -> tuple[int, int]:
    """Return the node, and its distance, at which a greedy walk from the entry point ends on level ``last`` + 1.

    If there is no level above ``last``, that is the entry point.
    """
    rows, distances = scratch.rows, scratch.distances
    node = graph.entry
    rows[0] = node
    measure(words, rows, 1, query, 0, distances)
    nearest = distances[0]
    done = 1
    n = min(graph.n, words.shape[0], graph.first.shape[0])
    row = row_at(graph, node, graph.top) if graph.top > last else -1
    for level in range(graph.top, last, -1):
        while row >= 0:
            count = 0
            for j in range(graph.upper.shape[1]):
                other = graph.upper[row, j]
                if other < 0:
                    break
                if other < n:
                    rows[count] = other
                    count += 1
                    prefetch_item(graph.first, other)
                    prefetch_code(words, other)
            measure(words, rows, count, query, 0, distances)
            done += count
            row = -1
            for i in range(count):
                if distances[i] < nearest:
                    nearest = distances[i]
                    node = rows[i]
                    row = row_at(graph, node, level)
        row = row_at(graph, node, level - 1) if level - 1 > last else -1
    scratch.counters[COUNT_DISTANCES] += done
    return node, nearest


@leaf
def insert_row(
    rows: npt.NDArray[np.int32], distances: npt.NDArray[np.int32], place: int, row: np.int32, distance: int
) -> None:
    """Insert a row into the ``place`` ones before it, ascending by distance; the row at ``place`` is overwritten."""
    while place > 0 and distances[place - 1] > distance:
        distances[place], rows[place] = distances[place - 1], rows[place - 1]
        place -= 1
    distances[place], rows[place] = distance, row


@leaf
def nearest_seeds(words: npt.NDArray[np.uint64], graph: Graph, query: EncodedQuery, scratch: Scratch) -> int:
    """Write the seeds nearest to a query to ``scratch.rows``, nearest first, with ``distances``; return how many.

    All are compared by their signs, then the ``MEASURED`` best with the whole query.
    """
    rows, distances = scratch.rows, scratch.distances
    seeds = min(graph.seeds.shape[0], graph.seed_signs.shape[0])
    n = min(graph.n, words.shape[0], scratch.visited.shape[0])
    signs = query.planes[query.encoding - 1 :]
    most = min(MEASURED, rows.shape[0])
    count = 0
    for i in range(seeds):
        apart = distance_1(graph.seed_signs, i, signs, None, query.width)
        if count == most and apart >= distances[count - 1]:
            continue
        node = graph.seeds[i]
        if not 0 <= node < n:
            continue
        count = min(count + 1, most)
        insert_row(rows, distances, count - 1, node, apart)
    prefetch_codes(words, rows, 0, count)
    measure(words, rows, count, query, 0, distances)
    for i in range(1, count):
        insert_row(rows, distances, i, rows[i], distances[i])
    scratch.counters[COUNT_DISTANCES] += count
    return min(count, STARTS)


@leaf
def beam(
    words: npt.NDArray[np.uint64],
    graph: Graph,
    level: int,
    accept: Accept,
    ef: int,
    max_beam: int,
    query: EncodedQuery,
    starts: int,
    with_copies: int,
    scratch: Scratch,
) -> tuple[int, int, np.int64]:
    """Fill ``scratch.keys`` with the nearest nodes of a level, up to the ef-th accepted one.

    Parameters
    ----------
    level : int             the level whose links are followed
    accept : Accept         the nodes that count towards ef
    ef, max_beam : int      1 <= ef <= max_beam <= keys.shape[0] - 8; max_beam limits accepted and other nodes together
    query : EncodedQuery
    starts : int            number of start nodes, >= 1, in ``scratch.rows``, with ``scratch.distances``
    with_copies : int       1: offer the copies of every node as well
    scratch : Scratch       written

    Returns
    -------
    size, accepted, bound   as `offer` does
    """
    keys, visited, distances = scratch.keys, scratch.visited, scratch.distances
    epoch = new_epoch(scratch)
    n = min(graph.n, visited.shape[0], words.shape[0], graph.links.shape[0])
    links = graph.links if level == 0 else graph.upper
    degree = links.shape[1]
    for i in range(max_beam + 8):
        keys[i] = NO_KEY
    walk = Walk(words, graph, accept, query, ef, max_beam, n, scratch)
    size, accepted, bound = 0, 0, FARTHEST
    start = scratch.rows[0]
    for i in range(starts):
        node, distance = scratch.rows[i], distances[i]
        if visited[node] == epoch or (i > 0 and distance >= bound):
            continue
        visited[node] = epoch
        size, accepted, _, bound = offer(keys, max_beam, size, accepted, ef, distance, node, is_accepted(accept, node))
        if with_copies:
            size, accepted, bound = offer_copies(walk, (size, accepted, bound), distance, node)
    first = 0  # keys before this one are expanded
    done = 0
    hops = 0
    half = scratch.rows.shape[0] >> 1
    near = scratch.rows[:half]  # neighbors whose codes are being prefetched
    far = scratch.rows[half:]  # neighbors prefetched in the previous round, whose distances are computed in this one
    waiting = 0
    while first < size or waiting > 0:
        count = 0
        while first < size:
            key = keys[first]
            first += 1
            if key & EXPANDED:
                continue
            keys[first - 1] = key | EXPANDED
            hops += 1
            row = (key >> ORDINAL_SHIFT) & ORDINAL_MASK
            if level > 0:
                row = row_at(graph, row, level)
                if row < 0:
                    continue
            for j in range(degree):
                other = links[row, j]
                if other < 0:
                    break
                node = other if other < n else start  # an ordinal of a later state, or damage: treat as visited
                near[count] = node
                count += 1 if visited[node] != epoch else 0
                visited[node] = epoch
            prefetch_codes(words, near, 0, count)
            break
        measure(words, far, waiting, query, 0, distances)
        done += waiting
        passed = 0
        for i in range(waiting):
            far[passed] = far[i]
            distances[passed] = distances[i]
            passed += 1 if distances[i] < bound else 0
        for i in range(passed):
            if distances[i] < bound:
                other = far[i]
                if level == 0:  # it may be expanded next
                    for j in range(0, degree, 16):
                        prefetch(links, other, j)
                good = is_accepted(accept, other)
                size, accepted, place, bound = offer(keys, max_beam, size, accepted, ef, distances[i], other, good)
                first = min(first, place)
                if with_copies and graph.same[other] >= 0:
                    size, accepted, bound = offer_copies(walk, (size, accepted, bound), distances[i], other)
        near, far = far, near
        waiting = count
    scratch.counters[COUNT_DISTANCES] += done
    scratch.counters[COUNT_HOPS] += hops
    return size, accepted, bound


@leaf
def scan_tail(
    words: npt.NDArray[np.uint64],
    start: int,
    stop: int,
    accept: Accept,
    ef: int,
    max_beam: int,
    query: EncodedQuery,
    found: tuple[int, int, np.int64],
    scratch: Scratch,
) -> tuple[int, int, np.int64]:
    """Offer every accepted ordinal of the tail, ``start <= ordinal < stop``, to the beam: no link leads to them yet.

    found : size, accepted and bound of the beam; returns their new values.
    """
    size, accepted, bound = found
    rows, distances = scratch.rows, scratch.distances
    portion = rows.shape[0] >> 1
    at = start
    while at < stop:
        count = 0
        while at < stop and count < portion:
            rows[count] = at
            count += is_accepted(accept, at)
            at += 1
        measure(words, rows, count, query, 0, distances)
        scratch.counters[COUNT_DISTANCES] += count
        for i in range(count):
            if distances[i] < bound:
                size, accepted, _, bound = offer(scratch.keys, max_beam, size, accepted, ef, distances[i], rows[i], 1)
    return size, accepted, bound
