"""Import a source into a collection: streamed, resumable, and verified at the end.

Documents that the collection already holds unchanged are skipped, so an interrupted import resumes where it stopped.
At the end every document is read back and compared. For a sample, the nearest neighbors are computed from the source by
brute force and compared with those that exact searches find.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

import bqstore

from .kinds import open_source
from .source import F32, Batch, Source

_SAMPLE, _K = 20, 10  # documents whose neighbors are compared; neighbors of each
_NEAR = 1e-4  # tolerance of scores: float32 sums in a different order differ


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes
    ----------
    kind, collection, dim               those of the source
    distance : str                      the one given as a setting; otherwise that of the source
    documents : int                     documents in the source
    added, unchanged : int              documents written; documents already in the collection with equal contents
    skipped : tuple of Skipped          documents that a collection cannot store, and why
    compared : int                      documents read back and found equal in id, text, metadata and vector
    differing : tuple of str            ids of documents that were read back and differ
    neighbors : float or None           share of the true nearest neighbors in the source that exact searches find; None
                                        if the collection holds other documents too, or none were compared
    notes : tuple of str                what was not imported, and why
    seconds : float
    """

    kind: str
    collection: str
    distance: str
    dim: int
    documents: int
    added: int = 0
    unchanged: int = 0
    skipped: tuple[bqstore.Skipped, ...] = ()
    compared: int = 0
    differing: tuple[str, ...] = ()
    neighbors: float | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every imported document equals the source's, and exact searches find the true neighbors."""
        return not self.differing and self.neighbors in (None, 1.0)


def import_from(
    source: str | PathLike[str] | Source,
    store: str | PathLike[str],
    collection: str = "default",
    *,
    kind: str | None = None,
    from_collection: str | None = None,
    dry_run: bool = False,
    progress: Callable[[int], object] | None = None,
    **settings: Any,
) -> ImportReport:
    """Import all documents of another store into a collection.

    Parameters
    ----------
    source : path or Source         see `open_source`
    store, collection               the target; an existing collection keeps its documents, except that those with ids
                                    of the source are replaced
    kind, from_collection           see `open_source`
    dry_run : bool                  report what would be imported, and write nothing
    progress : callable or None     called with the number of documents processed so far
    settings                        those of `bqstore.open`; ``distance`` is the source's unless it is given

    Raises
    ------
    As `open_source` and `bqstore.open`. Documents that cannot be stored are skipped and listed in the report.

    >>> import json, pathlib
    >>> lines = pathlib.Path("old.jsonl")
    >>> done = lines.write_text(json.dumps({"id": "a", "text": "one", "vector": [1, 0], "lang": "en"}))
    >>> report = import_from(lines, "moved")
    >>> report.kind, report.added, report.compared, report.ok
    ('jsonl', 1, 1, True)
    >>> with bqstore.open("moved") as col:
    ...     col.get(["a"])
    [Record(id='a', text='one', metadata={'lang': 'en'}, vector=None)]
    """
    begun = time.monotonic()
    found = source if isinstance(source, Source) else open_source(source, kind=kind, from_collection=from_collection)
    settings.setdefault("distance", found.distance)
    report = ImportReport(
        found.kind, found.collection, settings["distance"], found.dim, found.count, notes=tuple(found.notes)
    )
    if dry_run:
        return report
    with bqstore.open(store, collection, **settings) as col:
        added, unchanged, skipped = _copied(found, col, progress)
        compared, differing, neighbors = _compared(found, col, {each.id for each in skipped})
        return replace(
            report,
            added=added,
            unchanged=unchanged,
            skipped=tuple(skipped),
            compared=compared,
            differing=tuple(differing),
            neighbors=neighbors,
            seconds=time.monotonic() - begun,
        )


def _copied(
    source: Source, col: bqstore.Collection, progress: Callable[[int], object] | None
) -> tuple[int, int, list[bqstore.Skipped]]:
    """Add the documents that are missing or differ. Returns the numbers added and unchanged, and those skipped."""
    added = unchanged = done = 0
    skipped: list[bqstore.Skipped] = []
    for batch in source.batches():
        there = _equal(batch, col)
        # of several documents with one id the last is kept, as if they were added one by one
        new = {id_: place for place, (id_, same) in enumerate(zip(batch.ids, there, strict=True)) if not same}
        unchanged += sum(there)
        if new:
            places = list(new.values())
            texts, metadatas = [batch.texts[place] for place in places], [batch.metadatas[place] for place in places]
            result = col.add(batch.vectors[places], list(new), texts, metadatas, on_error="skip")
            left_out = [*result.skipped, *_over(col, list(new), metadatas, {each.id for each in result.skipped})]
            skipped.extend(left_out)
            added += len(new) - len(left_out)
        done += len(there)
        if progress is not None:
            progress(done)
    return added, unchanged, skipped


