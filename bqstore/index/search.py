"""Queries to ordinals: lays out the outputs, calls one kernel per block of queries, spreads blocks over threads.

Knows arrays and plans. Knows no ids, no files; a damaged record is reported by its slot.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptionError
from ..kernels import api
from ..kernels.dispatch import direct
from ..kernels.layout import (
    BINARY,
    COSINE,
    COUNT_DISTANCES,
    COUNT_HOPS,
    COUNT_RESCORED,
    DOT,
    DOUBTFUL,
    EUCLID,
    FINE,
    SCALAR_4_BITS,
    SCALAR_8_BITS,
    SHORT,
    Accept,
    Candidates,
    Codes,
    Graph,
    Hits,
    Originals,
    Way,
)
from .planner import EXACT, SCAN, WALK, Plan
from .quantizer import Quantizer
from .scratch import ScratchPool, Sizes, make_scratch
from .threads import ALONE, Workers, together

METRICS = {"cosine": COSINE, "dot": DOT, "euclid": EUCLID}
ENCODINGS = {"binary": BINARY, "scalar4bits": SCALAR_4_BITS, "scalar8bits": SCALAR_8_BITS}
NO_RECORDS = np.zeros((0, 8), np.uint32)
NO_RECORDS.flags.writeable = False
NO_WORDS = np.zeros(0, np.uint64)
ALL = Accept(NO_WORDS, 1)
Prefetch = Callable[[NDArray[np.int32]], None]

_search_graph, _search_bits = direct(api.search_graph), direct(api.search_bits)

# a block reads the codes once for all its queries; more than this gains nothing and holds up the other threads
_BLOCK = 16
# bytes of originals that are read where bits do not settle a query, and where nothing less than that does
_SOON_READ, _AFFORDABLE = 64 << 20, 512 << 20


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
    quantizer : Quantizer               what the codes were made by
    graph : Graph or None               of the first ``graph.n`` slots
    alike : int                         as in `HnswGraph`, of that graph
    pool : ScratchPool                  shared by the states of a collection
    """

    words: NDArray[np.uint64]
    records: NDArray[np.uint32]
    n: int
    dim: int
    form: int
    metric: int
    quantizer: Quantizer
    graph: Graph | None = None
    alike: int = 0
    pool: ScratchPool = field(default_factory=ScratchPool)

    @cached_property
    def codes(self) -> Codes:
        """The codes, as kernels take them."""
        return Codes(self.words, self.n, self.quantizer.arrays)

    @cached_property
    def originals(self) -> Originals:
        """The originals, as kernels take them."""
        return Originals(self.records, self.dim, self.form, self.metric)

    @property
    def linked(self) -> int:
        """Slots that are in the graph."""
        return 0 if self.graph is None else min(self.graph.n, self.n)


@dataclass
class Work:
    """How much a search did, over all its queries.

    Parameters
    ----------
    way : str               as in `Plan`; "scan" also where a walk ran dry and a scan took its place
    distances : int         codes, or originals in an exact scan, that were compared with a query
    hops : int              nodes whose links were followed on level 0
    rescored : int          originals read for candidates
    """

    way: str = ""
    distances: int = 0
    hops: int = 0
    rescored: int = 0

    def add(self, more: "Work") -> None:
        """Count what another search did for the same queries."""
        self.distances += more.distances
        self.hops += more.hops
        self.rescored += more.rescored


class DoubtfulError(Exception):
    """A query that cannot be computed with; who has it can say why."""


