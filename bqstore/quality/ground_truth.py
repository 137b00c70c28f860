"""What searches ought to find, and how much of it they do: held-out queries, exact answers, intervals, times. Floor 3.

A document that is held out asks about itself: it is never its own neighbor, and the graph must not know it either. Its
own links lead straight to its neighbors, so that a walk that may follow them misses a third of what it misses for a new
query (measured on three models); here they are cut while it asks, which comes within a few tenths of a point.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .. import index
from ..bitmap import to_bitmap
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

_EXACTLY = index.Plan(EXACT, False, 0)
_PIECE = 32 << 20  # bytes of originals that all queries pass over before the next are read
_ROUNDS = 2000  # of the bootstrap
_SEED = 0x6271_7374


@dataclass(frozen=True)
class Exam:
    """Queries, and what exact search finds for them in one state.

    Parameters
    ----------
    vectors : float32 (m, dim)
    own : int64 (m,) or None    the ordinals of the documents that the queries are; None for queries that are none
    scores : float32 (m, size)  of the true nearest, nearest first; a document's own left out
    """

    vectors: F32
    own: I64 | None
    scores: F32

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def size(self) -> int:
        """Hits that there are to find for each query: k, or all other documents if they are fewer."""
        return int(self.scores.shape[1])

    def part(self, rows: slice) -> "Exam":
        """Some of the queries."""
        return Exam(self.vectors[rows], None if self.own is None else self.own[rows], self.scores[rows])


def measurable(engine: Engine, what: str) -> tuple[State, Quantization]:
    """The present state, with working memory of its own, and how its codes are made and queries encoded.

    Raises InvalidInputError if there is nothing to measure.
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
    return replace(state, data=data), data.quantizer.resolved(engine.encoder.wanted.query_encoding)


def held_out(state: State, count: int) -> tuple[F32, I64]:
    """Up to ``count`` live documents, picked at random, the same every time: float32 (m, dim), and ordinals, int64.

    Where there is a graph they are nodes of its lowest level, as all but one in m are: a walk never begins at one.
    """
    low = state.live.copy()
    if state.data is not None and state.data.graph is not None:
        linked = state.data.linked
        low[:linked] &= state.data.graph.first[:linked] < 0
    own: I64 = np.random.default_rng(_SEED).permutation(np.flatnonzero(low))[:count].astype(np.int64)
    vectors = fetch.vectors(state, np.sort(own))
    return np.stack([vectors[ordinal] for ordinal in own.tolist()]), own


