"""`copy`: a collection goes into another store, or to a Qdrant server, or from one; whole folders are copied as files.

To and from a server documents are streamed: read portion by portion, written, and noted in a journal once they are
acknowledged. An interrupted copy goes on after those. Documents are written by their ids, so that one which is written
twice is stored once.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .arguments import check_int, checked_keywords
from .embeddings import user_cache_folder
from .errors import InvalidInputError, SettingsConflictError
from .opening import open as open_collection
from .protocol import CollectionProtocol
from .remote import is_remote
from .results.hits import Record
from .results.outcomes import CopyReport
from .storage.files import storage_errors
from .stores import copy as copy_folder

F32 = NDArray[np.float32]
_SAMPLE: Final = 200  # documents that are compared whole
_QUERIES: Final = 50
_K: Final = 10
_ROUNDED: Final = {"float32": 1e-5, "float16": 2e-3, "int8": 2e-2, "none": 0.5}  # of the largest value of a vector


@checked_keywords
def copy(
    path: str | PathLike[str] | Any,
    collection: str = "default",
    new: str | None = None,
    *,
    to: str | PathLike[str] | Any = None,
    journal: str | PathLike[str] | None = None,
    batch: int = 1000,
    progress: Callable[[int, int], object] | None = None,
    from_settings: Mapping[str, Any] | None = None,
    to_settings: Mapping[str, Any] | None = None,
) -> CopyReport | None:
    """Copy a collection under another name, into another store, to a Qdrant server, or from one.

    Between folders, its last commit is copied as files, every record verified: nothing is at the new place until all of
    it is on the disk, and others may write meanwhile.

    To and from a server, documents are read and written portion by portion. If the call is interrupted, it goes on when
    it is made again. At the end the counts, a digest of all ids, a sample of documents with their vectors, and hits of
    searches are compared with the source: `CopyReport.ok`. Documents that others write meanwhile may be missing in the
    copy; another call copies them.

    Parameters
    ----------
    path                    folder of the store, ``"qdrant://host:6333/name"``, or a ``QdrantClient``
    collection : str        its name there, if the address has none
    new : str or None       its name in the copy; None: the same
    to                      where to: as ``path``; None: the same store
    journal : path or None  the file that says how far the copy is, removed at the end; None: one in the user's cache
    batch : int             documents to read at a time
    progress : callable     called with the number of documents copied so far, and in all
    from_settings, to_settings : dict
                            keywords of `open` for both, such as ``api_key``; by default the copy has the distance,
                            originals and model of the source

    Returns
    -------
    CopyReport              None for a copy between folders

    Raises
    ------
    NotFoundError           there is no such collection
    InvalidInputError       between folders: there is one of the new name
    CorruptionError         the collection is damaged
    ServerError             the server cannot be reached; the next call goes on

    >>> import bqstore
    >>> from qdrant_client import QdrantClient
    >>> with bqstore.open("my-store", "notes") as col:
    ...     ids = col.add([[1.0, 0.0], [0.5, 0.5]])
    >>> bqstore.copy("my-store", "notes", "notes before the move")
    >>> len(bqstore.open("my-store", "notes before the move"))
    2
    >>> report = bqstore.copy("my-store", "notes", to=QdrantClient(":memory:"))
    >>> report.documents, report.copied, report.ok
    (2, 2, True)
    """
    target = path if to is None else to
    if not is_remote(path) and not is_remote(target):
        for name, value in (("from_settings", from_settings), ("to_settings", to_settings), ("journal", journal)):
            if value is not None:
                raise InvalidInputError(f"{name} is for copies to and from a server; leave it out between folders")
        copy_folder(path, collection, collection if new is None else new, to=to)
        return None
    batch = check_int("batch", batch, 1, 1_000_000)
    begun = time.monotonic()
    with open_collection(path, collection, read_only=True, **(from_settings or {})) as source:
        info = source.info()
        if info.originals == "none" and not is_remote(path):
            raise InvalidInputError("this collection keeps no originals, so there are no vectors to copy")
        name = new if new is not None else "default" if _has_name(target) else info.collection
        given = {**_settings_of(info, is_remote(target)), **(to_settings or {})}
        with _opened(target, name, given, to_settings or {}) as made:
            kept = _Journal(journal, source, made)
            copied, resumed, sample = _streamed(source, made, kept, batch, progress)
            report = _compared(source, made, sample, copied, resumed, time.monotonic() - begun)
            kept.remove()
            return report


def _has_name(target: Any) -> bool:
    """Whether an address names the collection itself."""
    return isinstance(target, str) and is_remote(target) and "/" in target.split("?")[0].partition("://")[2].rstrip("/")


def _opened(target: Any, name: str, given: Mapping[str, Any], asked: Mapping[str, Any]) -> Any:
    """The copy. If it was made before, it keeps its text index, or none, unless one is asked for."""
    try:
        return open_collection(target, name, **given)
    except SettingsConflictError:
        if "text_index" in asked or "text_index" not in given:
            raise
        return open_collection(target, name, **{**given, "text_index": None})


def _settings_of(info: Any, remote: bool) -> dict[str, Any]:
    """The settings of the copy of a collection."""
    out: dict[str, Any] = {"distance": info.distance, "embedding_model": info.embedding_model}
    if info.originals == "float16" or (info.originals == "int8" and not remote):
        out["originals"] = info.originals
    if remote and info.columns:
        out["index_metadata"] = [key for key in info.columns if not key.startswith("_bq_")]
    if info.text_index is not None:
        out["text_index"] = {"tokenize": info.text_index["tokenize"]}
    return out


class _Journal:
    """A file of lines, each of how many documents are done and the id of the last; the first says of which copy."""

    def __init__(self, path: str | PathLike[str] | None, source: CollectionProtocol, made: CollectionProtocol) -> None:
        ends = [[info.path, info.collection] for info in (source.info(), made.info())]
        self._head = json.dumps(ends)
        mark = hashlib.sha256(self._head.encode()).hexdigest()[:32]
        # a collection in memory ends with the process, and its journal could be taken for that of another
        lasts = path is not None or all(end[0] is not None for end in ends)
        folder = user_cache_folder() / "bqstore" / "copies"
        self._path = Path(path) if path is not None else folder / f"{mark}.jsonl" if lasts else None

    def read(self) -> tuple[int, str | None]:
        """How many documents are done, and the id of the last; (0, None) where there is no journal of this copy."""
        if self._path is None or not self._path.exists():
            return 0, None
        with storage_errors(f"read {self._path}"):
            lines = self._path.read_text("utf-8").splitlines()
        if not lines or lines[0] != self._head:
            return 0, None
        for line in reversed(lines[1:]):
            try:
                done, last = json.loads(line)
                return int(done), str(last)
            except (ValueError, TypeError):  # the last was cut short
                continue
        return 0, None

    def begin(self) -> None:
        """Begin anew, if it does not go on."""
        if self._path is not None:
            with storage_errors(f"write {self._path}"):
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._path.write_text(self._head + "\n", "utf-8")

    def note(self, done: int, last: str) -> None:
        """Note how far it is. Not synced: documents whose note is lost are copied again."""
        if self._path is not None:
            with storage_errors(f"write {self._path}"), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([done, last]) + "\n")

    def remove(self) -> None:
        """The copy is complete."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _portions(records: Iterator[Record], batch: int) -> Iterator[list[Record]]:
    while some := list(islice(records, batch)):
        yield some


