"""The data that `bqstore view` shows: a sample of documents, limited in number and size, and the collection's figures.

Texts are shown as stored, but long ones are cut.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import bqstore

from .template import shown

NEAREST = 5  # nearest documents listed for each document
_ROOM = 1_500_000  # bytes of all texts on the page, at most; as much again for ids and metadata
_LONGEST = 4_000  # bytes of one text, at most
_FIELDS = 10  # metadata fields offered for filters and colors, at most
_VALUES = 100  # distinct values of such a field, at most
_LONG_VALUE = 80  # characters; a field with longer values is not offered
_FEW = 12  # up to so many distinct numbers are offered as values, more as a range
_PAIRS = 20_000  # random pairs of documents whose scores are shown
_SEED = 7

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Document:
    """A document on the page; ``cut`` if part of it is left out."""

    id: str
    text: str
    metadata: str
    cut: bool


@dataclass(frozen=True)
class Field:
    """A metadata field with few values or with numbers: ``codes`` are places in ``values``, or the numbers themselves.

    A document without the field has None; one with a list has the places of its elements.
    """

    name: str
    values: list[str] | None
    codes: list[Any]


@dataclass(frozen=True)
class View:
    """Everything that the page shows.

    ``spread`` is the share of the variance that the map keeps; ``nearest`` has for each document others by their place
    in ``documents``, or by id if they are not there.
    """

    info: "bqstore.CollectionInfo"
    others: list[str]
    matching: int
    wanted: Mapping[str, Any] | None
    documents: list[Document]
    fields: list[Field]
    places: list[list[float]]
    spread: float
    nearest: list[list[tuple[int | str, float]]]
    scores: "bqstore.Histogram | None"
    report: "bqstore.RecallReport | None"
    left_out: list[str]
    damaged: list[str]  # ids of documents that cannot be read


def looked_at(
    col: "bqstore.Collection",
    others: list[str],
    most: int,
    wanted: Mapping[str, Any] | None = None,
    report: "bqstore.RecallReport | None" = None,
) -> View:
    """Take a sample of at most ``most`` of the documents that match ``wanted``, always the same ones."""
    info = col.info()
    has_vectors = info.originals != "none"
    ids = col.ids(wanted)
    matching = len(ids)
    if matching > most:
        some = np.sort(np.random.default_rng(_SEED).permutation(matching)[:most])
        ids = [ids[place] for place in some.tolist()]
    records, damaged = _intact(col, ids, has_vectors)
    documents = [_document(each, len(records)) for each in records]
    fields, unused = _fields([each.metadata for each in records])
    vectors = _vectors(records, info.distance) if has_vectors and records else np.empty((0, 2))
    nearest = _nearest(col, records, damaged) if has_vectors and records else []
    damaged = [_shortened(each, _LONG_VALUE) for each in dict.fromkeys(damaged)]
    places, spread = plane(vectors)
    return View(
        info=info,
        others=others,
        matching=matching,
        wanted=wanted,
        documents=documents,
        fields=fields,
        places=[[_rounded(x) for x in place] for place in places.tolist()],
        spread=spread,
        nearest=nearest,
        scores=_scores(vectors, nearest, info.distance),
        report=report,
        left_out=_left_out(documents, unused),
        damaged=damaged,
    )


def _intact(col: "bqstore.Collection", ids: list[str], has_vectors: bool) -> tuple[list["bqstore.Record"], list[str]]:
    """The records of these ids, and the ids of damaged ones. Raises CorruptionError if all are damaged."""
    found: list[bqstore.Record] = []
    damaged: list[str] = []
    waiting = [ids]
    while waiting:
        some = waiting.pop()
        try:
            found += col.get(some, with_vectors=has_vectors)
        except bqstore.CorruptionError:
            if len(some) == 1:
                damaged += some
                if len(damaged) == len(ids):
                    raise
                continue
            half = len(some) // 2
            waiting += [some[half:], some[:half]]
    return found, damaged


def _left_out(documents: list[Document], unused: list[str]) -> list[str]:
    """Sentences about the parts of documents that the page leaves out."""
    said = []
    if cut := sum(each.cut for each in documents):
        said.append(f"Of {cut:,} documents the page has only the first part of what is long; it ends in “…”.")
    if unused:
        more = f" and {len(unused) - _FIELDS:,} more" if len(unused) > _FIELDS else ""
        names = ", ".join(_shortened(name, _LONG_VALUE) for name in unused[:_FIELDS])
        said.append(
            f"Fields without a filter, as their values are too many, too long or nested: {names}{more}. The search box "
            "finds them."
        )
    return said


# ---- documents


def _document(record: "bqstore.Record", among: int) -> Document:
    room = min(_LONGEST, _ROOM // among)
    public = {name: value for name, value in record.metadata.items() if not name.startswith(bqstore.PRIVATE_PREFIX)}
    told = json.dumps(public, ensure_ascii=False, default=str) if public else ""
    whole = (record.id, record.text or "", told)
    kept = [_shortened(text, size) for text, size in zip(whole, (room // 4, room, room // 2), strict=True)]
    return Document(kept[0], kept[1], kept[2], kept != list(whole))


def _shortened(text: str, size: int) -> str:
    """The beginning of a text, at most ``size`` bytes of HTML; if it is cut, it ends in an ellipsis."""
    kept = text[:size]
    while (length := len(shown(kept).encode("utf-8", "replace"))) > size:
        kept = kept[: max(1, len(kept) * size // length - 1)] if len(kept) > 1 else ""
    return kept if kept == text else kept + "…"


# ---- metadata to filter and to color by


def _fields(metadatas: Sequence[Mapping[str, Any]]) -> tuple[list[Field], list[str]]:
    """The fields offered on the page, the most frequent first; and the names of the others."""
    names: dict[str, int] = {}
    for each in metadatas:
        for name in each:
            if not name.startswith(bqstore.PRIVATE_PREFIX):
                names[name] = names.get(name, 0) + 1
    good: list[Field] = []
    unused: list[str] = []
    for name in sorted(names, key=lambda name: -names[name]):
        field = _field(name, [each.get(name) for each in metadatas]) if len(good) < _FIELDS else None
        if field is None:
            unused.append(name)
        else:
            good.append(field)
    return good, unused


def _field(name: str, column: list[Any]) -> Field | None:
    """The field, unless its values are too many or too long."""
    there = [value for value in column if value is not None]
    if (
        all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in there)
        and len(set(there)) > _FEW
    ):
        try:
            return Field(name, None, [None if value is None else float(value) for value in column])
        except OverflowError:  # an integer too large for a float
            return None
    values: dict[tuple[bool, str], int] = {}
    codes: list[Any] = []
    for value in column:
        several = value if isinstance(value, list) else [value]
        found = []
        for each in several:
            if each is None:
                continue
            label = _label(each)
            if label is None or len(label) > _LONG_VALUE:
                return None
            found.append(values.setdefault((isinstance(each, str), label), len(values)))
            if len(values) > _VALUES:
                return None
        several = list(dict.fromkeys(found))
        codes.append(several if isinstance(value, list) and several else several[0] if several else None)
    return Field(name, [label for _, label in values], codes) if values else None


def _label(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (bool, int, float)) else None


# ---- vectors


def _vectors(records: Iterable["bqstore.Record"], distance: str) -> Floats:
    """The vectors of the sample, scaled to unit length for cosine."""
    vectors = np.stack([np.asarray(each.vector, np.float64) for each in records])
    if distance == "cosine":
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.where(lengths == 0.0, 1.0, lengths)
    return vectors


def plane(vectors: Floats) -> tuple[Floats, float]:
    """The two principal components, and the share of the variance that they hold.

    Parameters
    ----------
    vectors : float64 (n, dim)

    Returns
    -------
    places : float64 (n, 2), share : float
    """
    n, dim = vectors.shape
    if n < 2:
        return np.zeros((n, 2)), 1.0
    largest = float(np.abs(vectors).max()) or 1.0  # scaling by it keeps squares finite
    centered = (vectors - vectors.mean(axis=0)) / largest
    total = float((centered**2).sum())
    if dim <= n:
        axes = np.linalg.eigh(centered.T @ centered)[1][:, ::-1][:, :2]
        places = centered @ axes
    else:  # the smaller of the two products has the same components
        values, left = np.linalg.eigh(centered @ centered.T)
        places = left[:, ::-1][:, :2] * np.sqrt(np.maximum(values[::-1][:2], 0.0))
    places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
    share = float((places**2).sum()) / total if total else 1.0
    return places * largest, min(1.0, share)


def _nearest(
    col: "bqstore.Collection", records: Sequence["bqstore.Record"], damaged: list[str]
) -> list[list[tuple[int | str, float]]]:
    """The nearest documents of each document in the whole collection, by search, without itself.

    Unreadable ones are left out, too, and added to ``damaged``.
    """
    queries = np.stack([np.asarray(each.vector, np.float32) for each in records])
    try:
        ids, scores = col.search_ids(queries, NEAREST + 1)
        rows = [list(zip(*row, strict=True)) for row in zip(ids.tolist(), scores.tolist(), strict=True)]
    except bqstore.CorruptionError:
        rows = []
        for hits in col.search_batch(queries, NEAREST + 1, allow_damaged=True):
            rows.append([(hit.id, hit.score) for hit in hits])
            if isinstance(hits, bqstore.PartialHits):
                damaged += [each or "a document without an id" for each in hits.left_out]
    at = {each.id: i for i, each in enumerate(records)}
    found = []
    for record, row in zip(records, rows, strict=True):
        pairs = [(id_, score) for id_, score in row if id_ is not None and id_ != record.id]
        found.append([(at.get(id_, _shortened(id_, _LONG_VALUE)), score) for id_, score in pairs[:NEAREST]])
    return found


def _scores(vectors: Floats, nearest: list[list[tuple[int | str, float]]], distance: str) -> "bqstore.Histogram | None":
    """Scores of the nearest, and of documents picked at random."""
    near = np.array([score for found in nearest for _, score in found])
    if len(vectors) < 2 or not len(near):
        return None
    rng = np.random.default_rng(_SEED)
    one = rng.integers(len(vectors), size=_PAIRS)
    other = (one + rng.integers(1, len(vectors), size=_PAIRS)) % len(vectors)
    far = np.concatenate(
        [
            -np.linalg.norm(vectors[a] - vectors[b], axis=1)
            if distance == "euclid"
            else np.einsum("ij,ij->i", vectors[a], vectors[b])
            for a, b in zip(np.split(one, 20), np.split(other, 20), strict=True)
        ]
    )
    edges = np.histogram_bin_edges(np.concatenate([near, far]), 40)
    counts = [tuple(np.histogram(values, edges)[0].tolist()) for values in (near, far)]
    return bqstore.Histogram(tuple(edges.tolist()), *counts)


def _rounded(value: float) -> float:
    """Round to four digits, enough for a map."""
    return float(f"{value:.4g}")