def examine(state: State, vectors: F32, own: I64 | None, k: int, workers: index.Workers) -> Exam:
    """The true nearest of queries by the originals, which are read once, in pieces, every record checked."""
    data = state.data
    assert data is not None
    size = min(k, state.head.n_live - (own is not None))
    wanted = size + (own is not None)  # the document itself is among them, and left out at the end
    scores = np.full((len(vectors), wanted), -np.inf, np.float32)
    ordinals = np.full((len(vectors), wanted), -1, np.int32)
    step = max(64, _PIECE // (4 * data.records.shape[1]) & ~63)
    with Progress("searching exactly", state.n) as progress:
        for at in range(0, state.n, step):
            mask = np.zeros(state.n, bool)
            mask[at : at + step] = state.live[at : at + step]
            accepted = int(np.count_nonzero(mask))
            if accepted:
                way = index.Search(data, to_bitmap(mask), accepted, wanted, _EXACTLY, 1)
                near, values = way.nearest(vectors, workers)
                values = np.concatenate([scores, np.where(near < 0, np.float32(-np.inf), values)], axis=1)
                best = np.argsort(-values, axis=1, kind="stable")[:, :wanted]
                scores = np.take_along_axis(values, best, 1)
                ordinals = np.take_along_axis(np.concatenate([ordinals, near], axis=1), best, 1)
            progress(min(at + step, state.n))
    if own is not None:  # to the end with it, and off; where it is beyond the last, behind as many as near, the last
        others = np.argsort(ordinals == own[:, None], axis=1, kind="stable")[:, :size]
        scores = np.take_along_axis(scores, others, 1)
    return Exam(vectors, own, scores)


def found(state: State, exam: Exam, options: Options) -> I64:
    """How many of the true nearest a search finds for each query: int64 (m,), at most ``exam.size``.

    A hit counts if its exact score is at least that of the last true one: of documents that are as near, any will do.
    """
    least = exam.scores[:, -1:]
    if exam.own is None:
        return _as_near(unfiltered(state, options), exam.vectors, least)
    counts = np.zeros(len(exam), np.int64)
    data, options, live = state.data, replace(options, workers=index.ALONE), to_bitmap(state.live)
    assert data is not None
    graph = data.graph
    if graph is not None and unfiltered(state, options).search.plan.way == WALK:
        graph = graph._replace(links=graph.links.copy())
        state = replace(state, data=replace(data, graph=graph))
    for i, own in enumerate(exam.own.tolist()):
        row = slice(i, i + 1)
        accept = live.copy()
        accept[own >> 6] &= ~(np.uint64(1) << np.uint64(own & 63))
        way = PreparedSearch(state, accept, state.head.n_live - 1, options)
        # of documents with equal codes the first has the links of all: they would be there without it
        if graph is None or way.search.plan.way != WALK or own >= data.linked or graph.same[own] >= 0:
            counts[row] = _as_near(way, exam.vectors[row], least[row])
        else:
            links = graph.links[own].copy()
            graph.links[own] = -1
            counts[row] = _as_near(way, exam.vectors[row], least[row])
            graph.links[own] = links
    return counts


def _as_near(way: PreparedSearch, vectors: F32, least: F32) -> I64:
    """How many hits of each query have at least the score in ``least``, float32 (m, 1)."""
    ordinals, scores = way.nearest(vectors)
    if not (way.search.plan.rescoring or way.search.plan.way == EXACT):  # those of the codes
        for i, row in enumerate(ordinals):
            scores[i] = exact_scores(way.search.data, vectors[i : i + 1], row[row >= 0], len(row))
    counts: I64 = np.count_nonzero(scores >= least, axis=1)
    return counts


def exact_scores(data: index.Searchable, query: F32, ordinals: NDArray[np.int32], size: int) -> F32:
    """The exact scores of documents for one query, float32 (size,), best first, padded with NaN."""
    mask = np.zeros(data.n, bool)
    mask[ordinals] = True
    way = index.Search(data, to_bitmap(mask), len(ordinals), size, _EXACTLY, 1)
    scores: F32 = way.nearest(query, index.ALONE)[1][0]
    return scores


def milliseconds(way: PreparedSearch, vectors: F32) -> F64:
    """What each query takes, alone, in this thread: float64 (m,)."""
    out = np.empty(len(vectors))
    for i in range(len(vectors)):
        query = vectors[i : i + 1]
        begun = time.perf_counter_ns()
        way.nearest(query)
        out[i] = (time.perf_counter_ns() - begun) / 1e6
    return out


def interval(counts: I64, size: int) -> tuple[float, float, float]:
    """Recall over all queries, and its 95% confidence interval, from how many of ``size`` hits each one found.

    By a bootstrap over queries, in the same way every time. As m queries that all went well, or all badly, say nothing
    of the rare ones that they lack, no end comes nearer to 1 or 0 than a share of exceptions of which m queries show
    none in one case of 20: 0.05 ** (1 / m), the "rule of three".
    """
    m = len(counts)
    values, numbers = np.unique(counts, return_counts=True)
    # a draw of m queries with replacement is a draw of how often each count comes
    draws = np.random.default_rng(_SEED).multinomial(m, numbers / m, _ROUNDS)
    low, high = np.quantile(draws @ values, [0.025, 0.975]) / (m * size)
    sure = most_certain(m)
    return float(counts.sum() / (m * size)), float(min(low, sure)), float(max(high, 1 - sure))


def most_certain(m: int) -> float:
    """The highest lower bound that m queries can show."""
    return float(0.05 ** (1 / m))