@dataclass
class _Sample:
    """Documents at equal steps; the steps grow as more documents come."""

    step: int = 1
    seen: int = 0
    kept: list[Record] = field(default_factory=list)

    def see(self, record: Record) -> None:
        if self.seen % self.step == 0:
            self.kept.append(record)
            if len(self.kept) > 2 * _SAMPLE:
                self.kept, self.step = self.kept[::2], 2 * self.step
        self.seen += 1


def _streamed(
    source: CollectionProtocol,
    made: CollectionProtocol,
    journal: _Journal,
    batch: int,
    progress: Callable[[int, int], object] | None,
) -> tuple[int, int, _Sample]:
    """Copy what the journal does not have: how many now, how many before, and a sample."""
    total, sample = len(source), _Sample()
    resumed, last = journal.read()
    if resumed:
        before = [record.id for record in source.scroll(offset=resumed - 1, limit=1)]
        if before != [last] or last not in made:  # the source has changed, or the copy is gone
            resumed = 0
    if not resumed:
        journal.begin()
    copied = 0
    for some in _portions(source.scroll(batch=batch, offset=resumed, with_vectors=True), batch):
        for record in some:
            sample.see(record)
        vectors = np.stack([_vector(record) for record in some])
        made.add(vectors, [each.id for each in some], [each.text for each in some], [each.metadata for each in some])
        copied += len(some)
        journal.note(resumed + copied, some[-1].id)
        if progress is not None:
            progress(resumed + copied, total)
    return copied, resumed, sample


