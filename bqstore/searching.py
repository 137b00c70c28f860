"""A search, from checked queries to hits: which documents may be found, which way, and what is read of them. Floor 3.

Arrays meet rows here and nowhere else.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import filters, index
from .config import AUTO, MAX_DIM, MAX_K, HnswConfig, SearchParams, check_bool, check_int, check_real
from .documents import metadata_of
from .errors import InvalidInputError
from .published import Published
from .results import ExplainedHits, Explanation, Hit
from .state import State
from .storage.files import RecordFile
from .validate import check_dim, check_queries

F32 = NDArray[np.float32]
_KEPT = 256  # ways to search that a state remembers: settings are few, but a loop may try many, and filters


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of one call, checked.

    Parameters
    ----------
    exact : bool        scan the originals; also for ``ignore_quantization``, which differs only where a graph is walked
    originals : bool    whether the collection keeps any
    adaptive : bool     under a filter, more candidates may be looked at: where ``oversampling`` was not asked for
    query_encoding : str as in `Quantization`: "auto" is what the codes of the state suggest
    """

    k: int
    params: SearchParams
    exact: bool
    originals: bool
    hnsw: HnswConfig
    query_encoding: str
    distance: str
    score_threshold: float | None = None
    with_vectors: bool = False
    threads: int = 1
    adaptive: bool = True


def options_of(
    defaults: SearchParams,
    originals: bool,
    hnsw: HnswConfig,
    query_encoding: str,
    distance: str,
    k: int,
    oversampling: float | None,
    rescore: bool | None,
    hnsw_ef: int | None,
    exact: bool,
    ignore_quantization: bool,
    score_threshold: float | None,
    with_vectors: bool,
    threads: int,
) -> Options:
    """The settings of a call with the collection's defaults filled in; InvalidInputError for what cannot be."""
    params = defaults
    if not (oversampling is None and rescore is None and hnsw_ef is None):
        params = SearchParams(
            defaults.oversampling if oversampling is None else oversampling,
            defaults.rescore if rescore is None else rescore,
            defaults.hnsw_ef if hnsw_ef is None else hnsw_ef,
        )
    if score_threshold is not None:
        score_threshold = check_real("score_threshold", score_threshold, "a finite number")
    exact = check_bool("exact", exact) | check_bool("ignore_quantization", ignore_quantization)
    with_vectors = check_bool("with_vectors", with_vectors)
    if not originals:
        for name, wanted in (
            ("exact or ignore_quantization", exact),
            ("rescore=True", rescore),
            ("with_vectors=True", with_vectors),
        ):
            if wanted:
                raise no_originals(name)
    k = check_int("k", k, 1, MAX_K)
    return Options(
        k,
        params,
        exact,
        originals,
        hnsw,
        query_encoding,
        distance,
        score_threshold,
        with_vectors,
        threads,
        adaptive=oversampling is None,
    )


def no_originals(what: str) -> InvalidInputError:
    """The error for what a collection without originals cannot do."""
    return InvalidInputError(f"{what} needs the originals; this collection keeps none (originals='none')")


