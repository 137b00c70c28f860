"""The story of a collection: add, search, get, update, delete, verify, close. Floor 3.

A write validates everything, encodes, and hands rows and vectors to the store, which makes them durable in one commit;
then the next `State` is made from what was committed and published by one assignment. A search takes the published
state once, never a lock, and reads documents last. If a document has changed meanwhile, it starts again on the newer
state; the fourth try holds writers off.

Arrays meet rows here and nowhere else.
"""

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import filters, index, validate
from .config import MAX_DIM, MAX_K, HnswConfig, Quantization, SearchParams, check_bool, check_int, check_real
from .errors import BqstoreError, ClosedError, CorruptionError, InvalidInputError
from .keywords import checked_keywords
from .results import CollectionInfo, Hit, Record, VerifyReport
from .state import State, advance, mask_reader, with_columns, with_ids
from .storage import Store
from .storage.format import FORMAT_VERSION, HEADER_BYTES, damaged, vectors_of
from .storage.head import Row
from .storage.verify import problems_of

F32 = NDArray[np.float32]
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of one call, checked. ``exact`` also stands for ``ignore_quantization`` while all search is a scan."""

    k: int
    params: SearchParams
    exact: bool
    originals: bool
    score_threshold: float | None
    with_vectors: bool


class Changed(Exception):  # noqa: N818 - a signal between two functions of this file, never seen outside
    """A document changed between the search and the reading of its row."""


class Collection:
    """Vectors with ids, texts and metadata. Made by `bqstore.open`; may be used from many threads at once.

    Scores: larger is nearer, in every distance: the cosine, the dot product, minus the Euclidean distance. Rescored and
    exact scores are those of the kept originals; without rescoring they are the same measure of the codes, read as
    vectors of +1 and -1.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        path: Path | None,
        search: SearchParams,
        hnsw: HnswConfig,
        threads: int | None,
    ) -> None:
        self._store = store
        self._name = name
        self._path = path
        self._search_defaults = search
        self._hnsw = hnsw
        self._threads = threads or _cores()
        self._lock = threading.RLock()  # one writer at a time; also whoever loads columns or follows another process
        self._pool: ThreadPoolExecutor | None = None
        self._pid = os.getpid()
        self._closed = False
        self._version = store.catalogue.data_version()
        self._state = advance(store, None)

    # ---- adding

    @checked_keywords
    def add(
        self,
        vectors: ArrayLike,
        ids: Sequence[str | None] | None = None,
        texts: Sequence[str | None] | None = None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> list[str]:
        """Add documents, or replace those whose ids exist; durable and visible to searches when it returns.

        Parameters
        ----------
        vectors : array-like (n, dim)   anything numpy reads as numbers; kept as float32, not normalised
        ids : n strings or None         1 to 1,024 bytes of UTF-8; a UUID for None; the last of equal ids in a batch wins
        texts : n strings or None
        metadatas : n dicts or None     JSON of at most 64 KiB each; dates become ISO 8601 strings

        Returns
        -------
        list of str                     the id of each vector, in their order

        Raises InvalidInputError before anything is written; StorageError if the disk refuses, with nothing added.
        """
        self._check_open()
        self._store.check_writable()
        settings = self._store.head.settings
        given = validate.vectors_in(vectors, self._store.head.dim, settings["distance"], settings["originals"], MAX_DIM)
        names = validate.new_ids(ids, len(given))
        rows = validate.rows_in(names, texts, metadatas)
        if not names:
            return []
        last = {id_: i for i, id_ in enumerate(names)}
        if len(last) < len(names):
            keep = sorted(last.values())
            given, rows = np.ascontiguousarray(given[keep]), rows.subset(keep)
        codes = index.encode(given)
        with self._writing():
            # another thread may have settled it since
            validate.check_dim(given.shape[1], self._store.head.dim, "vector 0", MAX_DIM)
            self._store.append(rows, given, codes)
        return names

    @checked_keywords
    def update_metadata(
        self,
        ids: Sequence[str],
        metadata: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        replace: bool = False,
    ) -> int:
        """Change metadata without embedding again; returns how many documents were changed. Unknown ids are silent.

        Parameters
        ----------
        ids : n strings
        metadata : dict or n dicts      one for all, or one each
        replace : bool                  False: its keys are merged over the present ones; True: it becomes the whole
        """
        self._check_open()
        self._store.check_writable()
        names = validate.ids_in(ids)
        replace = check_bool("replace", replace)
        each = [metadata] * len(names) if isinstance(metadata, Mapping) else validate.items(metadata, "metadata")
        if len(each) != len(names):
            raise InvalidInputError(f"metadata has {len(each):,} entries for {len(names):,} ids; expected one each")
        for i, given in enumerate(each):
            validate.split_metadata(given, f"metadata {i}")
        with self._writing():
            rows = {row.id: row for row in self._store.rows("id", list(dict.fromkeys(names)))}
            changed = {}
            for i, (id_, given) in enumerate(zip(names, each, strict=True)):
                if id_ in rows:
                    rows[id_] = changed[id_] = _with_metadata(rows[id_], given or {}, replace, f"metadata {i}")
            if changed:
                self._store.rewrite(list(changed.values()))
        return len(changed)

    @checked_keywords
    def delete(self, ids: Sequence[str] | None = None, *, filter: Mapping[str, Any] | None = None) -> int:
        """Delete documents by id, by filter, or those of the ids that match the filter; returns how many.

        Unknown ids are silent. No argument, or an empty filter alone, is an InvalidInputError: `clear` deletes all.
        """
        self._check_open()
        self._store.check_writable()
        names = None if ids is None else validate.ids_in(ids)
        tree = filters.parse(filter)
        if names is None and tree is None:
            raise InvalidInputError("delete() needs ids or a filter that restricts; clear() deletes everything")
        with self._writing():
            state = self._follow()
            rids = None if names is None else self._store.rids_by_id(list(dict.fromkeys(names))).values()
            if tree is not None:
                state, mask, _ = self._accepted(state, tree)
                matching = state.rids[: state.n][mask].tolist()
                rids = matching if rids is None else set(rids).intersection(matching)
            doomed = sorted(rids or ())
            if doomed:
                self._store.bury(doomed)
        return len(doomed)

    def clear(self) -> None:
        """Delete every document. The settings and the dimension stay; the space is given back."""
        self._check_open()
        self._store.check_writable()
        with self._writing():
            self._store.clear()

    # ---- searching

    @checked_keywords
    def search(
        self,
        vector: ArrayLike,
        k: int = 10,
        *,
        filter: Mapping[str, Any] | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool = False,
        ignore_quantization: bool = False,
        score_threshold: float | None = None,
        with_vectors: bool = False,
    ) -> list[Hit]:
        """The k nearest documents, nearest first: ``min(k, documents that match the filter)`` of them.

        Parameters
        ----------
        vector : array-like (dim,)      need not be normalised
        k : int                         1 to 10,000
        filter : dict                   which documents may be found; see `bqstore.filters`
        oversampling, rescore, hnsw_ef  None: the collection's defaults; see `SearchParams`
        exact : bool                    score every document that matches by its original
        ignore_quantization : bool      search on the originals, not on the codes
        score_threshold : float         drop hits below this score
        with_vectors : bool             fill ``Hit.vector``
        """
        self._check_open()
        queries = self._queries(vector, single=True)
        options = self._options(
            k, oversampling, rescore, hnsw_ef, exact, ignore_quantization, score_threshold, with_vectors
        )
        return self._hits(queries, filters.parse(filter), options, 1)[0]

    @checked_keywords
    def search_batch(
        self,
        vectors: ArrayLike,
        k: int = 10,
        *,
        filter: Mapping[str, Any] | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool = False,
        ignore_quantization: bool = False,
        score_threshold: float | None = None,
        with_vectors: bool = False,
        threads: int | None = None,
    ) -> list[list[Hit]]:
        """`search` for many vectors (n, dim) at once, on all cores or ``threads`` of them; one list of hits each."""
        self._check_open()
        queries = self._queries(vectors, single=False)
        options = self._options(
            k, oversampling, rescore, hnsw_ef, exact, ignore_quantization, score_threshold, with_vectors
        )
        return self._hits(queries, filters.parse(filter), options, self._check_threads(threads))

    @checked_keywords
    def search_ids(
        self,
        vectors: ArrayLike,
        k: int = 10,
        *,
        filter: Mapping[str, Any] | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool = False,
        ignore_quantization: bool = False,
        score_threshold: float | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[np.object_], F32]:
        """`search` for one vector (dim,) or many (n, dim), without reading documents: the way to the highest rate.

        Returns
        -------
        ids : object (n, k)         str, padded with None; n is 1 for one vector
        scores : float32 (n, k)     padded with NaN
        """
        self._check_open()
        queries = self._queries(vectors, single=False)
        options = self._options(k, oversampling, rescore, hnsw_ef, exact, ignore_quantization, score_threshold, False)
        state = self._current()
        if state.ids is None:
            with self._lock, self._store.consistent():
                state = self._state = with_ids(self._store, self._follow())
        tree = filters.parse(filter)
        state, ordinals, scores = self._nearest(state, queries, tree, options, self._check_threads(threads))
        assert state.ids is not None
        return state.ids.take(ordinals), scores

    def _queries(self, given: object, single: bool) -> F32:
        head = self._store.head
        return validate.queries_in(given, head.dim, head.settings["distance"], MAX_DIM, single)

    def _check_threads(self, threads: int | None) -> int:
        return self._threads if threads is None else check_int("threads", threads, 1, 1024)

    def _options(
        self,
        k: int,
        oversampling: float | None,
        rescore: bool | None,
        hnsw_ef: int | None,
        exact: bool,
        ignore_quantization: bool,
        score_threshold: float | None,
        with_vectors: bool,
    ) -> "Options":
        """The settings of one call, checked, defaults filled in."""
        params = self._search_defaults
        if not (oversampling is None and rescore is None and hnsw_ef is None):
            given = {"oversampling": oversampling, "rescore": rescore, "hnsw_ef": hnsw_ef}
            params = replace(params, **{name: value for name, value in given.items() if value is not None})
        if score_threshold is not None:
            score_threshold = check_real("score_threshold", score_threshold, "a finite number")
        originals = self._store.head.settings["originals"] != "none"
        exact = check_bool("exact", exact) | check_bool("ignore_quantization", ignore_quantization)
        for name, wanted in (
            ("exact or ignore_quantization", exact),
            ("rescore=True", rescore is True),
            ("with_vectors=True", check_bool("with_vectors", with_vectors)),
        ):
            if wanted and not originals:
                raise InvalidInputError(f"{name} needs the originals; this collection keeps none (originals='none')")
        return Options(check_int("k", k, 1, MAX_K), params, exact, originals, score_threshold, bool(with_vectors))

    def _nearest(
        self, state: State, queries: F32, tree: filters.Tree | None, options: "Options", threads: int
    ) -> tuple[State, NDArray[np.int32], F32]:
        """The state that was searched, ordinals (m, k) padded with -1 and scores padded with NaN."""
        state, mask, accepted = self._accepted(state, tree)
        shape = (len(queries), options.k)
        if state.data is None or accepted == 0:
            return state, np.full(shape, -1, np.int32), np.full(shape, np.nan, np.float32)
        if queries.shape[1] != state.data.dim:  # settled while we were on our way
            validate.check_dim(queries.shape[1], state.data.dim, "the query vector", MAX_DIM)
        params = options.params
        way = index.plan(
            n=state.n,
            accepted=accepted,
            dim=state.data.dim,
            k=options.k,
            oversampling=params.oversampling,
            rescore=params.rescore,
            exact=options.exact,
            full_scan_threshold=self._hnsw.full_scan_threshold,
            originals=options.originals,
        )
        if state.vectors is not None:
            state.vectors.check_size(state.n)
        accept = None if accepted == state.n else filters.to_bitmap(mask)
        ordinals, scores = index.nearest(queries, state.data, accept, options.k, way, threads, self._executor)
        if options.score_threshold is not None:
            low = ~(scores >= np.float32(options.score_threshold))
            ordinals[low], scores[low] = -1, np.nan
        return state, ordinals, scores

    def _accepted(self, state: State, tree: filters.Tree | None) -> tuple[State, NDArray[np.bool_], int]:
        """live AND filter, as a mask and a count; the state may be a newer one, with the columns it needs."""
        if tree is None:
            return state, state.live, state.head.n_live
        keys = tree.keys()
        if validate.ID_KEY in keys or not keys <= state.columns.keys():
            with self._lock, self._store.consistent():
                state = self._state = with_columns(self._store, self._follow(), keys)
                mask = filters.evaluate(tree, mask_reader(self._store, state))
        else:
            mask = filters.evaluate(tree, mask_reader(self._store, state))
        mask = mask & state.live
        return state, mask, int(np.count_nonzero(mask))

    def _hits(self, queries: F32, tree: filters.Tree | None, options: "Options", threads: int) -> list[list[Hit]]:
        """Search, then read the documents; again on a newer state if one has changed meanwhile."""
        for _ in range(_TRIES - 1):
            try:
                return self._hits_of(self._current(), queries, tree, options, threads)
            except Changed:
                continue
        with self._lock, self._store.consistent():  # nobody commits under us now
            try:
                return self._hits_of(self._follow(), queries, tree, options, threads)
            except Changed as error:
                raise self._lost() from error

    def _lost(self) -> CorruptionError:
        return CorruptionError(
            f"{self._store.catalogue.name} has lost a row that its vectors have; restore the collection from a copy"
        )

    def _hits_of(
        self, state: State, queries: F32, tree: filters.Tree | None, options: "Options", threads: int
    ) -> list[list[Hit]]:
        state, ordinals, scores = self._nearest(state, queries, tree, options, threads)
        found = np.unique(ordinals[ordinals >= 0]) if len(queries) > 1 else ordinals[ordinals >= 0]
        rows = self._documents(state, found)
        vectors = self._vectors(state, found) if options.with_vectors else {}
        parsed = {ordinal: (row, _metadata(row)) for ordinal, row in rows.items()}
        hits: list[list[Hit]] = []
        for line, values in zip(ordinals.tolist(), scores.tolist(), strict=True):
            hits.append([])
            for ordinal, score in zip(line, values, strict=True):
                if ordinal < 0:
                    break
                row, metadata = parsed[ordinal]
                own = dict(metadata) if len(queries) > 1 else metadata
                hits[-1].append(Hit(row.id, score, row.text, own, vectors.get(ordinal)))
        return hits

    def _documents(self, state: State, ordinals: NDArray[Any]) -> dict[int, Row]:
        """The rows of ordinals; Changed if one is not as the state knows it."""
        rids = state.rids[ordinals].tolist()
        rows = {row.rid: row for row in self._store.rows("rid", rids)}
        out = {}
        for ordinal, rid in zip(ordinals.tolist(), rids, strict=True):
            row = rows.get(rid)
            if row is None or row.seq > state.head.seq:
                raise Changed
            out[ordinal] = row
        return out

    def _vectors(self, state: State, ordinals: NDArray[Any]) -> dict[int, F32]:
        """The originals of ordinals, each checked."""
        if not len(ordinals):
            return {}
        assert state.data is not None and state.vectors is not None
        state.vectors.check_size(state.n)
        records = state.data.records[ordinals]
        bad = damaged(records)
        if bad.any():
            raise CorruptionError(
                f"record {int(ordinals[bad.argmax()]):,} of {state.vectors.name} does not agree with its checksum; "
                "restore the collection from a copy"
            )
        return dict(zip(ordinals.tolist(), vectors_of(state.vectors.layout, records), strict=True))

    # ---- reading

    @checked_keywords
    def get(self, ids: Sequence[str], with_vectors: bool = False) -> list[Record]:
        """The documents of these ids, in their order; unknown ids are left out."""
        self._check_open()
        names = validate.ids_in(ids)
        if check_bool("with_vectors", with_vectors) and self._store.head.settings["originals"] == "none":
            raise InvalidInputError(
                "with_vectors=True needs the originals; this collection keeps none (originals='none')"
            )
        for _ in range(_TRIES - 1):
            try:
                return self._records(self._current(), names, with_vectors)
            except Changed:
                continue
        with self._lock, self._store.consistent():
            try:
                return self._records(self._follow(), names, with_vectors)
            except Changed as error:
                raise self._lost() from error

    def _records(self, state: State, names: list[str], with_vectors: bool) -> list[Record]:
        rows = {row.id: row for row in self._store.rows("id", list(dict.fromkeys(names)))}
        vectors: dict[int, F32] = {}
        if with_vectors and rows:
            rids = sorted(row.rid for row in rows.values())
            ordinals = state.ordinals(rids)
            if len(ordinals) < len(rids):  # added since the state was taken
                raise Changed
            found = self._vectors(state, ordinals)
            vectors = dict(zip(rids, found.values(), strict=True))
        return [
            Record(id_, rows[id_].text, _metadata(rows[id_]), vectors.get(rows[id_].rid))
            for id_ in names
            if id_ in rows
        ]

    @checked_keywords
    def scroll(self, filter: Mapping[str, Any] | None = None, batch: int = 1000) -> Iterator[Record]:
        """Every document that matches, oldest first, ``batch`` read at a time.

        Writing meanwhile is fine: what was there at the start and still is comes once, as it is when it is read.
        """
        self._check_open()
        batch = check_int("batch", batch, 1, 1_000_000)
        tree = filters.parse(filter)
        with self._lock, self._store.consistent():
            state = self._state = with_ids(self._store, self._follow())
            state, mask, _ = self._accepted(state, tree)
        assert state.ids is not None
        return self._scroll(state.ids.take, np.flatnonzero(mask).astype(np.int32), batch)

    def _scroll(self, ids_of: Any, ordinals: NDArray[np.int32], batch: int) -> Iterator[Record]:
        for at in range(0, len(ordinals), batch):
            yield from self.get(ids_of(ordinals[at : at + batch]).tolist())

    @checked_keywords
    def count(self, filter: Mapping[str, Any] | None = None) -> int:
        """How many documents match."""
        self._check_open()
        return self._accepted(self._current(), filters.parse(filter))[2]

    def __len__(self) -> int:
        return self.count()

    def __contains__(self, id_: object) -> bool:
        self._check_open()
        return isinstance(id_, str) and bool(self._store.rids_by_id(validate.ids_in([id_])))

    def info(self) -> CollectionInfo:
        """What the collection is and what it takes, in bytes."""
        self._check_open()
        head, store = self._current().head, self._store
        dim = head.dim or 0
        code_bytes = -(-dim // 64) * 8
        files = [file for file in (store.vectors, store.codes) if file is not None]
        settings = head.settings
        on_disk = sum(HEADER_BYTES + head.n_slots * file.layout.record_bytes for file in files)
        return CollectionInfo(
            path=None if self._path is None else str(self._path),
            collection=self._name,
            count=head.n_live,
            deleted=head.n_slots - head.n_live,
            dim=head.dim,
            distance=settings["distance"],
            originals=settings["originals"],
            quantization=Quantization(**settings["quantization"]),
            hnsw=self._hnsw,
            search=self._search_defaults,
            embedding_model=settings["embedding_model"],
            read_only=store.read_only,
            code_bytes=code_bytes,
            original_bytes=dim * {"float32": 4, "float16": 2, "int8": 1, "none": 0}[settings["originals"]],
            vector_bytes=dim * 4,
            compression=dim * 4 / code_bytes if code_bytes else 0.0,
            memory_bytes=head.n_slots * code_bytes,
            disk_bytes=0 if self._path is None else on_disk,
            generation=head.generation,
            format_version=FORMAT_VERSION,
        )

    def verify(self) -> VerifyReport:
        """Read everything and compare it with its checksums and counts; reports damage, does not raise for it."""
        self._check_open()
        with self._lock:
            try:
                self._follow()
            except CorruptionError as error:
                return VerifyReport(False, [str(error)], 0, 0)
            problems, documents, vectors = problems_of(self._store)
        return VerifyReport(not problems, problems, documents, vectors)

    # ---- life

    def flush(self) -> None:
        """Fold SQLite's log into its file. What was acknowledged is durable without it."""
        self._check_open()
        self._store.check_writable()
        with self._lock:
            self._store.catalogue.checkpoint()

    def close(self) -> None:
        """Give back the lock and the files. Searches under way end as they would have. Closing twice is fine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._pool is not None:
                self._pool.shutdown(wait=False)
            self._store.close()

    def __enter__(self) -> "Collection":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and not sys.is_finalizing():
            self.close()

    def __repr__(self) -> str:
        where = "in memory" if self._path is None else str(self._path)
        state = "closed" if self._closed else f"{self._state.head.n_live:,} documents"
        return f"<Collection {self._name!r} {where}, {state}>"

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this collection is closed; open it again")
        if self._path is not None and self._pid != os.getpid():
            raise ClosedError(
                f"this collection was opened in process {self._pid} and cannot be used in its fork {os.getpid()}; "
                "open it again here, with read_only=True while the other one writes"
            )

    def _executor(self) -> Executor:
        with self._lock:
            if self._pool is None or self._pid != os.getpid():  # a fork has the object without its threads
                self._pool, self._pid = ThreadPoolExecutor(_cores(), "bqstore"), os.getpid()
            return self._pool

    # ---- the published state

    def _follow(self) -> State:
        """Publish the state of the last commit, of this process or another; under the lock."""
        self._state = advance(self._store, self._state)
        return self._state

    def _current(self) -> State:
        """The state a search takes: the published one, after a look at what other processes have committed."""
        if not self._store.read_only:
            return self._state
        with self._lock:
            self._check_open()
            version = self._store.catalogue.data_version()
            if version != self._version:
                self._follow()
                self._version = version
            return self._state

    def _writing(self) -> "_Writing":
        return _Writing(self)


class _Writing:
    """The lock of one write; leaving it publishes whatever was committed, also when an exception came after that."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    def __enter__(self) -> None:
        self._collection._lock.acquire()
        try:
            self._collection._check_open()
        except BaseException:
            self._collection._lock.release()
            raise

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self._collection._follow()
        except BqstoreError:
            if error is None:
                raise  # else the first error is the one to tell, and the next call follows
        finally:
            self._collection._lock.release()


def _metadata(row: Row) -> dict[str, Any]:
    """The metadata as it was given: the user's, and what an adapter keeps beside it."""
    metadata: dict[str, Any] = json.loads(row.metadata)
    if row.private is not None:
        metadata.update(json.loads(row.private))
    if row.ref_doc_id is not None:
        metadata[validate.REF_DOC_ID_KEY] = row.ref_doc_id
    return metadata


def _with_metadata(row: Row, given: Mapping[str, Any], whole: bool, what: str) -> Row:
    """The row with metadata merged over its own, or in its place; an adapter's keys stay unless given."""
    present = _metadata(row)
    if whole:
        present = {key: value for key, value in present.items() if key.startswith(validate.PRIVATE_PREFIX)}
    public, private, ref = validate.split_metadata({**present, **given}, what)
    return replace(row, metadata=public, private=private, ref_doc_id=ref)


def _cores() -> int:
    """The processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