def _vector(record: Record) -> F32:
    if record.vector is None:
        raise InvalidInputError(f"the document {record.id!r} has no vector: delete it, or add it again")
    return record.vector


def _digest(ids: Iterator[str]) -> tuple[int, int]:
    """The number of ids, and the sum of their hashes, which does not depend on their order."""
    count = total = 0
    for id_ in ids:
        count += 1
        total += int.from_bytes(hashlib.blake2b(id_.encode(), digest_size=16).digest(), "big")
    return count, total % 2**128


def _compared(
    source: CollectionProtocol, made: CollectionProtocol, sample: _Sample, copied: int, resumed: int, seconds: float
) -> CopyReport:
    """Compare a copy with its source."""
    ends = [_digest(iter(each.ids())) for each in (source, made)]
    infos = [source.info(), made.info()]
    rounded = max(_ROUNDED[info.originals] for info in infos)
    some = sample.kept[:: max(1, len(sample.kept) // _SAMPLE)]
    there = {record.id: record for record in made.get([record.id for record in some], with_vectors=True)}
    left = {record.id for record in source.get([record.id for record in some])}
    some = [record for record in some if record.id in left]  # others have expired since they were read, in both
    differing = [record.id for record in some if not _same(record, there.get(record.id), rounded)]
    recall = None
    queries = [record.vector for record in some if record.vector is not None and record.vector.any()][:_QUERIES]
    if queries and ends[0] == ends[1]:
        recall = _recall(source, made, np.stack(queries))
    return CopyReport(
        documents=ends[0][0],
        copied=copied,
        resumed=resumed,
        there=ends[1][0],
        same_ids=ends[0] == ends[1],
        compared=len(some),
        differing=tuple(differing),
        recall=recall,
        seconds=seconds,
    )


def _same(record: Record, other: Record | None, rounded: float) -> bool:
    if other is None or (record.text, record.metadata) != (other.text, other.metadata):
        return False
    a, b = record.vector, other.vector
    if a is None or b is None:
        return True  # one keeps no originals
    return a.shape == b.shape and bool(np.abs(a - b).max(initial=0) <= rounded * max(1e-30, np.abs(a).max(initial=0)))


def _recall(source: CollectionProtocol, made: CollectionProtocol, queries: F32) -> float:
    """The share of the true nearest in the source that searches of the copy find, as it is used."""
    truth, scores = source.search_ids(queries, _K, exact=True)
    found, others = made.search_ids(queries, _K)
    hits = total = 0
    for wanted, least, names, values in zip(truth, scores, found, others, strict=True):
        ids = {name for name in wanted if name is not None}
        low = np.nanmin(least)
        total += len(ids)
        near = low - 1e-4 * max(1.0, abs(float(low)))
        hits += sum(
            name in ids or bool(value >= near) for name, value in zip(names, values, strict=True) if name is not None
        )
    return hits / max(1, total)