class Search:
    """A way to search one state, for any number of queries; may be used by many threads at once.

    Parameters
    ----------
    accept : uint64 (ceil(n / 64),)     bit o % 64 of word o // 64: ordinal o may be found; None: all
    accepted : int                      how many that are
    encoding : int                      of the queries, one of ENCODINGS
    """

    def __init__(
        self, data: Searchable, accept: NDArray[np.uint64] | None, accepted: int, k: int, plan: Plan, encoding: int
    ) -> None:
        self.data, self.accepted, self.k, self.plan = data, accepted, k, plan
        self.accept = ALL if accept is None else Accept(accept, 0)
        # an estimate of a part of a vector is no bound of the score of the whole; and not rescored, sparing would tell
        # the best score there may be, not the likely one
        sparing = plan.rescoring and data.quantizer.estimator == "rabitq" and data.quantizer.dim == data.dim
        self.way = Way(plan.ef, plan.room, plan.candidates, int(plan.rescoring), encoding, int(sparing))
        self.way = self.way._replace(most=plan.most, inside=int(plan.inside))
        self.way = self.way._replace(against=plan.against, along=plan.along, rare=plan.rare)
        # when the originals are asked for before they are read
        self.ahead = self.way._replace(rescoring=0, sparing=1)
        self._arrays = (data.codes, data.graph, data.originals, self.accept)
        if plan.way == WALK:
            assert data.graph is not None
            degree = data.graph.links.shape[1] >> 1
            width = data.quantizer.arrays.width
            room = max(plan.room, plan.against, min(data.n, 3 * plan.along))
            self._sizes = Sizes(len(data.words), width, data.dim, degree, room, plan.most, k)
            self._free = data.pool.free(self._sizes)

    def one(self, query: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The k nearest of one query, float32 (1, dim): `nearest`, without what a search from memory has no use for."""
        if self.plan.way != WALK:
            return self.nearest(query, ALONE)
        hits = Hits(np.empty((1, self.k), np.int32), np.empty((1, self.k), np.float32))
        try:
            scratch = self._free.pop()
        except IndexError:
            scratch = make_scratch(self._sizes)
        status = _search_graph(query, *self._arrays, self.way, scratch, hits)
        self._free.append(scratch)
        if status != FINE:
            return self.nearest(query, ALONE)  # by a scan, or to say what is wrong
        return hits

    def nearest(
        self,
        queries: NDArray[np.float32],
        workers: Workers,
        prefetch: Prefetch | None = None,
        work: Work | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The k nearest of each query.

        Parameters
        ----------
        queries : float32 (m, dim), C-order     of any length
        workers : Workers                       how many kernel calls may run at once
        prefetch : callable                     told the ordinals, padded with -1, that rescoring is about to read
        work : Work                             filled in; for one thread

        Returns
        -------
        ordinals : int32 (m, k), padded with -1; scores : float32 (m, k), padded with NaN
            larger is nearer; nearest first, ties by ordinal

        Raises CorruptionError when a record that was read does not agree with its checksum; DoubtfulError for a query
        that is not finite, or too long or, under cosine, too short.
        """
        m = len(queries)
        hits = Hits(np.empty((m, self.k), np.int32), np.empty((m, self.k), np.float32))
        if not self.plan.rescoring:
            prefetch = None
        if m == 1:
            self._run(queries, hits, prefetch, work)
        else:

            def work_on(blocks: deque[slice]) -> None:
                while True:
                    try:
                        block = blocks.popleft()
                    except IndexError:
                        return
                    self._run(queries[block], Hits(hits.ordinals[block], hits.scores[block]), prefetch, work)

            # walks share nothing, and each call costs some Python that holds the others up
            threads = workers.threads
            size = -(-m // (4 * threads)) if self.plan.way == WALK else min(_BLOCK, -(-m // threads))
            blocks = deque(slice(at, at + size) for at in range(0, m, max(1, size)))
            together(work_on, blocks, workers.at_most(min(threads, len(blocks))))
        return hits.ordinals, hits.scores

    def _run(self, queries: NDArray[np.float32], hits: Hits, prefetch: Prefetch | None, work: Work | None) -> None:
        """Answer some queries."""
        data, way = self.data, self.plan.way
        status = SHORT
        if way == WALK:
            status = self._walk(queries, hits, prefetch, work)
        if status == SHORT:
            queries = self._prepared(queries)
            if work is not None:
                work.way = EXACT if way == EXACT else SCAN
                work.distances += len(queries) * self.accepted
            if way == EXACT:
                status = api.search_exact(queries, data.originals, data.n, self.accept, hits)
            else:
                status = self._scan(queries, hits, prefetch, work)
        if status >= 0:
            raise CorruptionError(
                f"the vector in slot {status} does not agree with its checksum; verify() lists all damage; "
                "restore the collection from a copy"
            )
        if status == DOUBTFUL:
            raise DoubtfulError
        assert status == FINE, "the arrays do not fit each other"

    def _prepared(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """The queries at unit length under cosine."""
        out = np.empty_like(queries)
        if api.prepare(queries, self.data.metric, out) != FINE:
            raise DoubtfulError
        return out

    def _walk(self, queries: NDArray[np.float32], hits: Hits, prefetch: Prefetch | None, work: Work | None) -> int:
        """Walk the graph; SHORT if that found too few."""
        plan = self.plan
        try:
            scratch = self._free.pop()
        except IndexError:
            scratch = make_scratch(self._sizes)
        if work is not None:
            scratch.counters[COUNT_DISTANCES:] = 0
        found, way = hits, self.way
        if prefetch is not None:
            shape = (len(queries), plan.most)
            found, way = Hits(np.empty(shape, np.int32), np.empty(shape, np.float32)), self.ahead
        status: int = _search_graph(queries, *self._arrays, way, scratch, found)
        if work is not None and status == FINE:
            work.way = WALK
            work.distances += int(scratch.counters[COUNT_DISTANCES])
            work.hops += int(scratch.counters[COUNT_HOPS])
            work.rescored += int(scratch.counters[COUNT_RESCORED])
        self._free.append(scratch)
        if status == FINE and prefetch is not None:
            again = Candidates(found.ordinals, found.ordinals, np.count_nonzero(found.ordinals >= 0, axis=1))
            status = self._rescored(self._prepared(queries), again, found.scores, hits, prefetch, work)
        return status

    def _rescored(
        self,
        queries: NDArray[np.float32],
        candidates: Candidates,
        reach: NDArray[np.float32],
        hits: Hits,
        prefetch: Prefetch,
        work: Work | None,
    ) -> int:
        """Order candidates by their originals, which are asked for before they are read.

        Where estimates tell what cannot be a hit: the first k, and then only those that may still be better.
        """
        data, k, wide = self.data, self.k, self.plan.candidates
        ordinals = candidates.ordinals[:, :wide]  # more are seldom read, and not asked for
        if self.way.sparing and ordinals.shape[1] > k:
            prefetch(np.ascontiguousarray(ordinals[:, :k]))
            first = candidates._replace(counts=np.minimum(candidates.counts, k))
            status, _ = api.rescore(queries, data.originals, data.n, first, reach, k, hits)
            if status != FINE:
                return int(status)
            worst = np.where(candidates.counts > k, hits.scores[:, -1], np.inf)[:, None]
            later = np.where(reach[:, k:wide] >= worst, ordinals[:, k:], np.int32(-1))
            if (later >= 0).any():
                prefetch(later)
        else:
            prefetch(np.ascontiguousarray(ordinals))
        status, read = api.rescore(queries, data.originals, data.n, candidates, reach, wide, hits)
        if work is not None:
            work.rescored += int(read)
        return int(status)

    def _scan(self, queries: NDArray[np.float32], hits: Hits, prefetch: Prefetch | None, work: Work | None) -> int:
        """Scan the codes of all that is accepted."""
        data, plan = self.data, self.plan
        most = plan.scanned if plan.way == WALK else plan.most
        shape, way = (len(queries), most), self.way._replace(most=most)
        found = Candidates(np.empty(shape, np.int32), np.empty(shape, np.int32), np.empty(len(queries), np.int64))
        if prefetch is None:
            status, read = _search_bits(queries, data.codes, data.originals, self.accept, way, found, hits)
            if work is not None:
                work.rescored += int(read)
            # few were read: the last of the candidates brought nothing
            if status == FINE and self.accepted > most > plan.candidates and 2 * read > most:
                return self._settle(queries, found, hits, work)
            return int(status)
        told = Hits(np.empty(shape, np.int32), np.full(shape, np.nan, np.float32))
        status, _ = api.search_bits(queries, data.codes, data.originals, self.accept, self.ahead, found, told)
        if status == FINE:
            status = self._rescored(queries, found, told.scores, hits, prefetch, work)
        if status == FINE and self.accepted > most > plan.candidates:
            status = self._settle(queries, found, hits, work)
        return int(status)

    def _settle(self, queries: NDArray[np.float32], found: Candidates, hits: Hits, work: Work | None) -> int:
        """Look further for those queries of whose hits a fifth are of the last half of the candidates.

        Bits hardly tell there: where they tell nothing, half of the hits would be. What is looked at then is all that
        is accepted, if that is soon read; else eight times as many candidates, and all if that is no end yet.
        """
        data, wide = self.data, found.ordinals.shape[1]
        size, enough = self.accepted * data.records.shape[1] * 4, (self.k + 4) // 5
        for i in range(len(queries)):
            query, own = queries[i : i + 1], Hits(hits.ordinals[i : i + 1], hits.scores[i : i + 1])
            if np.isin(own.ordinals, found.ordinals[i, wide // 2 :]).sum() < enough:
                continue
            status, settled = FINE, False
            if size > _SOON_READ:
                shape = (1, min(8 * wide, self.accepted))
                more = Candidates(np.empty(shape, np.int32), np.empty(shape, np.int32), np.empty(1, np.int64))
                way = self.way._replace(candidates=wide, most=shape[1])
                status, read = _search_bits(query, data.codes, data.originals, self.accept, way, more, own)
                late = np.isin(own.ordinals, more.ordinals[:, shape[1] // 2 :]).sum()
                settled = size > _AFFORDABLE or late < enough
                if work is not None:
                    work.distances, work.rescored = work.distances + self.accepted, work.rescored + int(read)
            if status == FINE and not settled:
                status = api.search_exact(query, data.originals, data.n, self.accept, own)
                if work is not None:
                    work.way, work.distances = EXACT, work.distances + self.accepted
            if status != FINE:
                return int(status)
        return FINE
