"""Writes on a server: documents in requests below its limit, each acknowledged by ``wait=True``.

A call of several requests is no single commit: what was acknowledged before an error stands, and its ids are the
error's ``added``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .. import clock
from ..errors import BqstoreError, InvalidInputError
from ..metadata.documents import with_metadata
from ..storage import Row, Rows
from ..storage.word_counts import word_counts
from ..validate import check_dim
from . import words
from .filters import both, present
from .library import NEWEST, models
from .listing import only, points
from .place import Place, metadata_size
from .points import EXPIRES, LENGTH, ORDER, TEXT, Layout, is_over, payload_of, row_of

F32 = NDArray[np.float32]
LIMIT: Final = 4_500_000  # bytes of a request, about; servers and proxies take 32 MB, or less
_MOST: Final = 1000  # points of a request
_NUMBER: Final = 21  # bytes of a float32 in JSON
_WORD: Final = 32  # bytes of a word's number and weight


def refuse_expiry(place: Place, metadata: Sequence[str]) -> None:
    """Raise InvalidInputError for an expiry time in a collection of another program, which would ignore it."""
    if not place.settings().layout.ours and any(f'"{EXPIRES}"' in each for each in metadata):
        raise InvalidInputError(
            f"expires_at is for collections that bqstore has made, and {place.name!r} was made by another program, "
            "which would still find expired documents: copy it, bqstore copy SRC DST, and add to the copy"
        )


def distinct(vectors: F32, rows: Rows) -> tuple[F32, list[Row]]:
    """The documents without those that a later one of the same id replaces."""
    last = {id_: i for i, id_ in enumerate(rows.ids)}
    places = sorted(last.values())
    some = rows.subset(places)
    return vectors[places], [Row(0, 0, *values) for values in zip(*some.columns(), strict=True)]


def add(place: Place, vectors: F32, rows: list[Row]) -> int:
    """Upsert documents; returns how many existed."""
    settings = place.settings()
    dim = int(vectors.shape[1])
    if not settings.exists:
        place.make(dim)
    elif settings.cleared and dim != settings.dim:
        place.remake(dim)
    elif settings.cleared:
        place.keep(replace(settings, cleared=False))
    place.check_layout()
    settings = place.settings()
    check_dim(dim, settings.dim, "vector 0")  # somebody else may have settled it
    counted = _counted(place, rows)
    place.index_fields(json.loads(row.metadata) for row in rows)
    replaced, done = 0, 0
    orders = place.orders(len(rows))
    there = present(None, settings.layout, NEWEST, clock.now())
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1) if settings.distance == "cosine" else None
    sizes = [metadata_size(row) + dim * _NUMBER + len(words) * _WORD for row, words in zip(rows, counted, strict=True)]
    try:
        for part in portions(sizes, place.most(_MOST, "upsert_max_batchsize", "condition_max_size")):
            ids = [settings.layout.point_id(row.id) for row in rows[part]]
            replaced += place.call("count", count_filter=both(_of(ids), there), exact=True).count
            made = [
                payload_of(row, order, None if lengths is None else float(length))
                for row, order, length in zip(
                    rows[part], orders[part], np.ones(len(ids)) if lengths is None else lengths[part], strict=True
                )
            ]
            upsert(place, ids, vectors[part], made, counted[part])
            place.grown(len(ids))
            done = part.stop
    except BqstoreError as error:
        error.added = [row.id for row in rows[:done]]
        raise
    return replaced


def _counted(place: Place, rows: Sequence[Row]) -> list[Counter[str]]:
    """The words of each document, where they are indexed; the first texts settle the mean of a collection."""
    known = place.settings()
    if known.tokenize is None:
        return [Counter() for _ in rows]
    found = word_counts([row.text or "" for row in rows], known.tokenize)
    if not known.mean_words:
        place.look()  # somebody else may have settled it
        if not place.known.mean_words and (mean := words.average(found)):
            place.keep(replace(place.known, mean_words=mean))
    return found


def upsert(
    place: Place,
    ids: Sequence[str | int],
    vectors: F32,
    payloads: Sequence[Mapping[str, Any]],
    counted: Sequence[Mapping[str, int]],
) -> None:
    """Write points in one request."""
    m, name, mean = models(), place.known.layout.vector, place.known.mean_words
    given = []
    for id_, vector, payload, found in zip(ids, vectors.tolist(), payloads, counted, strict=True):
        named = {name: vector} if name else vector
        if found:
            named[words.VECTOR] = words.of_document(found, mean)
        given.append(m.PointStruct(id=id_, vector=named, payload=payload))
    place.call("upsert", points=given, wait=True)


def portions(sizes: Sequence[int], most: int | None = None) -> Iterator[slice]:
    """Consecutive documents whose requests are below the limit; what is larger by itself goes alone."""
    first = total = 0
    most = _MOST if most is None else most
    for i, size in enumerate(sizes):
        if i > first and (total + size > LIMIT or i - first >= most):
            yield slice(first, i)
            first, total = i, 0
        total += size
    if len(sizes) > first:
        yield slice(first, len(sizes))


def _of(ids: Sequence[str | int]) -> Any:
    m = models()
    return m.Filter(must=[m.HasIdCondition(has_id=list(ids))])


def retrieved(
    place: Place, ids: Sequence[str], with_vectors: bool = False, payload: bool = True, now: int | None = None
) -> dict[str, Any]:
    """The points of documents that exist and have not expired, by the documents' ids."""
    settings = place.settings()
    if not settings.exists or not ids:
        return {}
    layout = settings.layout
    by_point = {layout.point_id(id_): id_ for id_ in dict.fromkeys(ids)}
    wanted: Any = [layout.vector] if with_vectors and layout.vector else with_vectors
    names, out, now = list(by_point), {}, clock.now() if now is None else now
    keys = True if payload else only(EXPIRES)
    for at in range(0, len(names), _MOST):
        some = names[at : at + _MOST]
        for point in place.call("retrieve", ids=some, with_payload=keys, with_vectors=wanted):
            if not is_over(layout, point, now):
                out[by_point[point.id]] = point
    return {id_: out[id_] for id_ in by_point.values() if id_ in out}


