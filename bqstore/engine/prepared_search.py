"""A search of one state with one set of options: whatever does not depend on the query is done once, beforehand."""

import numpy as np
from numpy.typing import NDArray

from .. import index
from ..bitmap import Matches
from ..config import AUTO, MAX_K, Quantization
from ..storage.files import RecordFile
from ..validate import check_dim, check_queries, lengthened
from .options import Options
from .state import State

F32 = NDArray[np.float32]
_PLANS = 256  # that a state remembers


class PreparedSearch:
    """How one state is searched, for any number of queries; many threads may use it.

    Attributes
    ----------
    search : index.Search   missing if ``nothing`` (a bool) can be found
    live : int              documents of the state
    shorter : bool          whether codes are scanned because a walk would mostly meet longer vectors, not accepted ones
    """

    __slots__ = (
        "_accept",
        "_accepted",
        "_data",
        "_filtered",
        "_may_be_copies",
        "_n",
        "_one",
        "_planes",
        "_plans",
        "_wider",
        "live",
        "nothing",
        "options",
        "search",
        "shorter",
        "vectors",
    )

    def __init__(
        self,
        state: State,
        accept: Matches | None,
        options: Options,
        filtered: bool = False,
    ) -> None:
        self.options, data = options, state.data
        self.live = state.head.n_live
        accepted = state.n if accept is None else accept.count
        self._accept, self._n = accept if accepted < state.n else None, state.n
        self._one = (0, 0)  # the shape of queries that `_at_once` answers by one kernel call
        self.vectors = state.vectors
        self.nothing, self.shorter = data is None or accepted == 0, False
        if data is None or self.nothing:
            return
        encoding = data.quantizer.query_encoding if options.query_encoding == AUTO else options.query_encoding
        self._planes = index.ENCODINGS[encoding]
        self._data, self._plans, self._accepted, self._filtered = data, state.plans, accepted, filtered
        self._wider: dict[int, index.Search] = {}
        self.search = self._made(options.k)
        self._one = (1, data.dim)
        # if the hits are copies of one vector, documents next to it may not have been among the candidates
        plan = self.search.plan
        self._may_be_copies = options.adaptive and plan.rescoring and 1 < options.k <= plan.candidates < accepted

    @property
    def quantization(self) -> Quantization:
        """How codes and queries are compared."""
        return self.search.data.quantizer.resolved(self.options.query_encoding)

    def _made(self, k: int) -> index.Search:
        plan, accept = self._plan(k), self._accept
        if plan.way == index.WALK and accept is not None and not self.shorter:
            self.shorter = self._data.passes_over(accept.bits, self._accepted)
            plan = self._plan(k) if self.shorter else plan
        if accept is None or accept.rows is None or plan.way == index.WALK:
            bits, rows = None if accept is None else accept.bits, None
        else:
            bits, rows = None, accept.rows
        return index.Search(self._data, bits, self._accepted, k, plan, self._planes, rows)

    def _plan(self, k: int) -> index.Plan:
        """The plan of k hits, remembered with the state: filters that accept as many have the same."""
        options, data = self.options, self._data
        key = (id(options), self._accepted, self._filtered, self.shorter, k)
        known: tuple[Options, index.Plan] | None = self._plans.get(key)
        if known is not None and known[0] is options:
            return known[1]
        arrays, hnsw, params = data.quantizer.arrays, options.hnsw, options.params
        made = index.plan(
            n=self._n,
            linked=data.linked,
            alike=data.alike,
            missed=data.missed,
            narrow=data.narrow,
            times=data.times,
            shorter=self.shorter,
            accepted=self._accepted,
            dim=data.dim,
            k=k,
            oversampling=options.oversampling(self.live, self._filtered),
            rescore=params.rescore,
            hnsw_ef=params.hnsw_ef,
            planes=self._planes,
            bits=arrays.bits,
            width=arrays.width,
            m=hnsw.m,
            ef_construct=hnsw.ef_construct,
            exact=options.exact,
            full_scan_threshold=hnsw.full_scan_threshold,
            originals=options.originals,
            filtered=self._filtered,
            adaptive=options.adaptive,
            signs=self._planes == 1 and data.quantizer.estimator == "sign",
        )
        if len(self._plans) >= _PLANS:
            self._plans.clear()
        self._plans[key] = options, made
        return made

    def mask(self) -> NDArray[np.bool_] | None:
        """What may be found, bool (n,); None: all."""
        return None if self._accept is None else self._accept.mask()

    def nearest(self, queries: F32, work: index.Work | None = None) -> tuple[NDArray[np.int32], F32]:
        """Ordinals int32 (m, k) padded with -1, scores float32 (m, k) padded with NaN."""
        if queries.shape == self._one and work is None:
            found = self._at_once(queries)
            if found is not None:
                least = self.options.score_threshold
                return found if least is None else _above(*found, least)
        options, vectors = self.options, self.vectors
        if self.nothing or not len(queries):
            shape = (len(queries), options.k)
            return np.full(shape, -1, np.int32), np.full(shape, np.nan, np.float32)
        search = self.search
        data = search.data
        if queries.shape[1] != data.dim:
            check_dim(queries.shape[1], data.dim, "the query vector")
        try:
            ordinals, scores = self._found(queries, vectors, work)
        except index.DoubtfulError:
            ordinals, scores = self._found_of_doubtful(queries, work)
        least = options.score_threshold
        return (ordinals, scores) if least is None else _above(ordinals, scores, least)

    def _at_once(self, queries: F32) -> tuple[NDArray[np.int32], F32] | None:
        """`nearest` of one query, in the few steps that most queries need; None for those that need more."""
        vectors, search = self.vectors, self.search
        if vectors is not None:
            vectors.check_size(search.data.n)
            ahead = vectors.read_ahead
            if ahead.unsampled <= 0:
                return None
            ahead.unsampled -= 1
        try:
            ordinals, scores = search.one(queries)
            if self._may_be_copies and (scores[0, 0] == scores[0, 1] or scores[0, -2] == scores[0, -1]):
                self._beyond_copies(queries, ordinals, scores, None)
        except index.DoubtfulError:
            return None
        return ordinals, scores

    def _found(
        self, queries: F32, vectors: RecordFile | None, work: index.Work | None
    ) -> tuple[NDArray[np.int32], F32]:
        """`nearest` without ``score_threshold``. Raises DoubtfulError."""
        search = self.search
        if vectors is None:
            ordinals, scores = search.nearest(queries, self.options.workers, None, work)
        else:
            vectors.check_size(search.data.n)
            ordinals, scores = self._from_disk(queries, vectors, work)
        if self._may_be_copies and (len(queries) > 1 or scores[0, 0] == scores[0, 1] or scores[0, -2] == scores[0, -1]):
            self._beyond_copies(queries, ordinals, scores, work)
        return ordinals, scores

    def _found_of_doubtful(self, queries: F32, work: index.Work | None) -> tuple[NDArray[np.int32], F32]:
        """`nearest` of queries that a kernel refused: under dot, short ones are scaled up. Raises InvalidInputError.

        Kernels add up squares in float32, in another order than the checks: a length next to a limit may pass one and
        fail the other.
        """
        distance = self.options.distance
        check_queries(queries, distance)
        if distance == "cosine" and not queries.any(axis=1).all():
            return self._without_direction(queries, work)
        longer, exponents = lengthened(queries, distance)
        try:
            ordinals, scores = self._found(longer, self.vectors, work)
        except index.DoubtfulError:
            check_queries(queries, distance, doubt=1e-3)
            raise
        return ordinals, np.ldexp(scores, -exponents[:, None])

    def _without_direction(self, queries: F32, work: index.Work | None) -> tuple[NDArray[np.int32], F32]:
        """`nearest` of queries some of which are zero vectors: under cosine, all documents have a score of 0 for these.

        A zero vector finds the first documents that match, in the order in which they were added.
        """
        zero = ~queries.any(axis=1)
        ordinals = np.full((len(queries), self.options.k), -1, np.int32)
        scores = np.full(ordinals.shape, np.nan, np.float32)
        if not zero.all():
            some = np.ascontiguousarray(queries[~zero])
            try:
                found = self._found(some, self.vectors, work)
            except index.DoubtfulError:
                found = self._found_of_doubtful(some, work)
            ordinals[~zero], scores[~zero] = found
        elif work is not None:
            work.way = "exact"
        first = self._first(self.options.k)
        ordinals[zero, : len(first)], scores[zero, : len(first)] = first, 0
        return ordinals, scores

    def _first(self, k: int) -> NDArray[np.int64]:
        """The first k ordinals that may be found."""
        return self._accept.ordinals()[:k] if self._accept is not None else np.arange(min(k, self._n))

    def _beyond_copies(self, queries: F32, ordinals: NDArray[np.int32], scores: F32, work: index.Work | None) -> None:
        """Duplicate-heavy collections: if the top hits are copies of one or two vectors, widen the candidate list.

        Copies take the places of other candidates, so too few different vectors were compared by their originals. The
        first k of the wider search replace the hits, in place.
        """
        k = self.options.k
        few = 2 if k >= 8 else 1
        rows, hits = np.arange(len(scores)), scores
        for factor in (8, 64):
            rows = rows[(hits[:, 1:] != hits[:, :-1]).sum(1) < few]
            if not rows.size or factor * k > min(self._accepted, MAX_K):
                return
            if factor not in self._wider:
                self._wider[factor] = self._made(factor * k)
            some = np.ascontiguousarray(queries[rows])
            more = None if work is None else index.Work()
            found, hits = self._wider[factor].nearest(some, self.options.workers, None, more)
            if work is not None and more is not None:
                work.add(more)
            good = hits[:, k - 1] >= scores[rows, -1]
            ordinals[rows[good]], scores[rows[good]] = found[good, :k], hits[good, :k]

    def _from_disk(self, queries: F32, vectors: RecordFile, work: index.Work | None) -> tuple[NDArray[np.int32], F32]:
        """`nearest`, with read-ahead of the originals while reading them still waits for the disk."""
        search, workers, ahead = self.search, self.options.workers, vectors.read_ahead
        if not search.plan.rescoring:
            return search.nearest(queries, workers, None, work)
        first = min(ahead.left, len(queries))  # of a batch, the first read ahead also for the rest
        before = ahead.begin(len(queries))
        if first == 0:
            found = search.nearest(queries, workers, None, work)
        elif first == len(queries):
            found = search.nearest(queries, workers, vectors.prefetch, work)
        else:
            one = search.nearest(queries[:first], workers, vectors.prefetch, work)
            two = search.nearest(queries[first:], workers, None, work)
            found = np.concatenate([one[0], two[0]]), np.concatenate([one[1], two[1]])
        ahead.end(before)
        return found


def unfiltered(state: State, options: Options) -> PreparedSearch:
    """A search of all that is live."""
    accept = None if state.head.n_live == state.n else Matches(state.n, state.live_bits)
    return PreparedSearch(state, accept, options)


def _above(ordinals: NDArray[np.int32], scores: F32, least: float) -> tuple[NDArray[np.int32], F32]:
    """Those that have a score of at least ``least``, in place."""
    low = ~(scores.astype(np.float64) >= least)  # as a caller compares `Hit.score`
    ordinals[low], scores[low] = -1, np.nan
    return ordinals, scores
