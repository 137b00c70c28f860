"""Queries to ordinals: allocate the outputs, call one kernel for each block of queries, spread blocks over threads.

Knows arrays and plans, no ids and no files; a damaged record is reported by its slot.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import RESTORE, CorruptionError, InvalidInputError
from ..kernels import dispatch as kernels
from ..kernels.layout import (
    BAD_QUERY,
    BINARY,
    COSINE,
    COUNT_DISTANCES,
    COUNT_EPOCH,
    COUNT_HOPS,
    COUNT_RESCORED,
    DOT,
    EUCLID,
    LAST_EPOCH,
    LONGEST,
    OK,
    SCALAR_4_BITS,
    SCALAR_8_BITS,
    SHORTEST,
    TOO_FEW,
    Accept,
    Candidates,
    Codes,
    Graph,
    Hits,
    Originals,
    Scratch,
    SearchSettings,
)
from .longest import Longest, are_passed_over
from .planner import EXACT, SCAN, WALK, Plan
from .quantizer import Quantizer
from .scratch import ScratchPool, Sizes, make_scratch
from .threads import ALONE, Workers, drain, together

METRICS = {"cosine": COSINE, "dot": DOT, "euclid": EUCLID}
ENCODINGS = {"binary": BINARY, "scalar4bits": SCALAR_4_BITS, "scalar8bits": SCALAR_8_BITS}
NO_RECORDS = np.zeros((0, 8), np.uint32)
NO_RECORDS.flags.writeable = False

ALL = Accept(np.zeros(0, np.uint64), 1)
Prefetch = Callable[[NDArray[np.int32]], None]

# queries that read the codes together; a larger block gains nothing, except in numpy, and leaves threads without work
_BLOCK, _BLOCK_OF_NUMPY = 16, 512
# Where codes do not separate the candidates, all accepted originals are read if they have at most so many bytes: at
# once; and after widening the candidates has not helped.
_SOON_READ, _AFFORDABLE = 64 << 20, 512 << 20


def _raise_for(status: int) -> None:
    """Raise the error that a kernel's status stands for, unless it is OK."""
    if status >= 0:
        error = DamagedVectorError(
            f"the vector in slot {status} does not agree with its checksum; verify() lists all damage: "
            f"{RESTORE}; allow_damaged=True leaves it out"
        )
        error.slot = status
        raise error
    if status == BAD_QUERY:
        raise DoubtfulError
    assert status == OK, "the shapes of the arrays do not agree"


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
    quantizer : Quantizer               made the codes
    graph : Graph or None               of the first ``graph.n`` slots
    alike, missed, narrow : int         inexact copies in that graph, and what trials of it missed (`HnswGraph`)
    times : int                         factor for the usual width of walks (`HnswGraph`)
    pool : ScratchPool                  shared by the states of a collection
    longest : Longest                   likewise
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
    missed: int = 0
    narrow: int = 0
    times: int = 1
    pool: ScratchPool = field(default_factory=ScratchPool)
    longest: Longest = field(default_factory=Longest)

    @cached_property
    def codes(self) -> Codes:
        """The codes, as kernels take them."""
        return Codes(self.words, self.n, self.quantizer.arrays)

    @cached_property
    def originals(self) -> Originals:
        """The originals, as kernels take them."""
        return Originals(self.records, self.dim, self.form, self.metric)

    def passes_over(self, accept: NDArray[np.uint64], accepted: int) -> bool:
        """Whether walks would mostly meet rejected vectors, since these are longer (`longest`)."""
        return are_passed_over(self.longest.of(self.words, self.n, self.quantizer), accept, accepted / self.n)

    @property
    def linked(self) -> int:
        """Slots that are in the graph."""
        return 0 if self.graph is None else min(self.graph.n, self.n)


@dataclass
class Work:
    """How much a search did, over all its queries.

    Parameters
    ----------
    way : str               as in `Plan`; "scan" also if a walk found too few and a scan replaced it
    distances : int         codes, or originals in an exact search, that were compared with a query
    hops : int              nodes that were expanded on level 0
    rescored : int          originals read for candidates
    compiled : bool         whether compiled kernels were used, not numpy
    """

    way: str = ""
    distances: int = 0
    hops: int = 0
    rescored: int = 0
    compiled: bool = True

    def add(self, more: "Work") -> None:
        """Add the work of another search for the same queries."""
        self.distances += more.distances
        self.hops += more.hops
        self.rescored += more.rescored


