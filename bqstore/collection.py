"""The story of a collection: add, search, get, update, delete, verify, close. Floor 3.

A write validates everything, encodes, and hands rows and vectors to the store, which makes them durable in one commit;
then the next state is made from what was committed and published by one assignment (`published.py`). A search is in
`searching.py`.
"""

import atexit
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import describing, diversity, filters, searching, validate
from .config import AUTO, MAX_DIM, MAX_K, HnswConfig, Quantization, SearchParams, check_bool, check_int, check_real
from .documents import record_of, with_metadata
from .encoding import Encoder
from .errors import BqstoreError, ClosedError, InvalidInputError
from .filters import Filter
from .index import Pool
from .keywords import checked_keywords
from .linking import Linking
from .matching import to_mask
from .measuring import recall as measure_recall
from .provenance import checked_model, refuse_another
from .published import Published
from .results import CollectionInfo, Hit, RecallReport, Record, VerifyReport, without_vector
from .searching import Options, options_of
from .state import State
from .storage import Store
from .tuning import tune as find_settings

F32 = NDArray[np.float32]
T = TypeVar("T")


_open: "weakref.WeakSet[Collection]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close what a program has left open, as files are: the next opening finds a snapshot of the graph."""
    for collection in list(_open):
        with suppress(BqstoreError):
            collection.close()