class Ready:
    """A search of one state with one set of options, all that does not depend on the query done beforehand."""

    __slots__ = (
        "_accept",
        "_accepted",
        "_copies_tell",
        "_filtered",
        "_n",
        "_wider",
        "live",
        "nothing",
        "options",
        "quantization",
        "search",
        "vectors",
    )

    def __init__(
        self,
        state: State,
        accept: NDArray[np.uint64] | None,
        accepted: int,
        options: Options,
        filtered: bool = False,
    ) -> None:
        self.options, data = options, state.data
        self.live = state.head.n_live
        self.vectors = state.vectors
        self.nothing = data is None or accepted == 0
        if data is None or self.nothing:
            return
        self.quantization = data.quantizer.resolved(options.query_encoding)
        self._accept, self._accepted, self._filtered, self._n = accept, accepted, filtered, state.n
        self._wider: dict[int, index.Search] = {}
        self.search = self._made(data, options.k)
        # beside k copies of one vector the bits' next best may not have been looked at
        plan = self.search.plan
        self._copies_tell = options.adaptive and plan.rescoring and 1 < options.k <= plan.candidates < accepted

    def _made(self, data: index.Searchable, k: int) -> index.Search:
        """The search of k."""
        options, arrays = self.options, data.quantizer.arrays
        planes = index.ENCODINGS[self.quantization.query_encoding]
        way = index.plan(
            n=self._n,
            linked=data.linked,
            alike=data.alike,
            accepted=self._accepted,
            dim=data.dim,
            k=k,
            oversampling=options.params.oversampling,
            rescore=options.params.rescore,
            hnsw_ef=options.params.hnsw_ef,
            planes=planes,
            bits=arrays.bits,
            width=arrays.width,
            m=options.hnsw.m,
            ef_construct=options.hnsw.ef_construct,
            exact=options.exact,
            full_scan_threshold=options.hnsw.full_scan_threshold,
            originals=options.originals,
            filtered=self._filtered,
            adaptive=options.adaptive,
            signs=planes == 1 and data.quantizer.estimator == "sign",
        )
        return index.Search(data, self._accept, self._accepted, k, way, planes)

    def nearest(
        self, queries: F32, executor: Callable[[], Executor], work: index.Work | None = None
    ) -> tuple[NDArray[np.int32], F32]:
        """Ordinals int32 (m, k) padded with -1, scores float32 (m, k) padded with NaN."""
        options, vectors = self.options, self.vectors
        if self.nothing or not len(queries):
            shape = (len(queries), options.k)
            return np.full(shape, -1, np.int32), np.full(shape, np.nan, np.float32)
        search = self.search
        data = search.data
        if queries.shape[1] != data.dim:
            check_dim(queries.shape[1], data.dim, "the query vector", MAX_DIM)
        try:
            if vectors is None:
                ordinals, scores = search.nearest(queries, options.threads, executor, None, work)
            else:
                vectors.check_size(data.n)
                ahead = vectors.read_ahead
                if ahead.unsampled > 0 and len(queries) == 1 and work is None:  # the way of every hot loop
                    ahead.unsampled -= 1
                    ordinals, scores = search.one(queries)
                else:
                    ordinals, scores = self._from_disk(queries, vectors, executor, work)
        except index.DoubtfulError:
            check_queries(queries, options.distance)
            raise
        if self._copies_tell and (len(queries) > 1 or scores[0, 0] == scores[0, 1] or scores[0, -2] == scores[0, -1]):
            self._beyond_copies(queries, ordinals, scores, executor, work)
        if options.score_threshold is not None:
            low = ~(scores.astype(np.float64) >= options.score_threshold)  # as a caller compares `Hit.score`
            ordinals[low], scores[low] = -1, np.nan
        return ordinals, scores

    def _beyond_copies(
        self,
        queries: F32,
        ordinals: NDArray[np.int32],
        scores: F32,
        executor: Callable[[], Executor],
        work: index.Work | None,
    ) -> None:
        """Ask for more where the hits are copies of one vector or two, and keep the first k.

        So it is where a document was added again and again. Where most candidates are copies, few vectors were compared
        by their originals, and which ones the bits have said.
        """
        k, data = self.options.k, self.search.data
        few = 2 if k >= 8 else 1
        rows, hits = np.arange(len(scores)), scores
        for factor in (8, 64):
            rows = rows[(hits[:, 1:] != hits[:, :-1]).sum(1) < few]
            if not rows.size or factor * k > min(self._accepted, MAX_K):
                return
            if factor not in self._wider:
                self._wider[factor] = self._made(data, factor * k)
            some = np.ascontiguousarray(queries[rows])
            more = None if work is None else index.Work()
            found, hits = self._wider[factor].nearest(some, self.options.threads, executor, None, more)
            if work is not None and more is not None:
                work.add(more)
            good = hits[:, k - 1] >= scores[rows, -1]
            ordinals[rows[good]], scores[rows[good]] = found[good, :k], hits[good, :k]

    def _from_disk(
        self, queries: F32, vectors: RecordFile, executor: Callable[[], Executor], work: index.Work | None
    ) -> tuple[NDArray[np.int32], F32]:
        """`nearest`, with a look at whether the originals must be waited for."""
        search, threads, ahead = self.search, self.options.threads, vectors.read_ahead
        if not search.plan.rescoring:
            return search.nearest(queries, threads, executor, None, work)
        first = min(ahead.left, len(queries))  # these ask ahead; by then a large batch has warmed what it reads
        before = ahead.begin(len(queries))
        if first == 0:
            found = search.nearest(queries, threads, executor, None, work)
        elif first == len(queries):
            found = search.nearest(queries, threads, executor, vectors.prefetch, work)
        else:
            one = search.nearest(queries[:first], threads, executor, vectors.prefetch, work)
            two = search.nearest(queries[first:], threads, executor, None, work)
            found = np.concatenate([one[0], two[0]]), np.concatenate([one[1], two[1]])
        ahead.end(before)
        return found


