"""The recall of searches on a server, measured against the server's own exact search."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .. import clock
from ..arguments import check_int, refuse_unknown, shown
from ..config import MAX_K, SearchParams
from ..errors import InvalidInputError
from ..quality.ground_truth import interval
from ..results.hits import Hit
from ..results.recall import Histogram, RecallPoint, RecallReport
from .filters import both, present
from .library import NEWEST, models
from .listing import only
from .place import Place
from .points import LENGTH, vector_of
from .searching import Asked, hits

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_PARAMS: Final = ("oversampling", "hnsw_ef", "rescore")
_GRID: Final = ({"oversampling": 1.0}, {"oversampling": 2.0}, {"oversampling": 4.0}, {"oversampling": 8.0})
_BINS: Final = 40
_EQUAL: Final = 1e-5  # scores that differ by less, relatively, are of documents that are as near
_SUITS: Final = 0.95


def recall(
    place: Place, queries: F32 | None, k: int, sample: int, settings: Sequence[Mapping[str, Any]] | None
) -> RecallReport:
    """As `Collection.recall`: each query is answered exactly, and by the settings that are measured."""
    k, sample = check_int("k", k, 1, MAX_K), check_int("sample", sample, 1, 100_000)
    known = place.settings()
    there = present(None, known.layout, NEWEST, clock.now())
    documents = place.call("count", count_filter=there, exact=True).count if known.exists else 0
    if documents < 2:
        raise InvalidInputError(
            "recall() needs at least 2 documents to compare searches with exact search; this collection has "
            f"{documents}: add some first"
        )
    configurations = [known.search, *(_params(each, known.search, at) for at, each in enumerate(settings or _GRID))]
    own: list[Any] | None = None
    if queries is None:
        queries, own = _held_out(place, there, sample)
    size = min(k, documents - (own is not None))
    truth = _answers(place, there, queries, own, Asked(size, known.search, exact=True, ids_only=True))[0]
    measured: dict[SearchParams, RecallPoint] = {}
    for params in dict.fromkeys(configurations):
        measured[params] = _point(place, there, queries, own, Asked(size, params, ids_only=True), truth)
    current = measured[known.search]
    verdict = (
        f"Your searches find {100 * current.recall:.1f}% of the true {size} nearest "
        f"[{100 * current.low:.1f}, {100 * current.high:.1f}] at oversampling {known.search.oversampling:g}"
    )
    enough = [each for each in measured.values() if each.recall >= _SUITS]
    if current.recall >= _SUITS:
        verdict += ": nothing to do."
    elif enough:
        best = min(enough, key=lambda each: each.oversampling)
        verdict += f". At oversampling {best.oversampling:g} they find {100 * best.recall:.1f}%."
    else:
        verdict += ". None of the settings measured finds 95%: take more bits, or a larger hnsw_ef."
    return RecallReport(
        recall=current.recall,
        low=current.low,
        high=current.high,
        milliseconds=current.milliseconds,
        k=k,
        queries=len(queries),
        held_out=own is not None,
        documents=documents,
        scanned=0,
        distance=known.distance,
        dim=known.dim or 0,
        current=current,
        points=tuple(measured.values()),
        scores=_histogram(truth, _scores(queries, _sampled(place, there, sample)[0], known.distance)),
        suits_one_bit=known.quantization.encoding == "one_bit" and bool(enough),
        verdict=verdict,
    )


def _params(given: Any, defaults: SearchParams, at: int) -> SearchParams:
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"settings {at} is {shown(given)}; expected a dict of {', '.join(_PARAMS)}")
    refuse_unknown(given, _PARAMS, f"settings {at} (of a server, which has the codes it was made with)")
    return replace(defaults, **given)


def _sampled(place: Place, there: Any, sample: int) -> tuple[F32, list[Any]]:
    """Vectors of documents of the server's choice, float32 (m, dim), and the ids of their points."""
    m, layout = models(), place.known.layout
    query = m.SampleQuery(sample=m.Sample.RANDOM)
    wanted = [layout.vector] if layout.vector else True
    some = place.call(
        "query_points",
        query=query,
        query_filter=there,
        limit=sample,
        with_payload=only(LENGTH),
        with_vectors=wanted,
    ).points
    pairs = [(point.id, vector) for point in some if (vector := vector_of(layout, point)) is not None]
    if not pairs:
        raise InvalidInputError(f"no document has the vector {layout.vector!r}; give queries")
    return np.stack([vector for _, vector in pairs]), [id_ for id_, _ in pairs]


