"""Searches for words on a server, and for words and vectors together.

Both sides are asked in one request, and fused as those of a local collection are: with the same scores of the same
lists. ``fusion="dbsf"`` leaves that to the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..arguments import shown
from ..engine import hybrid
from ..engine.hybrid import Asked as Words
from ..errors import InvalidInputError
from ..results.hits import ExplainedHits, Explanation, Hit
from . import searching, words
from .library import models
from .listing import only
from .place import Place
from .points import ID, ORDER
from .searching import Asked

F32 = NDArray[np.float32]
DBSF: Final = "dbsf"


def asked(
    place: Place, has_vector: bool, text: Any, mode: Any, fusion: Any, alpha: Any, syntax: Any, name: str, reranks: bool
) -> Words | None:
    """The words that a call asks for, as `engine.hybrid.asked`; None where it asks with vectors alone.

    Raises InvalidInputError. Without an index of words, a text beside ``rerank`` is for that alone.
    """
    indexed = place.settings().tokenize is not None
    if reranks and not indexed and mode is None and fusion is None and alpha is None and syntax is None:
        return None
    by_server = fusion == DBSF
    found = hybrid.asked(has_vector, text, mode, "rrf" if by_server else fusion, alpha, syntax, name)
    if found is None:
        return None
    if not indexed:
        first = {name: text, "mode": mode, "fusion": fusion, "alpha": alpha, "syntax": syntax}
        given, value = next((each, value) for each, value in first.items() if value is not None)
        raise InvalidInputError(
            f"{given}={shown(value)} is for searches for words, of which this collection on a Qdrant server has no "
            "index: it is made with the collection, by text_index=True; bqstore.copy(SRC, ..., to=DST, "
            "to_settings={'text_index': True}) makes another that has it"
        )
    if found.syntax == "fts5":
        raise InvalidInputError(f"syntax={shown(syntax)} has no counterpart on a Qdrant server: leave it out")
    if by_server and alpha is not None:
        raise InvalidInputError(f"alpha={shown(alpha)} is for the fusions 'relative_score' and 'rrf': 'dbsf' has none")
    if by_server and place.known.distance == "euclid":
        raise InvalidInputError("fusion='dbsf' adds up scores, and under 'euclid' a server's are distances: use 'rrf'")
    return replace(found, fusion=DBSF) if by_server else found


def hits(
    place: Place, queries: F32 | None, asked: Words, filter: Any, how: Asked, explain: bool = False
) -> list[list[Hit]]:
    """The hits of each query, the best first."""
    tokenize = place.settings().tokenize
    assert tokenize is not None  # without an index, words are refused: see `asked`
    looked = [words.of_query(text, tokenize) for text in asked.texts]
    sparse = [each for _, each in looked]
    if not place.known.exists:
        out: list[list[Hit]] = [[] for _ in asked.texts]
    elif queries is None:
        answers = iter(searching.batched(place, _requests(place, sparse, filter, how)))
        some = [[] if each is None else next(answers) for each in sparse]
        out = [[_by_words(place, point, how) for point in each] for each in some]
    elif asked.fusion == DBSF:
        out = [_by_server(place, *pair, filter, how) for pair in zip(queries, sparse, strict=True)]
    else:
        out = _fused(place, queries, sparse, asked, filter, how)
    if how.score_threshold is not None:
        out = [[hit for hit in each if hit.score >= how.score_threshold] for each in out]
    if explain:
        way = Explanation("text" if queries is None else "server", "none", mode=asked.mode, words=tuple(looked[0][0]))
        found = ExplainedHits(out[0])
        found.explanation = way
        return [found]
    return out


def _by_words(place: Place, point: Any, how: Asked) -> Hit:
    score = float(point.score)
    return replace(searching.hit_of(place, point, how.with_vectors, score), scores={"text": score})


def _requests(place: Place, sparse: Sequence[Any], filter: Any, how: Asked) -> list[Any]:
    """The searches for words, of the queries that have any."""
    m = models()
    return [
        m.QueryRequest(
            query=each,
            using=words.VECTOR,
            filter=filter,
            limit=how.k,
            with_payload=only(ID, ORDER) if how.ids_only else True,
            with_vector=searching.vectors_of(place, how.with_vectors),
        )
        for each in sparse
        if each is not None
    ]


def _fused(place: Place, queries: F32, sparse: Sequence[Any], asked: Words, filter: Any, how: Asked) -> list[list[Hit]]:
    """Both sides as one list, by the rule of `engine.hybrid`; equal scores as they were added."""
    wide = replace(how, k=hybrid.width(how.k), score_threshold=None, with_vectors=False, ids_only=True)
    asks = searching.requests_of(place, queries, filter, wide) + _requests(place, sparse, filter, wide)
    found = searching.batched(place, asks)
    near, worded = found[: len(queries)], iter(found[len(queries) :])
    sides = {
        "vector": searching.completed(place, queries, filter, wide, near),
        "text": [[] if each is None else next(worded) for each in sparse],
    }
    sign = {"vector": -1.0 if place.known.distance == "euclid" else 1.0, "text": 1.0}
    out = []
    for i in range(len(queries)):
        points = {point.id: point for each in sides.values() for point in each[i]}
        added = sorted(points.values(), key=lambda point: ((point.payload or {}).get(ORDER, 0), str(point.id)))
        ordinals = {point.id: at for at, point in enumerate(added)}
        lists = {
            side: [(ordinals[point.id], float(sign[side] * point.score)) for point in each[i]]
            for side, each in sides.items()
        }
        best = hybrid.fuse(lists, asked)[: how.k]
        out.append([(added[each.ordinal], each) for each in best])
    whole = out if how.ids_only else _read(place, out, how)
    return [
        [replace(searching.hit_of(place, point, how.with_vectors, one.score), scores=one.parts) for point, one in each]
        for each in whole
    ]


def _read(place: Place, found: list[list[tuple[Any, Any]]], how: Asked) -> list[list[tuple[Any, Any]]]:
    """The same with the documents; those that are deleted meanwhile are left out."""
    ids = list(dict.fromkeys(point.id for each in found for point, _ in each))
    wanted = searching.vectors_of(place, how.with_vectors)
    read = {}
    for at in range(0, len(ids), 1000):
        for point in place.call("retrieve", ids=ids[at : at + 1000], with_payload=True, with_vectors=wanted):
            read[point.id] = point
    return [[(read[point.id], one) for point, one in each if point.id in read] for each in found]


def _by_server(place: Place, query: Any, sparse: Any, filter: Any, how: Asked) -> list[Hit]:
    """Both sides, fused by the server: each score as far as it lies from the mean of its side, in deviations."""
    m, k = models(), hybrid.width(how.k)
    params = searching.params_of(place, how, filter)
    sides = [m.Prefetch(query=query.tolist(), using=place.known.layout.vector, filter=filter, params=params, limit=k)]
    if sparse is not None:
        sides.append(m.Prefetch(query=sparse, using=words.VECTOR, filter=filter, limit=k))
    found = place.call(
        "query_points",
        prefetch=sides,
        query=m.FusionQuery(fusion=m.Fusion.DBSF),
        limit=how.k,
        with_payload=only(ID) if how.ids_only else True,
        with_vectors=searching.vectors_of(place, how.with_vectors),
    )
    return [searching.hit_of(place, point, how.with_vectors, float(point.score)) for point in found.points]