class Collection:
    """Vectors with ids, texts and metadata. Made by `bqstore.open`; may be used from many threads at once.

    Scores: larger is nearer, in every distance: the cosine, the dot product, minus the Euclidean distance. Rescored and
    exact scores are those of the kept originals; without rescoring they are the same measure of the codes, read as
    vectors of +1 and -1, and so of the truncated vectors where there is a ``truncate_dim``.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        path: Path | None,
        search: SearchParams,
        hnsw: HnswConfig,
        quantization: Quantization,
        threads: int | None,
        state: State,
        index_metadata: Sequence[str] = (),
    ) -> None:
        self._closed = False
        self._close_later = False
        self._pooling = threading.Lock()
        self._store = store
        self._name = name
        self._path = path
        self._search_defaults = search
        self._hnsw = hnsw
        self._threads = threads or _cores()
        self._pool: Pool | None = None
        self._pid = os.getpid()
        self._known_options: dict[Any, Options] = {}
        self._published = Published(store, state, Linking(store, hnsw, self._threads, self._executor))
        self._encoder = Encoder(self._published, quantization, hnsw, self._threads, self._executor)
        self._published.restore()
        self._published.index(index_metadata)
        _open.add(self)

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

        From 2,048 slots on it links them into the graph, too; while a lost graph is being rebuilt in the background,
        that comes later, and they are scanned until then.

        Parameters
        ----------
        vectors : array-like (n, dim)   anything numpy reads as numbers; kept as float32, not normalised
        ids : n strings or None         1 to 1,024 bytes of UTF-8; a UUID for None; the last of equal ids wins
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
        by, codes = self._encoder.encode(given)

        def append() -> None:
            # another thread may have settled it since
            validate.check_dim(given.shape[1], self._store.head.dim, "vector 0", MAX_DIM)
            self._store.append(rows, given, *self._encoder.settled(given, by, codes))

        self._write(append)
        if self._encoder.due:
            try:
                self._write(lambda: self._recoded(self._encoder.renew))
            except ClosedError:
                pass  # by a signal's handler: the next that opens it does what is due
            except BqstoreError as error:  # what was added is durable, and found all the same
                warnings.warn(
                    f"codes stay as they are, and were not chosen anew: {error}", RuntimeWarning, stacklevel=3
                )
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

        def rewrite() -> int:
            rows = {row.id: row for row in self._store.rows("id", list(dict.fromkeys(names)))}
            changed = {}
            for i, (id_, given) in enumerate(zip(names, each, strict=True)):
                if id_ in rows:
                    rows[id_] = changed[id_] = with_metadata(rows[id_], given or {}, replace, f"metadata {i}")
            if changed:
                self._store.rewrite(list(changed.values()))
            return len(changed)

        return self._write(rewrite)

    @checked_keywords
    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> int:
        """Delete documents by id, by filter, or those of the ids that match the filter; returns how many.

        Unknown ids are silent. No argument, or an empty filter alone, is an InvalidInputError: `clear` deletes all.
        """
        self._check_open()
        self._store.check_writable()
        names = None if ids is None else validate.ids_in(ids)
        tree = filters.parse(filter)
        if names is None and tree is None:
            raise InvalidInputError("delete() needs ids or a filter that restricts; clear() deletes everything")

        def bury() -> int:
            state = self._published.follow()
            doomed = set() if names is None else set(self._store.rids_by_id(names).values())
            if tree is not None:
                state, bits, _ = self._published.accepted(state, tree)
                matching = set(state.rids[: state.n][to_mask(bits, state.n)].tolist())
                doomed = matching if names is None else doomed & matching
            if doomed:
                self._store.bury(sorted(doomed))
            return len(doomed)

        return self._write(bury)

    def clear(self) -> None:
        """Delete every document. The settings and the dimension stay; the space is given back."""
        self._check_open()
        self._store.check_writable()
        self._write(self._store.clear)

    # ---- searching

    @checked_keywords
    def search(
        self,
        vector: ArrayLike,
        k: int = 10,
        *,
        filter: Filter | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool = False,
        ignore_quantization: bool = False,
        score_threshold: float | None = None,
        with_vectors: bool = False,
        explain: bool = False,
    ) -> list[Hit]:
        """The k nearest documents, nearest first: ``min(k, documents that match the filter)`` of them.

        Parameters
        ----------
        vector : array-like (dim,)      need not be normalised
        k : int                         1 to 10,000
        filter : dict or function       which documents may be found: `bqstore.filters`, or what says it of a `Record`
        oversampling, rescore, hnsw_ef  None: the collection's defaults; see `SearchParams`
        exact : bool                    score every document that matches by its original
        ignore_quantization : bool      search on the originals, not on the codes
        score_threshold : float         drop hits below this score
        with_vectors : bool             fill ``Hit.vector``
        explain : bool                  give `ExplainedHits`, whose ``explanation`` says how the search went
        """
        self._check_open()
        options = self._options(
            k, oversampling, rescore, hnsw_ef, exact, ignore_quantization, score_threshold, with_vectors=with_vectors
        )
        queries, explain = self._queries(vector, single=True), check_bool("explain", explain)
        return searching.hits(self._published, queries, filters.parse(filter), options, self._executor, explain)[0]

    @checked_keywords
    def search_batch(
        self,
        vectors: ArrayLike,
        k: int = 10,
        *,
        filter: Filter | None = None,
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
        options = self._options(
            k,
            oversampling,
            rescore,
            hnsw_ef,
            exact,
            ignore_quantization,
            score_threshold,
            with_vectors=with_vectors,
            threads=threads,
        )
        queries = self._queries(vectors, single=False)
        return searching.hits(self._published, queries, filters.parse(filter), options, self._executor)

    @checked_keywords
    def search_ids(
        self,
        vectors: ArrayLike,
        k: int = 10,
        *,
        filter: Filter | None = None,
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
        options = self._options(
            k, oversampling, rescore, hnsw_ef, exact, ignore_quantization, score_threshold, threads=threads
        )
        queries = self._queries(vectors, single=False)
        tree = None if filter is None else filters.parse(filter)
        state, way = searching.ready(self._published, self._published.with_ids(), tree, options)
        ordinals, scores = way.nearest(queries, self._executor)
        assert state.ids is not None
        return state.ids.take(ordinals), scores

    @checked_keywords
    def max_marginal_relevance(
        self,
        vector: ArrayLike,
        k: int = 10,
        fetch_k: int | None = None,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool = False,
        ignore_quantization: bool = False,
        score_threshold: float | None = None,
        with_vectors: bool = False,
    ) -> list[Hit]:
        """Of the ``fetch_k`` nearest documents that match, k that differ from each other, in the order they are taken.

        Parameters
        ----------
        fetch_k : int           at least k; None: four times k, and at least 20
        lambda_mult : float     1: relevance alone, which is `search`; 0: difference from those taken before alone

        The others are those of `search`. Each next hit has the largest ``lambda_mult * score - (1 - lambda_mult) *
        greatest similarity to those taken``, in the collection's distance; the first is the nearest (`diversity`).
        Raises InvalidInputError where no originals are kept.
        """
        expected = "a number from 0 (diversity) to 1 (relevance)"
        relevance = check_real("lambda_mult", lambda_mult, expected)
        if not 0 <= relevance <= 1:
            raise InvalidInputError(f"lambda_mult is {lambda_mult!r}; expected {expected}")
        k = check_int("k", k, 1, MAX_K)
        fetch_k = min(max(20, 4 * k), MAX_K) if fetch_k is None else check_int("fetch_k", fetch_k, k, MAX_K)
        with_vectors = check_bool("with_vectors", with_vectors)
        self._check_open()
        if self._store.head.settings["originals"] == "none":
            raise searching.no_originals("max_marginal_relevance()")
        hits = self.search(
            vector,
            fetch_k,
            filter=filter,
            oversampling=oversampling,
            rescore=rescore,
            hnsw_ef=hnsw_ef,
            exact=exact,
            ignore_quantization=ignore_quantization,
            score_threshold=score_threshold,
            with_vectors=True,
        )
        if not hits:
            return []
        scores = np.array([hit.score for hit in hits], np.float32)
        vectors = np.stack([hit.vector for hit in hits if hit.vector is not None])
        places = diversity.taken(scores, vectors, k, relevance, self._store.head.settings["distance"])
        return [hits[place] if with_vectors else without_vector(hits[place]) for place in places]

    def _options(
        self,
        k: int,
        oversampling: float | None,
        rescore: bool | None,
        hnsw_ef: int | None,
        exact: bool,
        ignore_quantization: bool,
        score_threshold: float | None,
        with_vectors: bool = False,
        threads: int | None = 1,
    ) -> Options:
        """The settings of a call, checked once for all calls that give the same."""
        key: Any = (
            k,
            oversampling,
            rescore,
            hnsw_ef,
            exact,
            ignore_quantization,
            score_threshold,
            with_vectors,
            threads,
        )
        key = (key, *map(type, key))  # 1 and True are equal, and only one of them is a number
        try:
            known = self._known_options.get(key)
        except TypeError:  # something that cannot be hashed, and will be refused
            known = None
        if known is None:
            known = options_of(
                *self._defaults(),
                k,
                oversampling,
                rescore,
                hnsw_ef,
                exact,
                ignore_quantization,
                score_threshold,
                with_vectors,
                self._check_threads(threads),
            )
            if len(self._known_options) >= 64:
                self._known_options = {}
            self._known_options[key] = known
        return known

    def _queries(self, given: object, single: bool) -> F32:
        head = self._store.head
        return validate.queries_in(given, head.dim, head.settings["distance"], MAX_DIM, single)

    def _defaults(self) -> tuple[SearchParams, bool, HnswConfig, str, str]:
        settings = self._store.head.settings
        originals = settings["originals"] != "none"
        query_encoding = self._encoder.wanted.query_encoding
        return self._search_defaults, originals, self._hnsw, query_encoding, settings["distance"]

    def _check_threads(self, threads: int | None) -> int:
        return self._threads if threads is None else check_int("threads", threads, 1, 1024)

    # ---- reading

    @checked_keywords
    def get(self, ids: Sequence[str], with_vectors: bool = False) -> list[Record]:
        """The documents of these ids, in their order; unknown ids are left out."""
        self._check_open()
        names = validate.ids_in(ids)
        if check_bool("with_vectors", with_vectors) and self._store.head.settings["originals"] == "none":
            raise searching.no_originals("with_vectors=True")

        def answer(state: State) -> list[Record]:
            rows = {row.id: row for row in self._store.rows("id", list(dict.fromkeys(names)))}
            vectors = self._published.vectors_of_rows(state, list(rows.values())) if with_vectors else {}
            found = [rows[id_] for id_ in names if id_ in rows]
            return [record_of(row, vectors.get(row.rid)) for row in found]

        return self._published.whole(answer)

    @checked_keywords
    def scroll(self, filter: Filter | None = None, batch: int = 1000) -> Iterator[Record]:
        """Every document that matches, oldest first, ``batch`` read at a time.

        Writing meanwhile is fine: what was there at the start and still is comes once, as it is when it is read.
        """
        self._check_open()
        batch = check_int("batch", batch, 1, 1_000_000)
        tree = filters.parse(filter)
        state, bits, _ = self._published.accepted(self._published.with_ids(), tree)
        assert state.ids is not None
        return self._scroll(state.ids.take, np.flatnonzero(to_mask(bits, state.n)).astype(np.int32), batch)

    def _scroll(self, ids_of: Any, ordinals: NDArray[np.int32], batch: int) -> Iterator[Record]:
        for at in range(0, len(ordinals), batch):
            yield from self.get(ids_of(ordinals[at : at + batch]).tolist())

    @checked_keywords
    def count(self, filter: Filter | None = None) -> int:
        """How many documents match."""
        self._check_open()
        return self._published.accepted(self._published.current(), filters.parse(filter))[2]

    def __len__(self) -> int:
        return self.count()

    def __contains__(self, id_: object) -> bool:
        self._check_open()
        self._published.current()
        return isinstance(id_, str) and validate.is_text(id_) and bool(self._store.rids_by_id([id_]))

    def info(self) -> CollectionInfo:
        """What the collection is and what it takes, in bytes."""
        self._check_open()
        path = None if self._path is None else str(self._path)
        state = self._published.current()
        _, way = searching.ready(self._published, state, None, self._options(10, None, None, None, False, False, None))
        return describing.info_of(
            self._published,
            path,
            self._name,
            self._search_defaults,
            self._hnsw,
            self._encoder.in_use,
            self._encoder.choice,
            "exact" if way.nothing else way.search.plan.way,
        )

    @checked_keywords
    def check_model(self, model: str, dim: int | None = None, *, remember: bool = False, writing: bool = False) -> None:
        """Make sure that a model's vectors belong here, before they are made and paid for.

        An `Embedder` calls it for you: `OpenAIEmbedder.add_to` and `OpenAIEmbedder.search`, and both adapters.

        Parameters
        ----------
        model : str         as in ``embedding_model=`` of `open`
        dim : int or None   of its vectors, if that is known
        remember : bool     a collection that knows no model will know this one; searches prove nothing
        writing : bool      the vectors are to be added

        Raises SettingsConflictError, which names both, if the collection holds vectors of another model or dimension;
        ReadOnlyError if it is to be written, and is open for reading only.
        """
        self._check_open()
        model = checked_model(model, "model")
        head = self._published.current().head
        refuse_another(model, dim, head.settings["embedding_model"], head.dim)
        if writing or remember:
            self._store.check_writable()
        if not remember or head.settings["embedding_model"] is not None:
            return

        def keep() -> None:
            head = self._store.head  # another thread may have said so since
            refuse_another(model, dim, head.settings["embedding_model"], head.dim)
            if head.settings["embedding_model"] is None:
                self._store.put_settings({**head.settings, "embedding_model": model}, head.dim)

        self._write(keep)

    def verify(self) -> VerifyReport:
        """Read everything and compare it with its checksums and counts; reports damage, does not raise for it."""
        self._check_open()
        return describing.verify(self._published)

    # ---- quality

    @checked_keywords
    def recall(
        self,
        queries: ArrayLike | None = None,
        k: int = 10,
        sample: int = 200,
        settings: Sequence[Mapping[str, Any]] | None = None,
    ) -> RecallReport:
        """How much of what is nearest searches find, and how fast, measured against exact search; takes seconds.

        Parameters
        ----------
        queries : array-like (m, dim)   None: ``sample`` of the documents, each left out of its own answer. Queries of
                                        your users tell more: questions differ from documents
        k : int                         hits asked for
        sample : int                    documents that serve as queries where none are given
        settings : list of dicts        what to measure, each with some of ``oversampling``, ``rescore``, ``hnsw_ef``,
                                        ``query_encoding``, ``encoding``, ``estimator``, ``rotate``,
                                        ``truncate_dim``; None: a choice of them. Encodings that are not the
                                        collection's are tried in memory

        Raises InvalidInputError for settings that cannot be, too few documents, or where no originals are kept.
        """
        self._check_open()
        given = None if queries is None else self._queries(queries, single=False)
        defaults, executor, threads = self._search_defaults, self._executor, self._threads
        return measure_recall(
            self._published, defaults, self._encoder.in_use, self._hnsw, executor, given, k, sample, settings, threads
        )

    @checked_keywords
    def tune(self, target_recall: float = 0.98, k: int = 10, queries: ArrayLike | None = None) -> SearchParams:
        """Find the settings of the least time per query that reach a recall, and keep them as the defaults.

        Parameters
        ----------
        target_recall : float           of the k nearest, above 0 and at most 1; reached with 95% confidence
        k : int                         hits asked for
        queries : array-like (m, dim)   None: some of the documents, each left out of its own answer

        Returns
        -------
        SearchParams        stored; searches without keywords use them from now on, here and at the next opening

        Raises TargetNotReachedError, with nothing changed, if no settings reach it: more bits (`requantize`) may. As
        `recall` else.
        """
        self._check_open()
        self._store.check_writable()
        given = None if queries is None else self._queries(queries, single=False)
        defaults, executor, threads = self._search_defaults, self._executor, self._threads
        params = find_settings(
            self._published, defaults, self._encoder.in_use, self._hnsw, executor, target_recall, k, given, threads
        )

        def keep() -> None:
            head = self._store.head
            before = head.settings.get("untuned", head.settings["search"])
            self._store.put_settings({**head.settings, "search": asdict(params), "untuned": before}, head.dim)
            self._search_defaults, self._known_options = params, {}

        self._write(keep)
        return params

    @checked_keywords
    def requantize(
        self,
        *,
        encoding: str = AUTO,
        query_encoding: str = AUTO,
        estimator: str = AUTO,
        rotate: bool | None = None,
        truncate_dim: int | None = None,
    ) -> Quantization:
        """Make all codes anew from the originals, and give back the space of what was deleted.

        Without arguments every quantization is measured on the vectors there are, and the best taken, as it was with
        the first of them: worthwhile when they have changed in kind. Searches go on meanwhile, here and in other
        processes; writes wait. It is one commit: an interruption before it leaves everything as it was.

        Parameters
        ----------
        encoding, query_encoding, estimator, rotate, truncate_dim
            as in `Quantization`; they become the collection's settings. What is not given is as its default: codes are
            of whole vectors again without a ``truncate_dim``

        Returns
        -------
        Quantization        what is in use now; nothing in it is "auto"

        Settings that `tune` has found are given up: they were for the codes there were. Fewer than 2,048 vectors tell
        too little: then the simplest of what the arguments allow is taken, until there are more.

        Raises InvalidInputError where no originals are kept: codes cannot be made of codes.
        """
        self._check_open()
        self._store.check_writable()
        wanted = Quantization(encoding, query_encoding, estimator, rotate, truncate_dim)
        if self._store.head.settings["originals"] == "none":
            raise searching.no_originals("requantize()")

        self._write(lambda: self._recoded(lambda: self._encoder.change(wanted)))
        return self._encoder.in_use

    def _recoded(self, change: Callable[[], None]) -> None:
        """Let codes be made anew; defaults that were tuned for the old ones are given up."""
        tuned = "untuned" in self._store.head.settings
        change()
        settings = self._store.head.settings
        if tuned and "untuned" not in settings:
            self._search_defaults = SearchParams(**settings["search"])
        self._known_options = {}

    # ---- life

    def flush(self) -> None:
        """Link what is not linked yet, keep the graph on disk, and fold SQLite's log into its file.

        What was acknowledged is durable without it; this makes the next opening quick.
        """
        self._check_open()
        self._store.check_writable()
        self._published.link_rest()
        with self._published.lock:
            self._store.catalogue.checkpoint()

    def compact(self) -> None:
        """Give back the space of deleted and replaced documents, and link the living anew.

        Searches go on meanwhile, here and in other processes; writes wait. Until the one small commit at its end
        nothing has changed, and an interruption leaves it so. Does nothing where nothing was deleted.
        """
        self._check_open()
        self._store.check_writable()
        self._write(lambda: self._published.compact(self._hnsw, self._threads, self._executor))

    def close(self) -> None:
        """Give back the lock and the files. A search under way ends, or raises ClosedError. Closing twice is fine."""
        if self._pid != os.getpid():
            return  # a fork: nothing is its own, and the lock may be held by a thread that it does not have
        if (
            self._published.entered()
        ):  # in a signal handler: the write that it interrupted goes on, and closes at its end
            self._close_later = True
            return
        self._published.linking.stop()
        with self._published.lock:
            if self._closed:
                return
            if not self._store.read_only and self._store.sound:
                self._published.save_at_close()
            self._closed = True
            with self._pooling:
                self._pool = None  # its threads end when the last search that holds it does
            self._store.close()

    def __enter__(self) -> "Collection":
        self._check_open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __copy__(self) -> "Collection":
        """The collection itself: it has one set of files and one lock."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Collection":
        """The collection itself."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise InvalidInputError("a Collection cannot be pickled; send its path, and open the folder again there")

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and not sys.is_finalizing():
            self.close()

    def __repr__(self) -> str:
        where = "in memory" if self._path is None else str(self._path)
        state = "closed" if self._closed else f"{self._store.head.n_live:,} documents"
        return f"<Collection {self._name!r} {where}, {state}>"

    def _check_open(self) -> None:
        if self._closed or self._close_later:
            raise ClosedError("this collection is closed; open it again")
        if self._pid != os.getpid():  # its locks may be held by threads that the fork does not have
            raise ClosedError(
                f"this collection was opened in process {self._pid} and cannot be used in its fork {os.getpid()}; "
                "open the folder here, with read_only=True while the other one writes"
            )

    def _write(self, action: Callable[[], T]) -> T:
        """Do a write, one at a time, and publish it."""

        def checked() -> T:
            self._check_open()
            return action()

        try:
            return self._published.write(checked)
        finally:
            if self._close_later:
                self.close()

    def _executor(self) -> Executor:
        with self._pooling:  # not the writer's lock: searches do not wait for it
            self._check_open()
            if self._pool is None:
                self._pool = Pool(_cores())
            return self._pool


def _cores() -> int:
    """The processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
