"""A search, from checked queries to hits: which documents may be found, which way, and what is read of them. Floor 3.

Arrays meet rows here and nowhere else.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import filters, index
from .config import MAX_DIM, MAX_K, SearchParams, check_bool, check_int, check_real
from .documents import metadata_of
from .errors import InvalidInputError
from .published import Published
from .results import Hit
from .state import State
from .validate import check_dim

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of one call, checked.

    Parameters
    ----------
    exact : bool        scan the originals; also for ``ignore_quantization``, which differs only where a graph is walked
    originals : bool    whether the collection keeps any
    """

    k: int
    params: SearchParams
    exact: bool
    originals: bool
    full_scan_threshold: int
    score_threshold: float | None = None
    with_vectors: bool = False
    threads: int = 1


def options_of(
    defaults: SearchParams,
    originals: bool,
    full_scan_threshold: int,
    k: int,
    *,
    oversampling: float | None,
    rescore: bool | None,
    hnsw_ef: int | None,
    exact: bool,
    ignore_quantization: bool,
    score_threshold: float | None,
    with_vectors: bool = False,
    threads: int = 1,
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
    return Options(k, params, exact, originals, full_scan_threshold, score_threshold, with_vectors, threads)


def no_originals(what: str) -> InvalidInputError:
    """The error for what a collection without originals cannot do."""
    return InvalidInputError(f"{what} needs the originals; this collection keeps none (originals='none')")


def nearest(
    published: Published,
    state: State,
    queries: F32,
    tree: filters.Tree | None,
    options: Options,
    executor: Callable[[], Executor],
) -> tuple[State, NDArray[np.int32], F32]:
    """The state that was searched, ordinals int32 (m, k) padded with -1, scores float32 (m, k) padded with NaN."""
    state, mask, accepted = published.accepted(state, tree)
    shape = (len(queries), options.k)
    if state.data is None or accepted == 0 or not len(queries):
        return state, np.full(shape, -1, np.int32), np.full(shape, np.nan, np.float32)
    check_dim(queries.shape[1], state.data.dim, "the query vector", MAX_DIM)
    way = index.plan(
        n=state.n,
        accepted=accepted,
        dim=state.data.dim,
        k=options.k,
        oversampling=options.params.oversampling,
        rescore=options.params.rescore,
        exact=options.exact,
        full_scan_threshold=options.full_scan_threshold,
        originals=options.originals,
    )
    prefetch, watch, before = None, None, None
    if state.vectors is not None:
        state.vectors.check_size(state.n)
        if way.rescoring:
            watch = state.vectors.read_ahead
            before = watch.begin()
            prefetch = state.vectors.prefetch if before is None else None
    accept = None
    if accepted < state.n:
        accept = state.live_bits if tree is None else filters.to_bitmap(mask)
    ordinals, scores = index.nearest(queries, state.data, accept, options.k, way, options.threads, executor, prefetch)
    if watch is not None:
        watch.end(before)
    if options.score_threshold is not None:
        low = ~(scores.astype(np.float64) >= options.score_threshold)  # as a caller compares `Hit.score`
        ordinals[low], scores[low] = -1, np.nan
    return state, ordinals, scores


def hits(
    published: Published,
    queries: F32,
    tree: filters.Tree | None,
    options: Options,
    executor: Callable[[], Executor],
) -> list[list[Hit]]:
    """The hits of each query, from one state and the documents as they were in it."""

    def answer(state: State) -> list[list[Hit]]:
        state, ordinals, scores = nearest(published, state, queries, tree, options, executor)
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
        return out

    return published.whole(answer)
