"""Searches on a server: what is asked, and its answers as hits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_bool, check_int, check_real, shown
from ..config import MAX_K, SearchParams
from ..errors import InvalidInputError
from ..metadata.documents import metadata_of
from ..results.hits import Hit
from .filters import narrows
from .library import model, models
from .listing import id_of, only
from .place import Place
from .points import ID, ORDER, row_of, vector_of
from .settings import search_params

F32 = NDArray[np.float32]
_TOGETHER: Final = 32  # queries in a request


@dataclass(frozen=True)
class Asked:
    """The settings of a search, checked."""

    k: int
    params: SearchParams
    exact: bool = False
    ignore: bool = False
    score_threshold: float | None = None
    with_vectors: bool = False
    ids_only: bool = False


def asked(
    place: Place,
    k: Any,
    oversampling: Any,
    rescore: Any,
    hnsw_ef: Any,
    exact: Any,
    ignore_quantization: Any,
    score_threshold: Any,
    with_vectors: Any,
    target_recall: Any,
    ids_only: bool = False,
) -> Asked:
    """The settings of a call with the collection's defaults filled in. Raises InvalidInputError."""
    k = check_int("k", k, 1, MAX_K)
    if target_recall is not None:
        raise InvalidInputError(
            f"target_recall={shown(target_recall)} has no counterpart on a Qdrant server: give oversampling=, hnsw_ef="
        )
    defaults = place.settings().search
    params = SearchParams(
        defaults.oversampling if oversampling is None else oversampling,
        defaults.rescore if rescore is None else rescore,
        defaults.hnsw_ef if hnsw_ef is None else hnsw_ef,
    )
    if score_threshold is not None:
        score_threshold = check_real("score_threshold", score_threshold, "a finite number")
    return Asked(
        k,
        params,
        check_bool("exact", exact),
        check_bool("ignore_quantization", ignore_quantization),
        score_threshold,
        check_bool("with_vectors", with_vectors),
        ids_only,
    )


def hits(place: Place, queries: F32, filter: Any, how: Asked) -> list[list[Hit]]:
    """The hits of each query, nearest first: ``min(k, matches)``, but for those below the threshold."""
    if not place.settings().exists or not len(queries):
        return [[] for _ in queries]
    found = completed(place, queries, filter, how, _found(place, queries, filter, how))
    return [_above([hit_of(place, point, how.with_vectors) for point in points], how) for points in found]


def completed(place: Place, queries: F32, filter: Any, how: Asked, found: list[list[Any]]) -> list[list[Any]]:
    """The points of each query that were found; where a walk ran dry, the query is answered again, exactly."""
    if not how.exact and (few := [i for i, points in enumerate(found) if len(points) < how.k]):
        there = place.call("count", count_filter=filter, exact=True).count
        few = [i for i in few if len(found[i]) < min(how.k, there)]
        if few:  # the walk ran dry
            whole = Asked(how.k, how.params, True, how.ignore, None, how.with_vectors, how.ids_only)
            for i, points in zip(few, _found(place, queries[few], filter, whole), strict=True):
                found[i] = points
    return found


def _above(found: list[Hit], how: Asked) -> list[Hit]:
    least = how.score_threshold
    return found if least is None else [hit for hit in found if hit.score >= least]


def _found(place: Place, queries: F32, filter: Any, how: Asked) -> list[list[Any]]:
    wanted = _wanted(place, filter, how)
    if len(queries) == 1:
        given = {"query_filter" if name == "filter" else name: value for name, value in wanted.items()}
        given["search_params"], given["with_vectors"] = given.pop("params"), given.pop("with_vector")
        return [place.call("query_points", query=queries[0].tolist(), **given).points]
    return batched(place, requests_of(place, queries, filter, how))