def _held_out(place: Place, there: Any, sample: int) -> tuple[F32, list[Any]]:
    """As `_sampled`, without zero vectors."""
    vectors, ids = _sampled(place, there, sample)
    some: NDArray[np.bool_] = np.any(vectors, axis=1)
    if not some.any():
        raise InvalidInputError("the documents picked are zero vectors, to which all are as near; give queries")
    return vectors[some], [id_ for id_, kept in zip(ids, some.tolist(), strict=True) if kept]


def _answers(
    place: Place, there: Any, queries: F32, own: list[Any] | None, how: Asked
) -> tuple[list[list[Hit]], list[float]]:
    """The hits of each query among what is there, and the milliseconds that it took."""
    m = models()
    out, taken = [], []
    for i in range(len(queries)):
        but = None if own is None else m.Filter(must_not=[m.HasIdCondition(has_id=[own[i]])])
        begun = time.perf_counter()
        out.append(hits(place, queries[i : i + 1], both(there, but), how)[0])
        taken.append(1000 * (time.perf_counter() - begun))
    return out, taken


def _point(
    place: Place, there: Any, queries: F32, own: list[Any] | None, how: Asked, truth: list[list[Hit]]
) -> RecallPoint:
    """Measure one setting: of documents that are as near, any will do, where hits have exact scores."""
    found, taken = _answers(place, there, queries, own, how)
    counts = np.array([_found(a, b, how.params.rescore) for a, b in zip(found, truth, strict=True)], np.int64)
    share, low, high = interval(counts, how.k)
    known = place.known
    return RecallPoint(
        quantization=known.quantization,
        oversampling=how.params.oversampling,
        rescore=how.params.rescore,
        hnsw_ef=how.params.hnsw_ef,
        stored=True,
        way="server",
        recall=share,
        low=low,
        high=high,
        milliseconds=float(np.median(taken)),
        slowest=float(np.quantile(taken, 0.95)),
        memory_bytes=code_bytes(known.quantization.encoding, known.dim or 0) * place.call("count", exact=False).count,
    )


def _found(found: list[Hit], truth: list[Hit], rescored: bool) -> int:
    if not truth:
        return 0
    ids, last = {hit.id for hit in truth}, truth[-1].score
    near = last - _EQUAL * max(1.0, abs(last))
    return sum(hit.id in ids or (rescored and hit.score >= near) for hit in found)


def _scores(queries: F32, vectors: F32, distance: str) -> F64:
    """The scores of some pairs of queries and documents."""
    q, v = (
        np.resize(each, (max(len(queries), len(vectors)), each.shape[1])).astype(np.float64)
        for each in (queries, vectors)
    )
    if distance == "euclid":
        apart: F64 = -np.linalg.norm(q - v, axis=1)
        return apart
    product: F64 = np.einsum("ij,ij->i", q, v)
    if distance == "cosine":
        product /= np.maximum(np.linalg.norm(q, axis=1) * np.linalg.norm(v, axis=1), 1e-300)
    return product


def _histogram(truth: list[list[Hit]], others: F64) -> Histogram:
    near = np.array([hit.score for line in truth for hit in line])
    edges = np.histogram_bin_edges(np.concatenate([near, others]), _BINS)
    a, b = (tuple(np.histogram(each, edges)[0].tolist()) for each in (near, others))
    return Histogram(tuple(edges.tolist()), a, b)


def code_bytes(encoding: str, dim: int) -> int:
    """Bytes of a code."""
    bits = {"one_bit": 1.0, "one_and_half_bits": 1.5, "two_bits": 2.0, "four_bits": 4.0}[encoding]
    return int(np.ceil(dim * bits / 8))
