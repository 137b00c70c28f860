"""Documents as points of Qdrant, and back.

The payload is that of langchain-qdrant, ``page_content`` and ``metadata``, and beside them keys of ours, which hold
what Qdrant cannot tell apart, and filters need: see ``docs/scaling.md``.

    _bq_id          the document's id; the point's is its UUIDv5
    _bq_order       microseconds since 1970 when it was added, by which documents are listed
    _bq_ref_doc_id  the source document of a chunk
    _bq_private     JSON text of the adapters' own metadata
    _bq_exact       JSON text of the metadata, where a payload would lose something: dates, numbers of many digits
    _bq_instants    the datetimes with a time zone among the metadata, which no plain string is taken for
    _bq_lists       the fields that hold lists: one of one element would be taken for that, an empty one for no field
    _bq_mixed       those of them that hold such datetimes and strings
    _bq_length      the length of the vector, which is kept as one of length 1 under cosine
    _bq_expires_at  microseconds since 1970 at which the document expires
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..clock import EXPIRES_AT_KEY
from ..metadata import framework_keys
from ..metadata.dates import IN_JSON, MARK, as_instant, in_column, restored
from ..metadata.documents import metadata_of
from ..metadata.to_json import PRIVATE_PREFIX, REF_DOC_ID_KEY
from ..results.hits import Record
from ..storage import Row

F32 = NDArray[np.float32]
TEXT, METADATA = "page_content", "metadata"
ID: Final = PRIVATE_PREFIX + "id"
ORDER: Final = PRIVATE_PREFIX + "order"
REF: Final = REF_DOC_ID_KEY
PRIVATE: Final = PRIVATE_PREFIX + "private"
EXACT: Final = PRIVATE_PREFIX + "exact"
INSTANTS: Final = PRIVATE_PREFIX + "instants"
LISTS: Final = PRIVATE_PREFIX + "lists"
MIXED: Final = PRIVATE_PREFIX + "mixed"
LENGTH: Final = PRIVATE_PREFIX + "length"
EXPIRES: Final = EXPIRES_AT_KEY
_SPACE: Final = uuid.UUID("6f0d5b1e-7c1f-5c53-9a55-62717374726f")  # of the UUIDs that are made of ids
_DIGITS: Final = 15  # of a float, which every parser of JSON gets right
_UNIT: Final = 1e-6


@dataclass(frozen=True)
class Layout:
    """How the points of a collection are made.

    Parameters
    ----------
    ours : bool         made by this package: a point's id is the UUIDv5 of the document's
    flat : bool         metadata lies in the payload itself, as LlamaIndex has it; such collections are only read
    vector : str        the vector's name; "" for one without
    """

    ours: bool = True
    flat: bool = False
    vector: str = "vector"

    def point_id(self, id_: str) -> str | int:
        """The id of a document's point."""
        if not self.ours:
            if id_.isdecimal() and id_.isascii() and int(id_) < 2**64 and str(int(id_)) == id_:
                return int(id_)
            try:
                if str(uuid.UUID(id_)) == id_.lower():
                    return id_.lower()
            except ValueError:
                pass
        return str(uuid.uuid5(_SPACE, id_))

    def path(self, *parts: str) -> str:
        """The path in a payload of a metadata field."""
        return ".".join(map(_quoted, parts if self.flat else (METADATA, *parts)))


def _quoted(part: str) -> str:
    plain = part.replace("_", "a").replace("-", "a")
    return part if plain.isalnum() and plain.isascii() else f'"{part}"'


def payload_of(row: Row, order: int, length: float | None) -> dict[str, Any]:
    """The payload of a document; ``length`` of its vector, where it is not kept as it is."""
    metadata = json.loads(row.metadata)
    time = metadata.pop(EXPIRES, None)
    plain = _plain(metadata)
    out = {TEXT: row.text, METADATA: plain, ID: row.id, ORDER: order}
    if time is not None:
        out[EXPIRES] = time
    if plain is not metadata or _is_rounded(metadata):
        out[EXACT] = row.metadata if time is None else json.dumps(metadata, ensure_ascii=False)
    if row.private is not None:
        out[PRIVATE] = row.private
    if row.ref_doc_id is not None:
        out[REF] = row.ref_doc_id
    if IN_JSON in row.metadata and (instants := instants_of(metadata)) is not None:
        out[INSTANTS] = instants
    if lists := _lists(metadata):
        out[LISTS] = list(lists)
        if INSTANTS in out and (mixed := [name for name, each in lists.items() if _is_mixed(each)]):
            out[MIXED] = mixed
    if length is not None and abs(length - 1) > _UNIT and length > 0:
        out[LENGTH] = length
    return out


