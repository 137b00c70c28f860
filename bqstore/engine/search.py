"""A search, from a checked query to hits: which documents may be found, by which plan, and what is read of them.

Arrays meet rows here and nowhere else.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .. import index
from ..config import AUTO
from ..metadata.filter_tree import Predicate, Tree
from ..results.hits import ExplainedHits, Explanation, Hit, hit_of
from ..storage import Store
from . import fetch
from .options import Options
from .prepared_search import PreparedSearch, unfiltered
from .state import ChangedError, State

if TYPE_CHECKING:
    from .engine import Engine

F32 = NDArray[np.float32]
_KEPT = 256  # prepared searches that a state remembers; a program may use any number of settings and filters


def prepared(engine: "Engine", state: State, tree: Tree | None, options: Options) -> tuple[State, PreparedSearch]:
    """The state to search, and how; remembered with the state for the next call with the same options and filter."""
    key = id(options) if tree is None else (id(options), tree)
    known: PreparedSearch | None = state.prepared.get(key)
    if known is not None and known.options is options:
        return state, known
    if tree is None:
        made = unfiltered(state, options)
    else:
        state, found = engine.acceptor.accepted(state, tree)
        made = PreparedSearch(state, found, options, filtered=found.count < state.head.n_live)
    if not isinstance(tree, Predicate):  # a function may answer differently the next time
        remember(state, key, made)
    return state, made


def remember(state: State, key: object, way: PreparedSearch) -> None:
    """Keep a prepared search with its state; when there are too many, the others are dropped first."""
    if len(state.prepared) >= _KEPT:
        state.prepared.clear()
    state.prepared[key] = way


def ids(
    engine: "Engine", state: State, queries: F32, tree: Tree | None, options: Options
) -> tuple[NDArray[np.object_], F32]:
    """The ids of the hits of each query, and their scores; no document is read. ``state``: as `Engine.entered`."""
    while True:
        state, way = prepared(engine, state if state.ids is not None else engine.acceptor.with_ids(), tree, options)
        found = ids_in(engine, state, way, queries)
        if found is not None:
            return found
        state = engine.publisher.current()


def ids_in(engine: "Engine", state: State, way: PreparedSearch, queries: F32) -> tuple[NDArray[np.object_], F32] | None:
    """`ids` of a prepared search of a state that has its ids; None where it must be made again, see `outgrown`."""
    ordinals, scores = way.nearest(queries)
    if outgrown(engine, state):
        return None
    assert state.ids is not None
    engine.core.keeper.found(state, way, queries, ordinals, scores)
    return state.ids.take(ordinals), scores


def outgrown(engine: "Engine", state: State) -> bool:
    """Whether the graph has doubled since this state was taken, so that a walk of it may have missed something.

    Links are replaced while searches run. In a small graph many soon lead to newer nodes, which a walk on the older
    state skips, so that it may find no way to some nodes.
    """
    newest = engine.publisher.state
    if newest is state:
        return False
    was, now = state.data, newest.data
    if was is None or now is None or was.graph is None or now.graph is None:
        return False
    return now.linked > 2 * was.linked and newest.head.generation == state.head.generation


def hits(engine: "Engine", queries: F32, tree: Tree | None, options: Options, explain: bool = False) -> list[list[Hit]]:
    """The hits of each query, from one state and the documents as they were in it."""

    def answer(state: State) -> list[list[Hit]]:
        state, way = prepared(engine, state, tree, options)
        return found(engine, state, way, queries, options, explain)

    return engine.publisher.whole(answer)


def found(
    engine: "Engine", state: State, way: PreparedSearch, queries: F32, options: Options, explain: bool
) -> list[list[Hit]]:
    """The hits of a prepared search. Raises ChangedError where a document is not as the state knows it."""
    work = index.Work() if explain else None
    ordinals, scores = way.nearest(queries, work)
    if outgrown(engine, state):
        raise ChangedError
    engine.core.keeper.found(state, way, queries, ordinals, scores)
    if len(queries) == 1 and work is None and not options.with_vectors:
        return [_shown(engine.store, state, ordinals[0], scores[0])]
    some = np.unique(ordinals[ordinals >= 0])
    documents = dict(zip(some.tolist(), fetch.documents(engine.store, state, some), strict=True))
    vectors = fetch.vectors(state, some) if options.with_vectors else {}
    out: list[list[Hit]] = []
    for line, values in zip(ordinals.tolist(), scores.tolist(), strict=True):
        out.append([])
        for ordinal, score in zip(line, values, strict=True):
            if ordinal < 0:
                break
            one = documents[ordinal]
            vector = vectors[ordinal].copy() if options.with_vectors else None  # each hit has its own
            out[-1].append(hit_of(one.id, score, one.text, one.metadata(), vector))
    return [_explained(hits, way, work) for hits in out] if work is not None else out


def _shown(store: Store, state: State, ordinals: NDArray[np.int32], scores: F32) -> list[Hit]:
    """The hits of one query: its ordinals, padded with -1, and scores. ChangedError as `found`."""
    if ordinals[-1] < 0:
        ordinals = ordinals[ordinals >= 0]
    documents = fetch.documents(store, state, ordinals)
    return [
        hit_of(one.id, score, one.text, one.metadata())
        for one, score in zip(documents, scores.tolist(), strict=False)  # the padding of the scores is left
    ]


def _explained(found: list[Hit], way: PreparedSearch, work: index.Work) -> ExplainedHits:
    out = ExplainedHits(found)
    out.explanation = explained(way, work)
    return out


def explained(way: PreparedSearch, work: index.Work) -> Explanation:
    """What was done to find hits; an empty collection is an exact scan of nothing."""
    if way.nothing:
        asked = way.options.query_encoding
        return Explanation("exact", "binary" if asked == AUTO else asked, selectivity=0.0 if way.live else 1.0)
    search, walked = way.search, work.way == "walk"
    linked = search.data.linked
    return Explanation(
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
        kernels="compiled" if work.compiled else "numpy",
        missed=search.data.missed / 1000,
        shorter=way.shorter,
    )