def _over(
    col: bqstore.Collection, ids: list[str], metadatas: list[dict[str, Any]], skipped: set[str | None]
) -> list[bqstore.Skipped]:
    """Those of the documents just added that have expired already: no call returns them."""
    timed = [place for place, given in enumerate(metadatas) if bqstore.EXPIRES_AT_KEY in given]
    there = skipped.union(each.id for each in col.get([ids[place] for place in timed])) if timed else skipped
    return [bqstore.Skipped(place, ids[place], "it has expired") for place in timed if ids[place] not in there]


def _equal(batch: Batch, col: bqstore.Collection) -> list[bool]:
    """For each document of a batch, whether the collection holds an equal one."""
    originals = col.info().originals
    ids = [id_ for id_ in batch.ids if id_.isprintable() or _is_text(id_)]
    records = {each.id: each for each in col.get(ids, with_vectors=originals != "none")}

    def same(place: int) -> bool:  # all but the metadata
        record = records.get(batch.ids[place])
        if record is None or record.text != batch.texts[place]:
            return False
        return record.vector is None or _close(record.vector, batch.vectors[place], originals)

    out = [same(place) for place in range(len(batch.ids))]
    other = [
        place for place, id_ in enumerate(batch.ids) if out[place] and records[id_].metadata != batch.metadatas[place]
    ]
    for place, stored in zip(other, _as_stored([batch.metadatas[place] for place in other]), strict=True):
        out[place] = records[batch.ids[place]].metadata == stored
    return out


def _is_text(id_: str) -> bool:
    """Whether UTF-8 can encode the id: `add` refuses lone surrogates."""
    return all(not 0xD800 <= ord(character) < 0xE000 for character in id_)


def _close(stored: F32, given: F32, originals: str) -> bool:
    if originals == "float32":
        return bool(np.array_equal(stored, given))
    most = float(np.abs(given).max(initial=0))
    return bool(np.abs(stored - given).max(initial=0) <= most * (1e-3 if originals == "float16" else 1e-2))


def _as_stored(metadatas: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """Metadata as a collection returns it; None if it cannot be stored."""
    if not metadatas:
        return []
    ids = [str(place) for place in range(len(metadatas))]
    with bqstore.open(quantization={"encoding": "one_bit"}) as scratch:
        scratch.add(np.ones((len(ids), 1)), ids, metadatas=metadatas, on_error="skip")
        found = {each.id: each.metadata for each in scratch.get(ids)}
    return [found.get(id_) for id_ in ids]


def _compared(source: Source, col: bqstore.Collection, skipped: set[str | None]) -> tuple[int, list[str], float | None]:
    """The number of documents read back equal, the ids of the others, and the share of neighbors found."""
    equal = 0
    differing: dict[str, None] = {}
    queries = _sample(source)
    unit = col.info().distance == "cosine"
    best = np.full((len(queries), 0), -np.inf, np.float32)
    for batch in source.batches():
        for id_, same in zip(batch.ids, _equal(batch, col), strict=True):
            if same:
                equal += 1
                differing.pop(id_, None)  # it replaced an earlier document of the same id
            elif id_ not in skipped:
                differing[id_] = None
        kept = batch.vectors[[id_ not in skipped for id_ in batch.ids]]
        best = np.sort(np.concatenate([best, _scores(queries, kept, col.info().distance)], axis=1))[:, -_K:]
    whole = col.count() == equal == source.count - len(skipped) and col.info().originals != "none"
    if not len(queries) or not equal or differing or not whole:
        return equal, list(differing), None
    _, scores = col.search_ids(queries, min(_K, equal), exact=True)
    near = _NEAR * max(1.0, float(np.abs(best).max())) if not unit else _NEAR
    found = np.sort(scores)[:, -best.shape[1] :] >= best - near
    return equal, [], float(found.mean())


def _sample(source: Source) -> F32:
    """Vectors of evenly spaced documents, float32 (m, dim), without zero or non-finite vectors."""
    step, at = max(1, source.count // _SAMPLE), 0
    some: list[F32] = []
    for batch in source.batches():
        some.extend(batch.vectors[place] for place in range(-at % step, len(batch.ids), step))
        at += len(batch.ids)
    found = np.array([each for each in some[:_SAMPLE] if np.isfinite(each).all() and each.any()], np.float32)
    return found.reshape(len(found), source.dim)


def _scores(queries: F32, vectors: F32, distance: str) -> NDArray[np.float32]:
    """Scores of all vectors for each query, defined as a collection's are: float32 (m, n)."""
    q, v = queries.astype(np.float64), vectors.astype(np.float64)
    if distance == "euclid":
        return -np.sqrt(np.maximum((q**2).sum(1)[:, None] + (v**2).sum(1) - 2 * q @ v.T, 0)).astype(np.float32)  # type: ignore[no-any-return]
    if distance == "cosine":
        q, v = (each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-300) for each in (q, v))
    return (q @ v.T).astype(np.float32)