def _wanted(place: Place, filter: Any, how: Asked) -> dict[str, Any]:
    return {
        "filter": filter,
        "limit": how.k,
        "using": place.known.layout.vector or None,
        "params": params_of(place, how, filter),
        "with_payload": only(ID, ORDER) if how.ids_only else True,
        "with_vector": vectors_of(place, how.with_vectors),
    }


def requests_of(place: Place, queries: F32, filter: Any, how: Asked) -> list[Any]:
    """The search of each query, as `batched` takes it."""
    wanted = _wanted(place, filter, how)
    return [models().QueryRequest(query=query.tolist(), **wanted) for query in queries]


def batched(place: Place, requests: Sequence[Any]) -> list[list[Any]]:
    """The points of each of some searches, several in a request."""
    out: list[list[Any]] = []
    for at in range(0, len(requests), _TOGETHER):
        found = place.call("query_batch_points", requests=requests[at : at + _TOGETHER])
        out += [each.points for each in found]
    return out


def params_of(place: Place, how: Asked, filter: Any) -> Any:
    """The settings of a search as the server takes them."""
    if place.server.is_local:
        return None
    return search_params(how.params, how.exact, how.ignore or (not how.exact and place.is_small()), narrows(filter))


def vectors_of(place: Place, wanted: bool) -> Any:
    """Which vectors come with the points."""
    vector = place.known.layout.vector
    return [vector] if wanted and vector else wanted


def diverse(place: Place, query: F32, filter: Any, how: Asked, fetch_k: int, relevance: float) -> list[Hit]:
    """Maximal marginal relevance, by the server: its diversity is 1 - lambda."""
    if not place.settings().exists:
        return []
    m = models()
    mmr = model("Mmr", "max_marginal_relevance()")(diversity=1 - relevance, candidates_limit=fetch_k)
    params, least, limit = params_of(place, how, filter), how.score_threshold, how.k
    if place.shards() > 1:  # each would choose among its own, and the server among what they have chosen
        wide = replace(how, k=fetch_k, with_vectors=False, ids_only=True)
        points = completed(place, query[None], filter, wide, _found(place, query[None], filter, wide))[0]
        near = [point.id for point in points if least is None or hit_of(place, point).score >= least]
        filter, limit, least = m.Filter(must=[m.HasIdCondition(has_id=near)]), fetch_k, None
        params = params_of(place, replace(how, exact=True), filter)
    if least is not None:  # the server drops what is equal to it, too
        euclid = place.known.distance == "euclid"
        least = float(np.nextafter(np.float32(-least if euclid else least), np.float32(np.inf if euclid else -np.inf)))
    found = place.call(
        "query_points",
        query=m.NearestQuery(nearest=query.tolist(), mmr=mmr),
        query_filter=filter,
        limit=limit,
        using=place.known.layout.vector or None,
        search_params=params,
        score_threshold=least,
        with_payload=True,
        with_vectors=vectors_of(place, how.with_vectors),
    )
    return [hit_of(place, point, how.with_vectors) for point in found.points[: how.k]]


def hit_of(place: Place, point: Any, with_vectors: bool = False, score: float | None = None) -> Hit:
    """A point as a hit; its score is larger where it is nearer."""
    sign = -1.0 if place.known.distance == "euclid" else 1.0
    found = float(sign * point.score) if score is None else score
    if set(point.payload or {}) <= {ID, ORDER}:
        return Hit(id_of(point), found, None, {})
    row = row_of(point.id, point.payload)
    vector = vector_of(place.known.layout, point) if with_vectors else None
    return Hit(row.id, found, row.text, metadata_of(row), vector)


def as_arrays(found: Sequence[Sequence[Hit]], k: int) -> tuple[NDArray[np.object_], F32]:
    """Ids padded with None, and scores padded with NaN, (n, k)."""
    ids, scores = np.full((len(found), k), None, object), np.full((len(found), k), np.nan, np.float32)
    for i, line in enumerate(found):
        ids[i, : len(line)] = [hit.id for hit in line]
        scores[i, : len(line)] = [hit.score for hit in line]
    return ids, scores
