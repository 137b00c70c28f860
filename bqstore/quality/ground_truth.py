"""Ground truth: queries with the exact scores of their true nearest, and how many of these a search finds.

A document that is held out as a query must not be found, and its node must not be used by the walk either: its links
lead straight to its neighbors, so that a walk along them misses only a third as many as for a new query (measured on
three models). While a document is the query its node is hidden; recall is then within a few tenths of a point of that
of new queries.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .. import index
from ..bitmap import Matches, to_bitmap
from ..config import Quantization
from ..engine import fetch
from ..engine.engine import Engine
from ..engine.options import Options, no_originals
from ..engine.prepared_search import PreparedSearch, unfiltered
from ..engine.state import State
from ..errors import InvalidInputError
from ..index.planner import EXACT, WALK
from ..index.scratch import ScratchPool
from ..progress import Progress

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Mask = NDArray[np.bool_]

_EXACTLY = index.Plan(EXACT, False, 0)
_PIECE = 32 << 20  # bytes of originals that are read at a time, for all queries
_ROUNDS = 2000  # of the bootstrap
_SEED = 0x6271_7374


@dataclass(frozen=True)
class GroundTruth:
    """Queries, and what exact search finds for them in one state.

    Parameters
    ----------
    queries : float32 (m, dim)
    ordinals : int64 (m,) or None   of the held-out documents that the queries are; None for other queries
    scores : float32 (m, size)      of the true nearest, nearest first, without the held-out document itself
    nearest : int32 (m, size)       their ordinals
    """

    queries: F32
    ordinals: I64 | None
    scores: F32
    nearest: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def size(self) -> int:
        """How many hits each query has to find: k, or all other documents if they are fewer."""
        return int(self.scores.shape[1])

    def part(self, rows: slice) -> "GroundTruth":
        """The ground truth of some of the queries."""
        own = None if self.ordinals is None else self.ordinals[rows]
        return GroundTruth(self.queries[rows], own, self.scores[rows], self.nearest[rows])

    def first(self, k: int) -> "GroundTruth":
        """The ground truth for the k nearest."""
        return replace(self, scores=self.scores[:, :k], nearest=self.nearest[:, :k])


def measurable(engine: Engine, what: str) -> tuple[State, Quantization]:
    """The current state, with scratch memory of its own, and its quantization with nothing "auto".

    Raises InvalidInputError, which names ``what`` was called, if no originals are kept or there are not two documents.
    """
    state = engine.publisher.current()
    if not engine.keeps_originals:
        raise no_originals(what)
    if state.data is None or state.head.n_live < 2:
        raise InvalidInputError(
            f"{what} needs at least 2 documents to compare searches with exact search; this collection has "
            f"{state.head.n_live}: add some first"
        )
    data = replace(state.data, pool=ScratchPool())
    return replace(state, data=data), data.quantizer.resolved(engine.query_encoding)


def hold_out(state: State, count: int) -> tuple[F32, I64]:
    """Pick up to ``count`` live documents at random, the same every time: float32 (m, dim), and ordinals, int64 (m,).

    Where there is a graph, only nodes of its lowest level are picked, as all but one in m are: no walk begins at one.
    """
    candidates = state.live.copy()
    if state.data is not None and state.data.graph is not None:
        linked = state.data.linked
        candidates[:linked] &= state.data.graph.first[:linked] < 0
    ordinals: I64 = np.random.default_rng(_SEED).permutation(np.flatnonzero(candidates))[:count].astype(np.int64)
    vectors = fetch.vectors(state, np.sort(ordinals))
    found = np.stack([vectors[ordinal] for ordinal in ordinals.tolist()])
    if state.head.settings["distance"] != "cosine":
        return found, ordinals
    some = found.any(axis=1)  # all documents are equally near to a zero vector
    if not some.any():
        raise InvalidInputError("the documents picked are zero vectors, to which all are as near; give queries")
    return np.ascontiguousarray(found[some]), ordinals[some]


def exact_search(
    state: State,
    queries: F32,
    own: I64 | None,
    k: int,
    workers: index.Workers,
    each_piece: Callable[[], None] | None = None,
    among: Mask | None = None,
) -> GroundTruth:
    """Find the true nearest of queries by the originals, which are read once, in pieces, every record checked.

    Parameters
    ----------
    own : int64 (m,) or None    the ordinals of the documents that the queries are
    each_piece : callable       called after each piece, in place of showing progress
    among : bool (n,)           what may be found; None: all that is live
    """
    data = state.data
    assert data is not None
    among = state.live if among is None else among
    size = min(k, int(np.count_nonzero(among)) - (own is not None))
    wanted = size + (own is not None)  # the document itself is among them, and removed at the end
    scores = np.full((len(queries), wanted), -np.inf, np.float32)
    ordinals = np.full((len(queries), wanted), -1, np.int32)
    step = max(64, _PIECE // (4 * data.records.shape[1]) & ~63)
    with Progress("searching exactly", state.n) as progress:
        for at in range(0, state.n, step):
            mask = np.zeros(state.n, bool)
            mask[at : at + step] = among[at : at + step]
            accepted = int(np.count_nonzero(mask))
            if accepted:
                search = index.Search(data, to_bitmap(mask), accepted, wanted, _EXACTLY, 1)
                near, values = search.nearest(queries, workers)
                values = np.concatenate([scores, np.where(near < 0, np.float32(-np.inf), values)], axis=1)
                best = np.argsort(-values, axis=1, kind="stable")[:, :wanted]
                scores = np.take_along_axis(values, best, 1)
                ordinals = np.take_along_axis(np.concatenate([ordinals, near], axis=1), best, 1)
            if each_piece is None:
                progress(min(at + step, state.n))
            else:
                each_piece()
    if own is not None:  # drop the document itself, moved to the end; or the last of the copies that displaced it
        others = np.argsort(ordinals == own[:, None], axis=1, kind="stable")[:, :size]
        scores, ordinals = np.take_along_axis(scores, others, 1), np.take_along_axis(ordinals, others, 1)
    return GroundTruth(queries, own, scores, ordinals)


def count_found(state: State, truth: GroundTruth, options: Options) -> I64:
    """How many of the true nearest a search finds for each query: int64 (m,), at most ``truth.size``.

    A hit counts if its exact score is at least that of the last true hit, so that ties count.
    """
    least = truth.scores[:, -1:]
    if truth.ordinals is None:
        return _count_near(unfiltered(state, options), truth.queries, least)
    counts = np.zeros(len(truth), np.int64)
    data, options, live = state.data, replace(options, workers=index.ALONE), to_bitmap(state.live)
    assert data is not None
    for i, own in enumerate(truth.ordinals.tolist()):
        row = slice(i, i + 1)
        accept = live.copy()
        accept[own >> 6] &= ~(np.uint64(1) << np.uint64(own & 63))
        prepared = PreparedSearch(state, Matches(state.n, accept), options)
        # the first of several documents with equal codes has the links of all: without it another one would have them
        walks = data.graph is not None and prepared.search.plan.way == WALK and own < data.linked
        if walks and data.graph is not None and data.graph.same[own] < 0:
            prepared.search.hide(own)
        counts[row] = _count_near(prepared, truth.queries[row], least[row])
    return counts


def _count_near(prepared: PreparedSearch, queries: F32, least: F32) -> I64:
    """How many hits of each query have at least the exact score in ``least``, float32 (m, 1)."""
    ordinals, scores = prepared.nearest(queries)
    if not (prepared.search.plan.rescoring or prepared.search.plan.way == EXACT):  # the scores are estimates
        for i, row in enumerate(ordinals):
            scores[i] = exact_scores(prepared.search.data, queries[i : i + 1], row[row >= 0], len(row))
    counts: I64 = np.count_nonzero(scores >= least, axis=1)
    return counts


def exact_scores(data: index.Searchable, query: F32, ordinals: NDArray[np.int32], size: int) -> F32:
    """The exact scores of documents for one query, float32 (size,), best first, padded with NaN."""
    mask = np.zeros(data.n, bool)
    mask[ordinals] = True
    search = index.Search(data, to_bitmap(mask), len(ordinals), size, _EXACTLY, 1)
    scores: F32 = search.nearest(query, index.ALONE)[1][0]
    return scores


def milliseconds(prepared: PreparedSearch, queries: F32) -> F64:
    """The time of each query, alone, in this thread: float64 (m,)."""
    out = np.empty(len(queries))
    for i in range(len(queries)):
        query = queries[i : i + 1]
        begun = time.perf_counter_ns()
        prepared.nearest(query)
        out[i] = (time.perf_counter_ns() - begun) / 1e6
    return out


def interval(counts: I64, size: int) -> tuple[float, float, float]:
    """Recall over all queries, and its 95% confidence interval, from how many of ``size`` hits each query found.

    By a bootstrap over queries with a fixed seed. As m queries without a miss do not show how many rare queries miss,
    neither end comes nearer to 1 or 0 than `highest_bound` of m.
    """
    m = len(counts)
    values, numbers = np.unique(counts, return_counts=True)
    # a draw of m queries with replacement is a draw of how often each count comes
    draws = np.random.default_rng(_SEED).multinomial(m, numbers / m, _ROUNDS)
    low, high = np.quantile(draws @ values, [0.025, 0.975]) / (m * size)
    bound = highest_bound(m)
    return float(counts.sum() / (m * size)), float(min(low, bound)), float(max(high, 1 - bound))


def highest_bound(m: int) -> float:
    """The highest lower bound that m queries can show with 95% confidence, by the "rule of three": 0.05 ** (1 / m)."""
    return float(0.05 ** (1 / m))
