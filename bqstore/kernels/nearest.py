"""Keeps the c nearest of many codes by Hamming distance, in a buffer that is pruned to the best c whenever it is full.

Hamming distances are small integers, so pruning and sorting are counting sorts, without a factor of log c. A heap for
c = 1,000 of 100,000 doubled the time of a scan; this adds a sixth.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bqstore.kernels.jit import leaf
from bqstore.kernels.layout import Candidates

BLOCK = 256  # ordinals offered at once, at most
SLACK = 128  # the buffer holds at least twice this, so that it is not pruned constantly for a small c


class Nearest(NamedTuple):
    """The state of m queries, each a row.

    ``ordinals`` and ``distances`` : int32 (m, capacity), the first ``sizes[i]`` of row i in use, ordinals ascending.
    ``sizes``, ``limits`` : int64 (m,); codes at the limit or beyond are not among the c nearest.
    ``tally`` : int64 (bits + 2,), scratch.
    """

    ordinals: npt.NDArray[np.int32]
    distances: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.int64]
    limits: npt.NDArray[np.int64]
    tally: npt.NDArray[np.int64]


@leaf
def make_nearest(m: int, c: int, n: int, bits: int) -> Nearest:
    """Return the empty state for the c nearest of n codes, at distances from 0 to ``bits``, of m queries."""
    capacity = min(2 * max(c, SLACK), n) + BLOCK
    return Nearest(
        np.empty((m, capacity), np.int32),
        np.empty((m, capacity), np.int32),
        np.zeros(m, np.int64),
        np.full(m, np.int64(bits + 1)),
        np.empty(bits + 2, np.int64),
    )


@leaf
def offer_block(
    nearest: Nearest,
    query: int,
    c: int,
    rows: npt.NDArray[np.int32],
    distances: npt.NDArray[np.int32],
    count: int,
) -> None:
    """Offer ``count`` <= BLOCK codes, with ascending ordinals that exceed all earlier ones.

    rows, distances : int32 (BLOCK,). Writes ``nearest``.
    """
    ordinals = nearest.ordinals[query]
    kept = nearest.distances[query]
    size = nearest.sizes[query]
    limit = nearest.limits[query]
    for i in range(count):
        if distances[i] < limit:
            ordinals[size] = rows[i]
            kept[size] = distances[i]
            size += 1
    nearest.sizes[query] = size
    if size > kept.shape[0] - BLOCK:
        cut_back(nearest, query, c)


@leaf
def cut_back(nearest: Nearest, query: int, c: int) -> None:
    """Keep the c best of a row by (distance, ordinal), and lower its limit to the worst of them."""
    ordinals = nearest.ordinals[query]
    kept = nearest.distances[query]
    tally = nearest.tally
    size = nearest.sizes[query]
    if size <= c:
        return
    tally[:] = 0
    for i in range(size):
        tally[kept[i]] += 1
    limit = 0
    ties = c  # number of codes kept at the limit, those with the lowest ordinals
    while tally[limit] < ties:
        ties -= tally[limit]
        limit += 1
    end = 0
    for i in range(size):
        distance = kept[i]
        stays = distance < limit
        if distance == limit and ties > 0:
            ties -= 1
            stays = True
        ordinals[end] = ordinals[i]
        kept[end] = distance
        end += 1 if stays else 0
    nearest.sizes[query] = end
    nearest.limits[query] = limit  # a later code at this distance has a higher ordinal, and is worse


@leaf
def write_candidates(nearest: Nearest, c: int, candidates: Candidates) -> None:
    """Write the c best of every query to ``candidates``, by (distance, ordinal), padded with -1."""
    tally = nearest.tally
    for query in range(nearest.sizes.shape[0]):
        cut_back(nearest, query, c)
        size = nearest.sizes[query]
        tally[:] = 0
        for i in range(size):
            tally[nearest.distances[query, i] + 1] += 1
        for distance in range(1, tally.shape[0]):
            tally[distance] += tally[distance - 1]
        for i in range(size):
            distance = nearest.distances[query, i]
            place = tally[distance]
            tally[distance] += 1
            candidates.ordinals[query, place] = nearest.ordinals[query, i]
            candidates.distances[query, place] = distance
        candidates.counts[query] = size
        for i in range(size, candidates.ordinals.shape[1]):
            candidates.ordinals[query, i] = -1
            candidates.distances[query, i] = -1