def _plain(value: Any) -> Any:
    """A JSON value as a payload can hold it; itself, if it is so."""
    if isinstance(value, str):
        if value[:2] != MARK:
            return value
        date = restored(value)
        return date if isinstance(date, str) else date.isoformat()
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(value) if abs(value) < 10**308 else str(value)
    if isinstance(value, list):
        items = [_plain(each) for each in value]
        if _is_mixed(value):  # what is found by a piece of text is to be a string, no datetime
            items = [
                {"datetime": each} if isinstance(was, str) and instants_of(was) else each
                for was, each in zip(value, items, strict=True)
            ]
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    if isinstance(value, dict):
        fields = {key: _plain(each) for key, each in value.items()}
        return fields if any(fields[key] is not value[key] for key in fields) else value
    return value


def _alike(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal, but for the last digits of numbers, which a server may round."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, float) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-14)
    return bool(a == b)


def _is_rounded(value: Any) -> bool:
    """Whether there are numbers of so many digits that a server may round them."""
    if isinstance(value, float):
        return len(repr(value).partition("e")[0].strip("-0.").replace(".", "")) > _DIGITS
    if isinstance(value, (list, dict)):
        return any(map(_is_rounded, value.values() if isinstance(value, dict) else value))
    return False


def instants_of(value: Any) -> Any:
    """The datetimes with a time zone within a value, in UTC, at their places; None if there are none."""
    if isinstance(value, str):
        text = in_column(value) if value[:2] == MARK else value
        found = as_instant(text) if text[:2] == MARK else text
        return None if isinstance(found, str) else found.isoformat()
    if isinstance(value, list):
        return [one for each in value if isinstance(each, str) and (one := instants_of(each)) is not None] or None
    if isinstance(value, dict):
        return {key: one for key, each in value.items() if (one := instants_of(each)) is not None} or None
    return None


def _is_mixed(values: list[Any]) -> bool:
    texts = [each for each in values if isinstance(each, str)]
    return 0 < sum(instants_of(each) is not None for each in texts) < len(texts)


def _lists(metadata: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The fields that hold lists, by their names in filters: the exact key, else the dotted path."""
    found: dict[str, Any] = {}

    def look(value: Mapping[str, Any], before: str) -> None:
        for key, each in value.items():
            found[before + key] = each
            if isinstance(each, dict):
                look(each, f"{before}{key}.")

    look(metadata, "")
    found |= metadata
    return {key: each for key, each in found.items() if isinstance(each, list)}


def row_of(point_id: Any, payload: Mapping[str, Any] | None) -> Row:
    """A point as the row of a local collection."""
    payload = payload or {}
    if ID not in payload:
        text, metadata = framework_keys.of_payload(payload)
        ref = metadata.pop(REF, None)
        private = {key: metadata.pop(key) for key in list(metadata) if key.startswith(PRIVATE_PREFIX)}
        own = json.dumps(private) if private else None
        return Row(0, 0, str(point_id), text, json.dumps(metadata), own, ref)
    metadata = payload.get(METADATA) or {}
    exact = payload.get(EXACT)
    if exact is None or not _alike(_plain(json.loads(exact)), metadata):  # somebody else has changed the payload since
        exact = json.dumps(metadata)
    if EXPIRES in payload:
        exact = json.dumps({**json.loads(exact), EXPIRES: payload[EXPIRES]}, ensure_ascii=False)
    return Row(0, 0, payload[ID], payload.get(TEXT), exact, payload.get(PRIVATE), payload.get(REF))


def is_over(layout: Layout, point: Any, now: int) -> bool:
    """Whether a document has expired; documents in collections of other programs never do."""
    time = (point.payload or {}).get(EXPIRES) if layout.ours else None
    return time is not None and bool(time <= now)


def record_of(layout: Layout, point: Any, with_vectors: bool = False) -> Record:
    """A point as `Collection.get` returns a document."""
    row = row_of(point.id, point.payload)
    return Record(row.id, row.text, metadata_of(row), vector_of(layout, point) if with_vectors else None)


def vector_of(layout: Layout, point: Any) -> F32 | None:
    """The vector of a point as it was added, as far as the server keeps it."""
    found = point.vector
    if isinstance(found, Mapping):
        found = found.get(layout.vector)
    if found is None:
        return None
    vector = np.asarray(found, np.float32)
    length = (point.payload or {}).get(LENGTH)
    return vector if length is None else (vector.astype(np.float64) * length).astype(np.float32)
