"""A search, from a checked query to hits: which documents may be found, which way, and what is read of them.

Arrays meet rows here and nowhere else.
"""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .. import index
from ..config import AUTO, MAX_K
from ..metadata.documents import metadata_of
from ..metadata.filter_grammar import Call, Tree
from ..results import ExplainedHits, Explanation, Hit
from ..storage.files import RecordFile
from ..validate import check_dim, check_queries
from . import fetch
from .options import Options
from .state import State

if TYPE_CHECKING:
    from .engine import Engine

F32 = NDArray[np.float32]
_KEPT = 256  # prepared searches that a state remembers: settings are few, but a loop may try many, and filters


class PreparedSearch:
    """A search of one state with one set of options, all that does not depend on the query done beforehand."""

    __slots__ = (
        "_accepted",
        "_copies_tell",
        "_made",
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
        planes = index.ENCODINGS[self.quantization.query_encoding]
        arrays, hnsw, params = data.quantizer.arrays, options.hnsw, options.params
        plan_of = partial(
            index.plan,
            n=state.n,
            linked=data.linked,
            alike=data.alike,
            accepted=accepted,
            dim=data.dim,
            oversampling=params.oversampling,
            rescore=params.rescore,
            hnsw_ef=params.hnsw_ef,
            planes=planes,
            bits=arrays.bits,
            width=arrays.width,
            m=hnsw.m,
            ef_construct=hnsw.ef_construct,
            exact=options.exact,
            full_scan_threshold=hnsw.full_scan_threshold,
            originals=options.originals,
            filtered=filtered,
            adaptive=options.adaptive,
            signs=planes == 1 and data.quantizer.estimator == "sign",
        )

        def made(k: int) -> index.Search:
            return index.Search(data, accept, accepted, k, plan_of(k=k), planes)

        self._made, self._accepted = made, accepted
        self._wider: dict[int, index.Search] = {}
        self.search = made(options.k)
        # beside k copies of one vector the bits' next best may not have been looked at
        plan = self.search.plan
        self._copies_tell = options.adaptive and plan.rescoring and 1 < options.k <= plan.candidates < accepted

    def nearest(self, queries: F32, work: index.Work | None = None) -> tuple[NDArray[np.int32], F32]:
        """Ordinals int32 (m, k) padded with -1, scores float32 (m, k) padded with NaN."""
        options, vectors = self.options, self.vectors
        if self.nothing or not len(queries):
            shape = (len(queries), options.k)
            return np.full(shape, -1, np.int32), np.full(shape, np.nan, np.float32)
        search = self.search
        data = search.data
        if queries.shape[1] != data.dim:
            check_dim(queries.shape[1], data.dim, "the query vector")
        try:
            if vectors is None:
                ordinals, scores = search.nearest(queries, options.workers, None, work)
            else:
                vectors.check_size(data.n)
                ahead = vectors.read_ahead
                if ahead.unsampled > 0 and len(queries) == 1 and work is None:  # the way of every hot loop
                    ahead.unsampled -= 1
                    ordinals, scores = search.one(queries)
                else:
                    ordinals, scores = self._from_disk(queries, vectors, work)
        except index.DoubtfulError:
            check_queries(queries, options.distance)
            raise
        if self._copies_tell and (len(queries) > 1 or scores[0, 0] == scores[0, 1] or scores[0, -2] == scores[0, -1]):
            self._beyond_copies(queries, ordinals, scores, work)
        if options.score_threshold is not None:
            low = ~(scores.astype(np.float64) >= options.score_threshold)  # as a caller compares `Hit.score`
            ordinals[low], scores[low] = -1, np.nan
        return ordinals, scores

    def _beyond_copies(self, queries: F32, ordinals: NDArray[np.int32], scores: F32, work: index.Work | None) -> None:
        """Ask for more where the hits are copies of one vector or two, and keep the first k.

        So it is where a document was added again and again. Where most candidates are copies, few vectors were compared
        by their originals, and which ones the bits have said.
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
        """`nearest`, with a look at whether the originals must be waited for."""
        search, workers, ahead = self.search, self.options.workers, vectors.read_ahead
        if not search.plan.rescoring:
            return search.nearest(queries, workers, None, work)
        first = min(ahead.left, len(queries))  # these ask ahead; by then a large batch has warmed what it reads
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


def prepared(engine: "Engine", state: State, tree: Tree | None, options: Options) -> tuple[State, PreparedSearch]:
    """The state to be searched, and how; kept with the state for the next call with the same options."""
    key = id(options) if tree is None else (id(options), tree)
    known: PreparedSearch | None = state.prepared.get(key)
    if known is not None and known.options is options:
        return state, known
    if tree is None:
        made = unfiltered(state, options)
    else:
        state, bits, accepted = engine.acceptor.accepted(state, tree)
        accept = bits if accepted < state.n else None
        made = PreparedSearch(state, accept, accepted, options, accepted < state.head.n_live)
    if not isinstance(tree, Call):  # what a function says may be another thing the next time
        if len(state.prepared) >= _KEPT:
            state.prepared.clear()
        state.prepared[key] = made
    return state, made


def unfiltered(state: State, options: Options) -> PreparedSearch:
    """A search of all that is live."""
    accept = None if state.head.n_live == state.n else state.live_bits
    return PreparedSearch(state, accept, state.head.n_live, options)


def ids(engine: "Engine", queries: F32, tree: Tree | None, options: Options) -> tuple[NDArray[np.object_], F32]:
    """The ids of the hits of each query, and their scores; no document is read."""
    state, way = prepared(engine, engine.acceptor.with_ids(), tree, options)
    ordinals, scores = way.nearest(queries)
    assert state.ids is not None
    return state.ids.take(ordinals), scores


def hits(engine: "Engine", queries: F32, tree: Tree | None, options: Options, explain: bool = False) -> list[list[Hit]]:
    """The hits of each query, from one state and the documents as they were in it."""

    def answer(state: State) -> list[list[Hit]]:
        state, way = prepared(engine, state, tree, options)
        work = index.Work() if explain else None
        ordinals, scores = way.nearest(queries, work)
        found = ordinals[ordinals >= 0]
        if len(queries) > 1:
            found = np.unique(found)
        rows = fetch.rows(engine.store, state, found)
        vectors = fetch.vectors(state, found) if options.with_vectors else {}
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

    return engine.publisher.whole(answer)


def _explained(found: list[Hit], way: PreparedSearch, work: index.Work) -> ExplainedHits:
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
