"""Queries to ordinals: lays out the outputs, calls one kernel per block of queries, spreads blocks over threads.

Knows arrays and plans. Knows no ids, no files; a damaged record is reported by its slot.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptionError
from ..kernels import api
from ..kernels.layout import COSINE, DOT, EUCLID, FINE, Accept, Candidates, Codes, Hits, Originals
from .planner import Plan

METRICS = {"cosine": COSINE, "dot": DOT, "euclid": EUCLID}
NO_RECORDS = np.zeros((0, 8), np.uint32)
NO_RECORDS.flags.writeable = False
NO_WORDS = np.zeros(0, np.uint64)

# a block reads the codes once for all its queries; more than this gains nothing and holds up the other threads
_BLOCK = 16


@dataclass(frozen=True)
class Searchable:
    """The arrays of one committed state.

    Parameters
    ----------
    words : uint64 (capacity, W)        codes
    records : uint32 (slots, stride)    originals as they are stored, read-only; none: (0, 8)
    n : int                             slots that are committed
    dim : int
    form : int                          of the records
    metric : int                        one of METRICS
    """

    words: NDArray[np.uint64]
    records: NDArray[np.uint32]
    n: int
    dim: int
    form: int
    metric: int


def nearest(
    queries: NDArray[np.float32],
    data: Searchable,
    accept: NDArray[np.uint64] | None,
    k: int,
    plan: Plan,
    threads: int,
    executor: Callable[[], Executor],
    prefetch: Callable[[NDArray[np.int32]], None] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k nearest of each query.

    Parameters
    ----------
    queries : float32 (m, dim), C-order     unit length under cosine
    accept : uint64 (ceil(n / 64),)         bit o % 64 of word o // 64: ordinal o may be found; None: all
    threads : int                           how many kernel calls may run at once
    executor : callable                     gives the pool when one is needed
    prefetch : callable                     told the ordinals, padded with -1, that rescoring is about to read

    Returns
    -------
    ordinals : int32 (m, k), padded with -1; scores : float32 (m, k), padded with NaN
        larger is nearer; nearest first, ties by ordinal

    Raises CorruptionError when a record that was read does not agree with its checksum.
    """
    m = len(queries)
    ordinals, scores = np.empty((m, k), np.int32), np.empty((m, k), np.float32)
    originals = Originals(data.records, data.dim, data.form, data.metric)
    accepted = Accept(NO_WORDS, 1) if accept is None else Accept(accept, 0)

    def run(block: slice) -> int:
        q, hits = queries[block], Hits(ordinals[block], scores[block])
        if plan.exact:
            return int(api.search_exact(q, originals, data.n, accepted, hits))
        shape = (len(q), plan.candidates)
        found = Candidates(np.empty(shape, np.int32), np.empty(shape, np.int32), np.empty(len(q), np.int64))
        codes = Codes(data.words, data.n)
        if prefetch is None or not plan.rescoring:
            return int(api.search_bits(q, codes, originals, accepted, int(plan.rescoring), found, hits))
        api.search_bits(q, codes, originals, accepted, 0, found, hits)
        prefetch(found.ordinals)
        return int(api.rescore(q, originals, data.n, found, hits))

    size = max(1, min(_BLOCK, -(-m // threads)))
    if threads == 1 or m <= 1:
        statuses = [run(slice(at, at + _BLOCK)) for at in range(0, m, _BLOCK)]
    else:
        statuses = list(executor().map(run, [slice(at, at + size) for at in range(0, m, size)]))
    for status in statuses:
        if status >= 0:
            raise CorruptionError(
                f"the vector in slot {status} does not agree with its checksum; verify() lists all damage; "
                "restore the collection from a copy"
            )
        assert status == FINE, "the arrays do not fit each other"
    return ordinals, scores