class DamagedVectorError(CorruptionError):
    """A vector that was to be scored does not match its checksum; ``slot`` says which."""

    slot: int


class DoubtfulError(InvalidInputError):
    """A query that is not finite, or too long or too short to compute with; the caller may be able to say which."""

    def __init__(self) -> None:
        super().__init__(
            f"a query vector is not finite, or too long or too short to compute with; expected a length of at most "
            f"{LONGEST:g}, and under cosine of at least {SHORTEST:g}: scale it"
        )


class Search:
    """A prepared search of one state, for any number of queries; may be used by many threads at once.

    Parameters
    ----------
    accept : uint64 (ceil(n / 64),)     bit o % 64 of word o // 64: ordinal o may be found; None: all
    accepted : int                      number of ordinals that may be found
    rows : int32 (accepted,)            these, ascending, in place of the bitmap; not for a walk
    encoding : int                      of the queries, one of ENCODINGS
    """

    def __init__(
        self,
        data: Searchable,
        accept: NDArray[np.uint64] | None,
        accepted: int,
        k: int,
        plan: Plan,
        encoding: int,
        rows: NDArray[np.int32] | None = None,
    ) -> None:
        self.data, self.accepted, self.k, self.plan = data, accepted, k, plan
        self.accept = ALL if accept is None else Accept(accept, 0)
        if rows is not None:
            self.accept = Accept(ALL.words, 0, rows)
        self.settings = SearchSettings(
            ef=plan.ef,
            max_beam=plan.max_beam,
            candidates=plan.candidates,
            rescoring=int(plan.rescoring),
            encoding=encoding,
            # An estimate for a part of a vector does not bound the score of the whole. Without rescoring, ``prune``
            # would report the bound in place of the estimate.
            prune=int(plan.rescoring and data.quantizer.estimator == "rabitq" and data.quantizer.dim == data.dim),
            max_candidates=plan.max_candidates,
            accepted_only=int(plan.accepted_only),
            ef_sparse=plan.ef_sparse,
            ef_dense=plan.ef_dense,
            sparse_below=plan.sparse_below,
            most_distances=plan.most_distances,
            settled=plan.settled,
            ef_settled=plan.ef_settled,
        )
        # the first pass alone, with score bounds, for where originals are prefetched before they are read
        self.first_pass = self.settings._replace(rescoring=0, prune=1)
        self._arrays = (data.codes, data.graph, data.originals, self.accept)
        self._walk_over = (*self._arrays, self.settings)
        self._shape = (1, k)
        if plan.way == WALK:
            assert data.graph is not None
            degree = data.graph.links.shape[1] >> 1
            codes = data.quantizer.arrays
            widest = max(plan.max_beam, plan.ef_sparse, plan.ef_settled)
            n, max_beam = len(data.words), max(widest, min(data.n, 3 * plan.ef_dense))
            self._sizes = Sizes(n, codes.width, codes.bits, data.dim, degree, max_beam, plan.max_candidates, k)
            self._free = data.pool.free(self._sizes)

    def one(self, query: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The k nearest of one query, float32 (1, dim): the short form of `nearest`, without prefetching."""
        if self.plan.way != WALK:
            return self.nearest(query, ALONE)
        hits = Hits(np.empty(self._shape, np.int32), np.empty(self._shape, np.float32))
        scratch = self._take_scratch()
        kernel = kernels.search_graph
        status = (kernel.compiled or kernel)(query, *self._walk_over, scratch, hits)
        self._free.append(scratch)
        if status != OK:
            _raise_for(self._compare_all(query, hits, None, None) if status == TOO_FEW else status)
        return hits

    def hide(self, node: int) -> None:
        """Hide a node from the next walk of this thread, which then finds what it would if the node had no links.

        Nobody else may use this search or the pool of its state meanwhile. For searches without a filter.
        """
        scratch = self._take_scratch()
        if scratch.counters[COUNT_EPOCH] >= LAST_EPOCH:
            scratch.visited[:] = scratch.counters[COUNT_EPOCH] = 0
        scratch.visited[node] = scratch.counters[COUNT_EPOCH] + 1  # as if it had been visited already
        self._free.append(scratch)

    def _take_scratch(self) -> Scratch:
        try:
            return self._free.pop()
        except IndexError:
            return make_scratch(self._sizes)

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
        prefetch : callable                     called with the ordinals, padded with -1, that rescoring will read next
        work : Work                             written; only where one thread works

        Returns
        -------
        ordinals : int32 (m, k), padded with -1; scores : float32 (m, k), padded with NaN
            larger is nearer; nearest first, ties by ordinal

        Raises
        ------
        CorruptionError     if a record that was read does not match its checksum
        DoubtfulError       if a query is not finite, too long or, but under euclid, too short
        """
        m = len(queries)
        hits = Hits(np.empty((m, self.k), np.int32), np.empty((m, self.k), np.float32))
        if not self.plan.rescoring:
            prefetch = None
        if m == 1:
            self._run(queries, hits, prefetch, work)
        else:

            def work_on(blocks: deque[slice]) -> None:
                for block in drain(blocks):
                    self._run(queries[block], Hits(hits.ordinals[block], hits.scores[block]), prefetch, work)

            # walks share no reads, and each call holds the GIL for a moment, so their blocks are large
            threads = workers.threads
            block = _BLOCK if kernels.search_bits.is_compiled() else _BLOCK_OF_NUMPY
            size = -(-m // (4 * threads)) if self.plan.way == WALK else min(block, -(-m // threads))
            blocks = deque(slice(at, at + size) for at in range(0, m, max(1, size)))
            together(work_on, blocks, workers.at_most(min(threads, len(blocks))))
        return hits.ordinals, hits.scores

    def _run(self, queries: NDArray[np.float32], hits: Hits, prefetch: Prefetch | None, work: Work | None) -> None:
        """Answer some queries; a scan answers those for which a walk has met too few, each as if it were alone."""
        if self.plan.way == WALK:
            status = self._walk(queries, hits, prefetch, work)
            if status == TOO_FEW:
                short = np.flatnonzero(hits.ordinals[:, 0] == TOO_FEW)
                own = Hits(hits.ordinals[short], hits.scores[short])
                status = self._compare_all(queries[short], own, prefetch, work)
                hits.ordinals[short], hits.scores[short] = own
        else:
            status = self._compare_all(queries, hits, prefetch, work)
        _raise_for(status)

    def _compare_all(
        self, queries: NDArray[np.float32], hits: Hits, prefetch: Prefetch | None, work: Work | None
    ) -> int:
        """Compare all accepted codes, or originals, with some queries; returns the status of the kernel."""
        exact, queries = self.plan.way == EXACT, self._prepared(queries)
        if work is not None:
            work.way = EXACT if exact else SCAN
            work.compiled = (kernels.search_exact if exact else kernels.search_bits).is_compiled()
            work.distances += len(queries) * self.accepted
        if exact:
            return int(kernels.search_exact(queries, self.data.originals, self.data.n, self.accept, hits))
        return self._scan(queries, hits, prefetch, work)

    def _prepared(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """The queries, scaled to unit length under cosine."""
        out = np.empty_like(queries)
        if kernels.prepare(queries, self.data.metric, out) != OK:
            raise DoubtfulError
        return out

    def _walk(self, queries: NDArray[np.float32], hits: Hits, prefetch: Prefetch | None, work: Work | None) -> int:
        """Walk the graph; returns the status of the kernel."""
        scratch = self._take_scratch()
        if work is not None:
            scratch.counters[COUNT_DISTANCES:] = 0
        found, settings = hits, self.settings
        if prefetch is not None:
            shape = (len(queries), self.plan.max_candidates)
            found, settings = Hits(np.empty(shape, np.int32), np.empty(shape, np.float32)), self.first_pass
        status: int = kernels.search_graph(queries, *self._arrays, settings, scratch, found)
        short = found.ordinals[:, 0] == TOO_FEW
        if work is not None and status in (OK, TOO_FEW) and not short.all():
            work.way = WALK
            work.distances += int(scratch.counters[COUNT_DISTANCES])
            work.hops += int(scratch.counters[COUNT_HOPS])
            work.rescored += int(scratch.counters[COUNT_RESCORED])
        self._free.append(scratch)
        if status in (OK, TOO_FEW) and prefetch is not None:
            outcome = status
            candidates = Candidates(found.ordinals, found.ordinals, np.count_nonzero(found.ordinals >= 0, axis=1))
            status = self._rescore(self._prepared(queries), candidates, found.scores, hits, prefetch, work)
            if status == OK:
                status, hits.ordinals[short, :1] = outcome, TOO_FEW
        return status

    def _rescore(
        self,
        queries: NDArray[np.float32],
        candidates: Candidates,
        bounds: NDArray[np.float32],
        hits: Hits,
        prefetch: Prefetch,
        work: Work | None,
    ) -> int:
        """Order candidates by their originals, and prefetch these before they are read.

        With score bounds, the first k are read first, then only those whose bound is above the k-th exact score.
        """
        data, k, wide = self.data, self.k, self.plan.candidates
        ordinals = candidates.ordinals[:, :wide]  # later ones are seldom read
        if self.settings.prune and ordinals.shape[1] > k:
            prefetch(np.ascontiguousarray(ordinals[:, :k]))
            first = candidates._replace(counts=np.minimum(candidates.counts, k))
            status, _ = kernels.rescore(queries, data.originals, data.n, first, bounds, k, hits)
            if status != OK:
                return int(status)
            worst = np.where(candidates.counts > k, hits.scores[:, -1], np.inf)[:, None]
            later = np.where(bounds[:, k:wide] >= worst, ordinals[:, k:], np.int32(-1))
            if (later >= 0).any():
                prefetch(later)
        else:
            prefetch(np.ascontiguousarray(ordinals))
        status, read = kernels.rescore(queries, data.originals, data.n, candidates, bounds, wide, hits)
        if work is not None:
            work.rescored += int(read)
        return int(status)

    def _scan(self, queries: NDArray[np.float32], hits: Hits, prefetch: Prefetch | None, work: Work | None) -> int:
        """Scan all accepted codes."""
        data, plan = self.data, self.plan
        most = plan.scan_candidates if plan.way == WALK else plan.max_candidates
        widened = self.accepted > most > plan.candidates
        found = _empty_candidates(len(queries), most)
        if prefetch is None:
            settings = self.settings._replace(max_candidates=most)
            status, read = kernels.search_bits(queries, data.codes, data.originals, self.accept, settings, found, hits)
            if work is not None:
                work.rescored += int(read)
        else:
            first = Hits(np.empty(found.ordinals.shape, np.int32), np.full(found.ordinals.shape, np.nan, np.float32))
            status, _ = kernels.search_bits(
                queries, data.codes, data.originals, self.accept, self.first_pass, found, first
            )
            if status == OK:
                status = self._rescore(queries, found, first.scores, hits, prefetch, work)
        if status == OK and widened:
            status = self._widen(queries, found, hits, work)
        return int(status)

    def _widen(self, queries: NDArray[np.float32], found: Candidates, hits: Hits, work: Work | None) -> int:
        """Widen the candidate list of queries that have a fifth of their hits in the second half of the candidates.

        For these the codes hardly separate the candidates: if they did not at all, half of the hits would be in that
        half. All accepted originals are read, if they are few bytes; else eight times as many candidates are taken, and
        all if that is not enough either.
        """
        data, wide = self.data, found.ordinals.shape[1]
        size, enough = self.accepted * data.records.shape[1] * 4, (self.k + 4) // 5
        for i in range(len(queries)):
            query, own = queries[i : i + 1], Hits(hits.ordinals[i : i + 1], hits.scores[i : i + 1])
            if len(set(own.ordinals[0].tolist()).intersection(found.ordinals[i, wide // 2 :].tolist())) < enough:
                continue
            status, done = OK, False
            if size > _SOON_READ:
                more = _empty_candidates(1, min(8 * wide, self.accepted))
                most = more.ordinals.shape[1]
                settings = self.settings._replace(candidates=wide, max_candidates=most)
                status, read = kernels.search_bits(query, data.codes, data.originals, self.accept, settings, more, own)
                done = size > _AFFORDABLE or np.isin(own.ordinals, more.ordinals[:, most // 2 :]).sum() < enough
                if work is not None:
                    work.distances, work.rescored = work.distances + self.accepted, work.rescored + int(read)
            if status == OK and not done:
                status = kernels.search_exact(query, data.originals, data.n, self.accept, own)
                if work is not None:
                    work.way, work.distances = EXACT, work.distances + self.accepted
            if status != OK:
                return int(status)
        return OK


def _empty_candidates(m: int, c: int) -> Candidates:
    return Candidates(np.empty((m, c), np.int32), np.empty((m, c), np.int32), np.empty(m, np.int64))
