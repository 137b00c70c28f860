"""Documents of a server in the order in which they were added, and what is counted from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ..metadata.columns import field_of
from ..metadata.dates import as_instant
from ..metadata.dictionary import NOTHING
from ..metadata.documents import metadata_of
from ..metadata.to_json import plain
from ..metadata.values import typed
from .filters import both
from .library import models
from .place import Place
from .points import ORDER, record_of, row_of

_AT_ONCE: Final = 1000
_SKIPPED: Final = 10_000


def points(
    place: Place, filter: Any, batch: int = _AT_ONCE, payload: Any = True, with_vectors: bool = False, skip: int = 0
) -> Iterator[list[Any]]:
    """The points that match, portion by portion: those that other programs have added, by their ids, then the rest.

    What is replaced meanwhile may come again, as it is then. Of the first ``skip``, which are left out, little is read.
    """
    settings = place.settings()
    if not settings.exists:
        return
    batch = place.most(batch, "max_query_limit")
    whole = {"with_payload": payload, "with_vectors": _vectors(place, with_vectors)}
    left = _Left(skip, whole, place.most(_SKIPPED, "max_query_limit"))
    m = models()
    foreign = filter
    if settings.layout.ours:
        unordered = m.Filter(must=[m.IsEmptyCondition(is_empty=m.PayloadField(key=ORDER))])
        foreign = both(filter, unordered)
    offset: Any = None
    while True:
        some, offset = place.call("scroll", scroll_filter=foreign, offset=offset, **left.asked(batch))
        if some := left.out(some):
            yield some
        if offset is None:
            break
    if settings.layout.ours:
        yield from _ordered(place, filter, left, batch)


class _Left:
    """How many points are still to be left out, and what is asked of them meanwhile."""

    def __init__(self, skip: int, whole: dict[str, Any], most: int) -> None:
        self._skip, self._whole, self._most = skip, whole, most

    def asked(self, limit: int) -> dict[str, Any]:
        """The arguments of the next request: what is left out comes without payload, and much of it at a time."""
        if self._skip >= limit:
            limit = max(limit, min(self._skip, self._most))
            return {"limit": limit, "with_payload": False, "with_vectors": False}
        return {**self._whole, "limit": limit}

    def out(self, some: list[Any]) -> list[Any]:
        """What is not left out of a portion."""
        n = min(self._skip, len(some))
        self._skip -= n
        return some[n:]


def _ordered(place: Place, filter: Any, left: _Left, limit: int) -> Iterator[list[Any]]:
    m = models()
    start: Any = None
    known: set[Any] = set()  # those with the last number of the portion before
    while True:
        order = m.OrderBy(key=ORDER, start_from=start)
        asked = left.asked(limit)
        some, _ = place.call("scroll", scroll_filter=filter, order_by=order, **asked)
        new = [point for point in some if point.id not in known]
        if kept := left.out(new):
            yield kept
        if len(some) < asked["limit"]:
            return
        last = some[-1].order_value
        known = {point.id for point in some if point.order_value == last} | (known if last == start else set())
        limit = limit if new else 2 * asked["limit"]  # a whole portion of one number
        start = last


def _vectors(place: Place, wanted: bool) -> Any:
    vector = place.known.layout.vector
    return [vector] if wanted and vector else wanted


def only(*keys: str) -> Any:
    """Some keys of a payload."""
    return models().PayloadSelectorInclude(include=list(keys))


def id_of(point: Any) -> str:
    """The id of a document."""
    return str((point.payload or {}).get("_bq_id", point.id))


def values(place: Place, filter: Any, field: str) -> Iterator[tuple[str, Any]]:
    """The id of each document that matches, and the value of a field, or `NOTHING`."""
    for some in points(place, filter):
        for point in some:
            row = row_of(point.id, point.payload)
            metadata = {key: value for key, value in metadata_of(row).items() if not key.startswith("_bq_")}
            yield row.id, field_of(metadata, field)


def facets(place: Place, filter: Any, field: str) -> list[tuple[Any, int]]:
    """As `engine.listing.facets`."""
    counts: dict[Any, int] = {}
    kept: dict[Any, Any] = {}
    for _, value in values(place, filter, field):
        if value is NOTHING:
            continue
        own: dict[Any, Any] = {}
        for each in value if isinstance(value, list) else [value]:
            if not isinstance(each, (list, dict)):
                plain = _as_shown(each)
                own[isinstance(plain, bool), isinstance(plain, str), plain] = plain
        for key, each in own.items():
            counts[key] = counts.get(key, 0) + 1
            kept[key] = each
    order = sorted(counts, key=lambda key: (-counts[key], str(kept[key])))
    return [(kept[key], counts[key]) for key in order]


def _as_shown(value: Any) -> Any:
    """A date as a column gives it: its text, or a datetime in UTC."""
    marked = plain(value) if hasattr(value, "isoformat") else value
    if marked is None or not isinstance(marked, str):
        return value
    text = typed(marked)[1]
    return as_instant(text)


def place_of(value: Any) -> tuple[int, Any]:
    """The place of a value in the order of a field."""
    if value is NOTHING:
        return 6, 0
    if isinstance(value, (list, dict)):
        return 5, 0
    value = _as_shown(value)
    if isinstance(value, bool):
        return 3, value
    if isinstance(value, (int, float)):
        return 0, value
    return (4, 0) if value is None else (1, value) if isinstance(value, str) else (2, value)


def by_field(place: Place, filter: Any, field: str, descending: bool) -> list[str]:
    """The ids of the documents that match, in the order of a field, those without it last."""
    found = [(place_of(value), id_) for id_, value in values(place, filter, field)]
    there = [each for each in found if each[0][0] < 6]
    there.sort(key=lambda each: each[0], reverse=descending)  # stable: equal ones stay as they were added
    return [id_ for _, id_ in there] + [id_ for key, id_ in found if key[0] == 6]


def records(place: Place, filter: Any, batch: int, with_vectors: bool, skip: int = 0) -> Iterator[Any]:
    """The documents that match, without the first ``skip``."""
    for some in points(place, filter, batch, with_vectors=with_vectors, skip=skip):
        for point in some:
            yield record_of(place.known.layout, point, with_vectors)