def rewrite(place: Place, changed: Sequence[tuple[Any, Row]]) -> None:
    """Put rows in the place of the payloads of points, whose vectors stay."""
    place.check_layout()
    m = models()
    place.index_fields(json.loads(row.metadata) for _, row in changed)
    most = _WORD if place.known.tokenize else 0  # a word a character, as trigrams are
    for part in portions([metadata_size(row) + most * len(row.text or "") for _, row in changed]):
        writes = [
            m.OverwritePayloadOperation(overwrite_payload=m.SetPayload(payload=_payload(point, row), points=[point.id]))
            for point, row in changed[part]
        ]
        writes += _words_of(place, changed[part])
        place.call("batch_update_points", update_operations=writes, wait=True)


def _words_of(place: Place, changed: Sequence[tuple[Any, Row]]) -> list[Any]:
    """The operations that put the words of changed texts in the place of those that were."""
    m = models()
    if place.known.tokenize is None:
        return []
    texts = [(point, row) for point, row in changed if row.text != (point.payload or {}).get(TEXT)]
    counted = _counted(place, [row for _, row in texts])
    made = [
        m.PointVectors(id=point.id, vector={words.VECTOR: words.of_document(found, place.known.mean_words)})
        for (point, _), found in zip(texts, counted, strict=True)
        if found
    ]
    none = [point.id for (point, _), found in zip(texts, counted, strict=True) if not found]
    out = [m.UpdateVectorsOperation(update_vectors=m.UpdateVectors(points=made))] if made else []
    if none:
        out.append(m.DeleteVectorsOperation(delete_vectors=m.DeleteVectors(points=none, vector=[words.VECTOR])))
    return out


def _payload(point: Any, row: Row) -> dict[str, Any]:
    """The payload of a changed document, with the length of its vector and its order as they were."""
    before = point.payload or {}
    made = payload_of(row, before.get(ORDER, 0), before.get(LENGTH))
    if ORDER not in before:
        del made[ORDER]
    return made


def update(
    place: Place,
    ids: Sequence[str],
    texts: Sequence[str | None],
    metadatas: Sequence[Mapping[str, Any] | None],
    vectors: F32 | None,
    replace_all: bool,
) -> int:
    """As `engine.writes.update`."""
    found = retrieved(place, ids)
    rows = {id_: row_of(point.id, point.payload) for id_, point in found.items()}
    last: dict[str, int] = {}
    for i, id_ in enumerate(ids):
        if id_ in rows:
            row, metadata, text = rows[id_], metadatas[i], texts[i]
            if metadata is not None:
                row = with_metadata(row, metadata, replace_all, f"metadata {i}")
            rows[id_] = row if text is None else row._replace(text=text)
            last[id_] = i
    refuse_expiry(place, [rows[id_].metadata for id_ in last])
    if not last:
        return 0
    if vectors is None:
        rewrite(place, [(found[id_], rows[id_]) for id_ in last])
    else:
        add(place, np.ascontiguousarray(vectors[list(last.values())]), [rows[id_] for id_ in last])
    return len(last)


def update_metadata(
    place: Place, ids: Sequence[str], metadatas: Sequence[Mapping[str, Any] | None], replace_all: bool
) -> int:
    """As `engine.writes.update_metadata`."""
    found = retrieved(place, ids)
    rows = {id_: row_of(point.id, point.payload) for id_, point in found.items()}
    changed = {}
    for i, (id_, given) in enumerate(zip(ids, metadatas, strict=True)):
        if id_ in rows:
            rows[id_] = changed[id_] = with_metadata(rows[id_], given or {}, replace_all, f"metadata {i}")
    refuse_expiry(place, [row.metadata for row in changed.values()])
    if changed:
        rewrite(place, [(found[id_], row) for id_, row in changed.items()])
    return len(changed)


def update_matching(place: Place, filter: Any, metadata: Mapping[str, Any], replace_all: bool) -> int:
    """Merge metadata over that of the documents that match; they are listed first, as they may match no longer."""
    found = [point for some in points(place, filter) for point in some]
    unique = {point.id: point for point in found}
    rows = [(point, row_of(point.id, point.payload)) for point in unique.values()]
    changed = [
        (point, with_metadata(row, metadata, replace_all, f"metadata of document {row.id!r}")) for point, row in rows
    ]
    refuse_expiry(place, [row.metadata for _, row in changed])
    if changed:
        rewrite(place, changed)
    return len(changed)


def delete(place: Place, filter: Any) -> int:
    """Delete the documents that match; returns how many there were."""
    m = models()
    there: int = place.call("count", count_filter=filter, exact=True).count
    if there:
        place.call("delete", points_selector=m.FilterSelector(filter=filter), wait=True)
        place.grown(-there)
    return there


def having(layout: Layout, ids: Sequence[str]) -> Any:
    """The filter of some ids."""
    return _of([layout.point_id(id_) for id_ in dict.fromkeys(ids)])