def ready(published: Published, state: State, tree: filters.Tree | None, options: Options) -> tuple[State, Ready]:
    """The state that is to be searched, and how; kept with the state for the next call with the same options."""
    key = id(options) if tree is None else (id(options), tree)
    known: Ready | None = state.ready.get(key)
    if known is not None and known.options is options:
        return state, known
    if tree is None:
        accept = None if state.head.n_live == state.n else state.live_bits
        made = Ready(state, accept, state.head.n_live, options)
    else:
        state, bits, accepted = published.accepted(state, tree)
        made = Ready(state, bits if accepted < state.n else None, accepted, options, accepted < state.head.n_live)
    if not isinstance(tree, filters.Call):  # what a function says may be another thing the next time
        if len(state.ready) >= _KEPT:
            state.ready.clear()
        state.ready[key] = made
    return state, made


def hits(
    published: Published,
    queries: F32,
    tree: filters.Tree | None,
    options: Options,
    executor: Callable[[], Executor],
    explain: bool = False,
) -> list[list[Hit]]:
    """The hits of each query, from one state and the documents as they were in it."""

    def answer(state: State) -> list[list[Hit]]:
        state, way = ready(published, state, tree, options)
        work = index.Work() if explain else None
        ordinals, scores = way.nearest(queries, executor, work)
        found = ordinals[ordinals >= 0]
        if len(queries) > 1:
            found = np.unique(found)
        rows = published.rows(state, found)
        vectors = published.vectors(state, found) if options.with_vectors else {}
        out: list[list[Hit]] = []
        for line, values in zip(ordinals.tolist(), scores.tolist(), strict=True):
            out.append([])
            for ordinal, score in zip(line, values, strict=True):
                if ordinal < 0:
                    break
                row = rows[ordinal]
                vector = vectors[ordinal].copy() if options.with_vectors else None  # each hit has its own
                out[-1].append(Hit(row.id, score, row.text, metadata_of(row), vector))
        return [_explained(found, way, work) for found in out] if work is not None else out

    return published.whole(answer)


def _explained(found: list[Hit], way: Ready, work: index.Work) -> ExplainedHits:
    """Hits with what was done to find them; an empty collection is an exact scan of nothing."""
    out = ExplainedHits(found)
    if way.nothing:
        asked = way.options.query_encoding
        out.explanation = Explanation(
            "exact", "binary" if asked == AUTO else asked, 0, 0, 0, 0, 0, 0, 0, 0, 0.0 if way.live else 1.0
        )
        return out
    search, walked = way.search, work.way == "walk"
    linked = search.data.linked
    out.explanation = Explanation(
        way=work.way,
        query_encoding=way.quantization.query_encoding,
        hnsw_ef=search.plan.ef if walked else 0,
        candidates=search.plan.candidates,
        accepted=search.accepted,
        linked=linked,
        tail=search.data.n - linked if walked else 0,
        distances=work.distances,
        hops=work.hops,
        rescored=work.rescored,
        selectivity=search.accepted / way.live,
        truncate_dim=way.quantization.truncate_dim,
    )
    return out
