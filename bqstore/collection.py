"""`Collection`, the public class: what each call promises, one look at its arguments, and one call into the engine.

The story of a call goes on in `engine`: a write in `writes.py` and `publisher.py`, a search in `search.py`, what a
signal handler or a fork may do in `lifecycle.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import validate
from .arguments import check_bool, check_choice, check_int, checked_keywords, is_text
from .config import AUTO, MAX_K, Quantization, SearchParams, text_index_in
from .engine import (
    copies,
    damaged,
    embedding_model,
    hybrid,
    info,
    listing,
    mmr,
    more_like,
    reembed,
    search,
    text_upkeep,
    writes,
)
from .engine.backup import backup as engine_backup
from .engine.engine import Engine
from .engine.fetch import at_commit_of
from .engine.options import no_originals
from .engine.rerank import Rerank, candidates, reranked
from .engine.searcher import Searcher
from .engine.state import State
from .errors import InvalidInputError
from .metadata import filter_grammar
from .metadata.filter_grammar import Filter
from .metadata.id_column import Ids
from .paths import absolute
from .quality.recall_report import recall as measure_recall
from .quality.tune import tune as find_settings
from .records import Records
from .results.hits import Hit, Record
from .results.info import CollectionInfo
from .results.outcomes import BackupReport, ReembedPlan, ReembedReport, Skipped, StreamReport, VerifyReport
from .results.recall import Health, RecallReport
from .storage.reading import Block
from .streaming import add_stream
from .tracing import traced

F32 = NDArray[np.float32]
ExpiresAt = datetime | timedelta | float | Sequence[datetime | timedelta | float | None]


class Collection:
    """Vectors with ids, texts and metadata. `bqstore.open` makes one; many threads may use it at once.

    Other processes may write in the same folder: every call sees what they had committed when it began. A collection in
    a folder can be pickled; it is opened again where it arrives.

    A larger score is nearer, in every distance: the cosine, the dot product, or minus the Euclidean distance. Scores
    are those of the original vectors. Without rescoring they are estimates of the same measure, made from the codes.

    All errors derive from `bqstore.BqstoreError`. Every call raises ClosedError once the collection is closed, and
    LockedError where a signal handler or a finalizer calls in from the middle of a write of its own thread.

    The examples below go on with this collection:

    >>> import bqstore, numpy as np
    >>> col = bqstore.open()  # in memory; bqstore.open("folder") keeps it on disk
    >>> col.add(
    ...     np.eye(4),
    ...     ids=["a", "b", "c", "d"],
    ...     texts=["one", "two", "three", "four"],
    ...     metadatas=[{"lang": "en", "year": 2020 + i} for i in range(4)],
    ... )
    ['a', 'b', 'c', 'd']
    """

    def __init__(self, *engine: Any, **keywords: Any) -> None:
        if len(engine) != 1 or keywords or not isinstance(engine[0], Engine):
            raise InvalidInputError("a Collection is not made directly; use bqstore.open(path, collection, ...)")
        self._engine: Engine = engine[0]

    # ---- writing

    @writes.in_two_parts
    @checked_keywords
    def add(
        self,
        vectors: ArrayLike,
        ids: Sequence[str | None] | None = None,
        texts: Sequence[str | None] | None = None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        expires_at: ExpiresAt | None = None,
        on_error: str = "raise",
    ) -> writes.Add:
        """Add documents, or replace those whose ids exist. They are durable and searchable when this returns.

        Without ``ids`` every call adds new documents, so adding the same texts twice keeps them twice. A document whose
        id exists is replaced whole: without ``texts`` or ``metadatas`` it has none afterwards. `update` changes a part.

        From 2,048 documents on they are also linked into the graph, unless a lost graph is being rebuilt in the
        background or kernels are still being compiled: then they are scanned until it reaches them.

        Parameters
        ----------
        vectors : array-like (n, dim)   numbers of any type, in arrays, tensors, frames, columns of lists or iterables;
                                        kept as float32, not normalised. A zero vector has a cosine of 0 with all
        ids : n strings or None         1 to 1,024 bytes of UTF-8; None gets a UUID; of equal ids the last wins
        texts : n strings or None
        metadatas : n dicts or None     JSON of at most 16 MiB each, and dates; see ``docs/collection.md``
        expires_at                      when the documents expire: a datetime, or seconds from now as a number or
                                        timedelta; one for all, or one for each, with None for never
                                        (see ``docs/expiry.md``)
        on_error : str                  "raise", or "skip": leave out documents that cannot be stored

        Returns
        -------
        AddResult                       a list of the ids, in order; ``replaced`` says how many existed, ``skipped``
                                        what was left out, and why

        Raises
        ------
        InvalidInputError               before anything is written; ``index`` says which document it is about
        StorageError                    the disk refused, and nothing is acknowledged; after a failed sync or commit the
                                        collection must be opened again before the next write

        >>> col.add(np.ones((1, 4)), ids=["e"], texts=["five"])
        ['e']
        >>> len(col)
        5
        """
        self._engine.check(writing=True)
        given, rows, skipped = validate.documents_or_skipped(
            vectors, ids, texts, metadatas, self._engine.store.head, on_error, expires_at
        )
        return writes.Add(self._engine, given, rows, [Skipped(*each) for each in skipped])

    @checked_keywords
    def add_stream(self, documents: Iterable[Any], *, batch_size: int = 1000, on_error: str = "raise") -> StreamReport:
        """Add the documents of an iterable, a portion at a time: for more documents than memory holds.

        Each portion is one `add`: durable, and searchable, before the next is read. If an error of the iterable, a bad
        document or Ctrl-C ends the call, earlier portions stay. With ids the whole stream can be sent again.

        Parameters
        ----------
        documents : iterable        of vectors; or of dicts with a ``vector`` and perhaps ``id``, ``text``, ``metadata``
                                    and ``expires_at``; or of `Record` with vectors, as `scroll` gives them
        batch_size : int            documents of a portion, 1 to 1,000,000
        on_error : str              as in `add`

        Raises
        ------
        InvalidInputError           ``index`` says which document of the stream it is about; none of its portion, and
                                    all of earlier ones, are stored
        StorageError                as `add`

        >>> col.add_stream({"vector": [1.0, 0.0, 0.0, i], "id": f"s{i}"} for i in range(3))
        StreamReport(added=3, replaced=0, skipped=[])
        """
        self._engine.check(writing=True)
        return add_stream(self, documents, batch_size, on_error)

    @checked_keywords
    def update(
        self,
        ids: Sequence[str],
        *,
        texts: Sequence[str | None] | None = None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        vectors: ArrayLike | None = None,
        expires_at: ExpiresAt | None = None,
        replace: bool = False,
    ) -> int:
        """Change parts of documents and keep the rest; returns how many were changed. Unknown ids are skipped.

        Parameters
        ----------
        ids : n strings
        texts : n strings or None       None among them: this text stays
        metadatas : n dicts or None     merged into the stored ones; None among them: this document's stay
        vectors : array-like (n, dim)
        expires_at                      as in `add`; None leaves it, ``math.inf`` is never
        replace : bool                  drop the stored metadata instead of merging

        Raises
        ------
        InvalidInputError               nothing to change is given, or something that cannot be stored

        >>> col.update(["a", "unknown"], texts=["ONE", "?"])
        1
        >>> col.get(["a"])
        [Record(id='a', text='ONE', metadata={'lang': 'en', 'year': 2020}, vector=None)]
        """
        self._engine.check(writing=True)
        parts = validate.parts_in(ids, texts, metadatas, vectors, self._engine.store.head, expires_at)
        return writes.update(self._engine, *parts, check_bool("replace", replace))

    @checked_keywords
    def update_metadata(
        self,
        ids: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        *,
        expires_at: ExpiresAt | None = None,
        filter: Filter | None = None,
        replace: bool = False,
    ) -> int:
        """Change metadata, without new embeddings; returns how many documents were changed. Unknown ids are skipped.

        Parameters
        ----------
        ids : n strings or None
        metadata : dict or n dicts      one for all documents, or one for each
        expires_at                      as in `add`; None leaves it, ``math.inf`` is never
        filter : dict or function       change the documents that match, or those of the ids; ``metadata`` is one dict
        replace : bool                  False: merge these keys into the stored ones; True: drop the stored ones

        >>> col.update_metadata(["a", "unknown"], {"lang": "de"})
        1
        >>> col.get(["a"])[0].metadata
        {'lang': 'de', 'year': 2020}
        >>> col.update_metadata(metadata={"old": True}, filter={"year": {"$lt": 2022}})
        2
        """
        self._engine.check(writing=True)
        tree = filter_grammar.parse(filter)
        if ids is None or tree is not None:
            if tree is None:
                raise InvalidInputError("update_metadata() needs ids or a filter that restricts")
            some, one = validate.one_metadata_in(ids, metadata, expires_at)
            return writes.update_matching(self._engine, some, tree, one, check_bool("replace", replace))
        names, each = validate.metadata_in(ids, metadata, expires_at)
        return writes.update_metadata(self._engine, names, each, check_bool("replace", replace))

    @checked_keywords
    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> int:
        """Delete documents by id, by filter, or those of the ids that match the filter; returns how many.

        Unknown ids are skipped. With neither ids nor a filter this is an InvalidInputError: `clear` deletes everything.

        >>> col.delete(["a", "unknown"])
        1
        >>> col.delete(filter={"year": {"$gte": 2022}})
        2
        """
        self._engine.check(writing=True)
        names, tree = None if ids is None else validate.ids_in(ids), filter_grammar.parse(filter)
        if names is None and tree is None:
            raise InvalidInputError("delete() needs ids or a filter that restricts; clear() deletes everything")
        return writes.delete(self._engine, names, tree)

    def expire(self) -> int:
        """Delete expired documents (see ``expires_at`` of `add`); returns how many.

        No call returns expired documents anyway. `compact` deletes them, too, and gives the space back.

        >>> from datetime import datetime, timezone
        >>> col.update_metadata(["a"], expires_at=datetime(2020, 1, 1, tzinfo=timezone.utc))
        1
        >>> "a" in col, col.expire()
        (False, 1)
        """
        self._engine.check(writing=True)
        return writes.expire(self._engine)

    def clear(self) -> None:
        """Delete every document and give the space back. The settings stay; what is added next may have another
        dimension, and be of another embedding model.

        >>> col.clear()
        >>> len(col)
        0
        >>> col.add([[1.0, 0.0]], ids=["of two dimensions"])
        ['of two dimensions']
        """
        self._engine.check(writing=True)
        self._engine.write(lambda: self._engine.store.clear(whole=True))

    @checked_keywords
    def records(self, namespace: str, *, earlier: Sequence[str] | None = None) -> Records:
        """The records that a record manager keeps of these documents: LangChain's of what `index()` has written, say.

        Parameters
        ----------
        namespace : str             records of other namespaces are apart
        earlier : two strings       spaces of `KeyValues`, where earlier releases have kept them: what is there is moved
                                    here; or read along, with ``read_only=True``

        >>> col.records("files").keys()
        []
        """
        return Records(self._engine, namespace, earlier, self)

    @checked_keywords
    def save(self, path: str | PathLike[str], collection: str = "default") -> None:
        """Copy the last commit into a store on disk, every record verified; others may write meanwhile.

        This keeps a collection in memory for good; `bqstore.load` brings it back into memory, `bqstore.open` opens the
        copy where it is. Nothing is at the new place until all of it is on the disk.

        Raises
        ------
        InvalidInputError   there is a collection of that name

        >>> col.save("saved", "notes")
        >>> len(bqstore.open("saved", "notes"))
        4
        """
        self._engine.check()
        copies.save(self._engine, absolute(path, expected="expected the folder of a store"), collection)

    # ---- searching

    @checked_keywords
    @traced("search")
    def search(
        self,
        vector: ArrayLike | None = None,
        k: int = 10,
        *,
        text: str | None = None,
        mode: str | None = None,
        fusion: str | None = None,
        alpha: float | None = None,
        syntax: str | None = None,
        filter: Filter | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool = False,
        ignore_quantization: bool = False,
        target_recall: float | None = None,
        score_threshold: float | None = None,
        with_vectors: bool = False,
        rerank: Rerank | None = None,
        fetch_k: int | None = None,
        explain: bool = False,
        allow_damaged: bool = False,
    ) -> list[Hit]:
        """Find the k documents nearest to a vector, nearest first; or those that have the words of a text; or both.

        There are always ``min(k, documents that match the filter)`` hits, unless ``score_threshold`` drops some.

        Parameters
        ----------
        vector : array-like (dim,)      need not be normalised. None, with a filter: the first k documents that match,
                                        with a score of 0
        k : int                         1 to 10,000
        text : str                      words to search for, any of them; see ``text_index`` of `bqstore.open`
        mode : str                      "vector", "text", or "hybrid": by both. None: by whichever is given
        fusion : str                    with "hybrid", how both are merged: "relative_score" (None), by their scores,
                                        scaled to 0 to 1, or "rrf", by their ranks (reciprocal rank fusion)
        alpha : float                   with "hybrid", the weight of the vector's side, 0 to 1; None: 0.5
        syntax : str                    "words" (None), or "fts5": ``text`` is an expression of SQLite's FTS5, with
                                        phrases, AND and NOT
        filter : dict or function       which documents may be found: ``{"lang": "en", "year": {"$gte": 2020}}`` (see
                                        ``docs/filters.md``), or a function of a `Record` that returns a bool (slower)
        oversampling : float or None    ``ceil(k * oversampling)`` candidates are rescored. None: the collection's
                                        default, and more if a filter or duplicates require it
        rescore : bool or None          score candidates by their original vectors; None: the collection's default
        hnsw_ef : int or None           width of the graph walk's candidate list; None: the collection's default
        exact : bool                    score every matching document by its original vector
        ignore_quantization : bool      Qdrant's name for the same: search the original vectors, not the codes
        target_recall : float           share of the true nearest to find: ``oversampling`` and ``hnsw_ef`` are then the
                                        cheapest that reached it in measurements on this collection
        score_threshold : float         drop hits with a lower score
        with_vectors : bool             fill ``Hit.vector``
        rerank : function               called as ``rerank(text, hits)`` with the ``fetch_k`` best hits, returns a score
                                        for each; the k with the highest are the hits. See ``docs/hybrid.md``
        fetch_k : int                   at least k; None: four times k, and at least 20
        explain : bool                  return `ExplainedHits`, whose ``explanation`` tells how the search was done
        allow_damaged : bool            search what is intact of a damaged collection: documents that cannot be read are
                                        left out and named, see `PartialHits`. False: they are a CorruptionError

        >>> hits = col.search([1, 0, 0, 0], k=2, filter={"year": {"$gte": 2020}})
        >>> hits[0].id, hits[0].score, hits[0].text
        ('a', 1.0, 'one')
        """
        engine = self._engine
        engine.check()
        if rerank is not None or fetch_k is not None:
            wanted, least = candidates(rerank, fetch_k, k), score_threshold
            engine.options(k, oversampling, rescore, hnsw_ef, exact, ignore_quantization, least, with_vectors)
            found = self.search(
                *(vector, wanted), text=text, mode=mode, fusion=fusion, alpha=alpha, syntax=syntax, filter=filter,
                oversampling=oversampling, rescore=rescore, hnsw_ef=hnsw_ef, exact=exact,
                ignore_quantization=ignore_quantization, target_recall=target_recall, with_vectors=with_vectors,
                explain=explain, allow_damaged=allow_damaged,
            )  # fmt: skip
            assert rerank is not None  # `candidates` has refused it
            return reranked(rerank, text, found, k, least)
        options = engine.options(
            *(k, oversampling, rescore, hnsw_ef, exact, ignore_quantization, score_threshold, with_vectors),
            *(1, target_recall),
        )
        explain = check_bool("explain", explain)
        words = hybrid.asked(vector is not None, text, mode, fusion, alpha, syntax, "text")
        if words is not None:
            wide = engine.options(
                *(hybrid.width(k), oversampling, rescore, hnsw_ef, exact, ignore_quantization, None, False),
                *(1, target_recall),
            )
            _refuse_damaged(allow_damaged)
            given = self._queries(vector, single=True) if words.has_vectors else None
            return hybrid.hits(engine, given, words, filter_grammar.parse(filter), options, wide, explain)[0]
        if vector is None and filter is not None and not explain:
            return listing.first_hits(engine, filter_grammar.parse(filter), options)
        queries = self._queries(vector, single=True)
        hits = damaged.hits if check_bool("allow_damaged", allow_damaged) else search.hits
        return hits(engine, queries, filter_grammar.parse(filter), options, explain)[0]

    @checked_keywords
    @traced("search")
    def search_batch(
        self,
        vectors: ArrayLike | None = None,
        k: int = 10,
        *,
        texts: str | Sequence[str] | None = None,
        mode: str | None = None,
        fusion: str | None = None,
        alpha: float | None = None,
        syntax: str | None = None,
        filter: Filter | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool = False,
        ignore_quantization: bool = False,
        target_recall: float | None = None,
        score_threshold: float | None = None,
        with_vectors: bool = False,
        rerank: Rerank | None = None,
        fetch_k: int | None = None,
        threads: int | None = None,
        allow_damaged: bool = False,
    ) -> list[list[Hit]]:
        """Run `search` for many vectors at once, on all cores; returns one list of hits for each vector.

        Parameters
        ----------
        vectors : array-like (n, dim)
        texts : n strings               as ``text`` of `search`, one for each vector
        rerank : function               as in `search`, called once for each vector
        threads : int or None           at most so many threads; None: those of the collection

        The other parameters are those of `search`.

        >>> [[hit.id for hit in hits] for hits in col.search_batch(np.eye(4)[:2], k=1)]
        [['a'], ['b']]
        """
        engine = self._engine
        engine.check()
        if rerank is not None or fetch_k is not None:
            wanted, least = candidates(rerank, fetch_k, k), score_threshold
            engine.options(k, oversampling, rescore, hnsw_ef, exact, ignore_quantization, least, with_vectors)
            lists = self.search_batch(
                *(vectors, wanted), texts=texts, mode=mode, fusion=fusion, alpha=alpha, syntax=syntax, filter=filter,
                oversampling=oversampling, rescore=rescore, hnsw_ef=hnsw_ef, exact=exact,
                ignore_quantization=ignore_quantization, target_recall=target_recall, with_vectors=with_vectors,
                threads=threads, allow_damaged=allow_damaged,
            )  # fmt: skip
            assert rerank is not None
            each = hybrid.texts_of(texts, len(lists))
            return [reranked(rerank, text, hits, k, least) for text, hits in zip(each, lists, strict=True)]
        options = engine.options(
            *(k, oversampling, rescore, hnsw_ef, exact, ignore_quantization, score_threshold, with_vectors),
            *(threads, target_recall),
        )
        words = hybrid.asked(vectors is not None, texts, mode, fusion, alpha, syntax, "texts")
        if words is not None:
            wide = engine.options(
                *(hybrid.width(k), oversampling, rescore, hnsw_ef, exact, ignore_quantization, None, False),
                *(threads, target_recall),
            )
            _refuse_damaged(allow_damaged)
            given = self._several(vectors, words)
            return hybrid.hits(engine, given, words, filter_grammar.parse(filter), options, wide)
        hits = damaged.hits if check_bool("allow_damaged", allow_damaged) else search.hits
        return hits(engine, self._queries(vectors, single=False), filter_grammar.parse(filter), options)

    @checked_keywords
    @traced("search")
    def search_ids(
        self,
        vectors: ArrayLike | None = None,
        k: int = 10,
        *,
        texts: str | Sequence[str] | None = None,
        mode: str | None = None,
        fusion: str | None = None,
        alpha: float | None = None,
        syntax: str | None = None,
        filter: Filter | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool = False,
        ignore_quantization: bool = False,
        target_recall: float | None = None,
        score_threshold: float | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[np.object_], F32]:
        """Find ids and scores only. No document is read: this is the fastest way to search.

        Parameters
        ----------
        vectors : array-like (dim,) or (n, dim); None, with a filter: the first k that match, with a score of 0
        texts, threads                  as in `search_batch`; ``texts`` may be one string for one vector

        The other parameters are those of `search`.

        Returns
        -------
        ids : object (n, k)             str, padded with None; n is 1 for one vector
        scores : float32 (n, k)         padded with NaN

        >>> ids, scores = col.search_ids(np.eye(4)[:2], k=1)
        >>> ids.tolist(), scores.tolist()
        ([['a'], ['b']], [[1.0], [1.0]])
        """
        engine = self._engine
        state = engine.entered()
        options = engine.options(
            *(k, oversampling, rescore, hnsw_ef, exact, ignore_quantization, score_threshold, False),
            *(threads, target_recall),
        )
        words = hybrid.asked(vectors is not None, texts, mode, fusion, alpha, syntax, "texts")
        if words is not None:
            wide = engine.options(
                *(hybrid.width(k), oversampling, rescore, hnsw_ef, exact, ignore_quantization, None, False),
                *(threads, target_recall),
            )
            given = self._several(vectors, words)
            return hybrid.ids(engine, given, words, filter_grammar.parse(filter), options, wide)
        tree = None if filter is None else filter_grammar.parse(filter)
        if vectors is None and filter is not None:
            return listing.first_ids(engine, tree, options)
        return search.ids(engine, state, self._queries(vectors, single=False), tree, options)

    @checked_keywords
    def searcher(
        self,
        k: int = 10,
        *,
        filter: Filter | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool = False,
        ignore_quantization: bool = False,
        target_recall: float | None = None,
        score_threshold: float | None = None,
        with_vectors: bool = False,
    ) -> Searcher:
        """Prepare a search that is made often: whatever does not depend on the vector is done once.

        Its searches take less time, see ``docs/collection.md``, and find the same. They see new commits, also of other
        processes. The parameters are those of `search`.

        >>> nearest = col.searcher(k=2, filter={"year": {"$gte": 2021}})
        >>> [hit.id for hit in nearest.search([0, 1, 0, 0])]
        ['b', 'c']
        >>> ids, scores = nearest.search_ids([0, 1, 0, 0])
        >>> ids.tolist(), scores.tolist()
        ([['b', 'c']], [[1.0, 0.0]])
        """
        engine = self._engine
        engine.check()
        given = {
            **{"k": k, "filter": filter, "oversampling": oversampling, "rescore": rescore, "hnsw_ef": hnsw_ef},
            **{"exact": exact, "ignore_quantization": ignore_quantization, "target_recall": target_recall},
            **{"score_threshold": score_threshold, "with_vectors": with_vectors},
        }
        keywords = {
            name: value
            for name, value in given.items()
            if value is not None and (value is not False or name == "rescore")  # the others are False if not given
        }
        asked = (
            *(k, oversampling, rescore, hnsw_ef, exact, ignore_quantization, score_threshold, with_vectors),
            *(1, target_recall),
        )
        tree = filter_grammar.parse(filter)
        return Searcher(self, engine, keywords, asked, tree)

    @checked_keywords
    @traced("search")
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
        target_recall: float | None = None,
        score_threshold: float | None = None,
        with_vectors: bool = False,
    ) -> list[Hit]:
        """Choose, of the ``fetch_k`` nearest documents, k that are near the vector and differ from each other.

        Each next hit has the largest ``lambda_mult * score - (1 - lambda_mult) * similarity to the nearest hit chosen
        before``, in the collection's distance. The first is the nearest document (Carbonell and Goldstein, SIGIR 1998).

        Parameters
        ----------
        fetch_k : int or None       at least k; None: four times k, and at least 20
        lambda_mult : float         1: relevance alone, as `search`; 0: diversity alone

        The other parameters are those of `search`. Raises InvalidInputError where no originals are kept.

        >>> [hit.id for hit in col.max_marginal_relevance([1, 0.5, 0, 0], k=2, lambda_mult=0.5)]
        ['a', 'b']
        """
        engine = self._engine
        engine.check()
        k, fetch_k, relevance = validate.mmr_in(k, fetch_k, lambda_mult)
        if not engine.keeps_originals:
            raise no_originals("max_marginal_relevance()")
        with_vectors = check_bool("with_vectors", with_vectors)
        options = engine.options(
            *(fetch_k, oversampling, rescore, hnsw_ef, exact, ignore_quantization, score_threshold, True),
            *(1, target_recall),
        )
        hits = search.hits(engine, self._queries(vector, single=True), filter_grammar.parse(filter), options)[0]
        return mmr.chosen(hits, k, relevance, engine.distance, with_vectors)

    @checked_keywords
    @traced("search")
    def more_like(
        self,
        ids: Sequence[str] | None = None,
        k: int = 10,
        *,
        vectors: ArrayLike | None = None,
        combine: str = "mean",
        filter: Filter | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool = False,
        ignore_quantization: bool = False,
        score_threshold: float | None = None,
        with_vectors: bool = False,
        target_recall: float | None = None,
    ) -> list[Hit]:
        """Find the k documents nearest to several at once: to stored ones, to vectors, or to both.

        Parameters
        ----------
        ids : list of str               documents to search with, by their vectors; they are not among the hits
        vectors : array-like (m, dim)   more vectors
        combine : str                   "mean": search with the mean of all, under cosine each at unit length; "best":
                                        search with each, and give every document its best score

        The other parameters are those of `search`. Raises NotFoundError for an id that does not exist.

        >>> [hit.id for hit in col.more_like(["a"], k=2)]
        ['b', 'c']
        >>> [hit.id for hit in col.more_like(vectors=[[1, 0, 0, 0], [0, 1, 0, 0]], k=2, combine="best")]
        ['a', 'b']
        """
        engine = self._engine
        engine.check()
        k, combine = check_int("k", k, 1, MAX_K), check_choice("combine", combine, ("mean", "best"))
        names = validate.ids_in([ids] if isinstance(ids, str) else [] if ids is None else ids)
        given = None if vectors is None else self._queries(vectors, single=False)
        if names and not engine.keeps_originals:
            raise no_originals("more_like(ids)")
        tree, wide = filter_grammar.parse(filter), min(k + len(names), MAX_K)
        options = engine.options(
            *(wide, oversampling, rescore, hnsw_ef, exact, ignore_quantization, score_threshold, with_vectors),
            *(None, target_recall),
        )
        return more_like.hits(engine, names, given, combine, tree, options)[:k]

    # ---- reading

    @checked_keywords
    def get(self, ids: Sequence[str], with_vectors: bool = False) -> list[Record]:
        """Return the documents with these ids, in the order of the ids; unknown ids are left out.

        >>> [record.text for record in col.get(["b", "unknown", "a"])]
        ['two', 'one']
        """
        engine = self._engine
        engine.check()
        names = validate.ids_in(ids)
        if check_bool("with_vectors", with_vectors) and not engine.keeps_originals:
            raise no_originals("with_vectors=True")
        return listing.get(engine, names, bool(with_vectors))

    @checked_keywords
    def scroll(
        self,
        filter: Filter | None = None,
        batch: int = 1000,
        *,
        limit: int | None = None,
        offset: int = 0,
        with_vectors: bool = False,
        order_by: str | None = None,
        descending: bool = False,
    ) -> Iterator[Record]:
        """Iterate over every document that matches, oldest first, reading ``batch`` at a time.

        You may write meanwhile: each document that exists at the start and when its batch is read comes once, in its
        state at that time.

        Parameters
        ----------
        limit : int or None         at most so many documents
        offset : int                skip so many at the start
        with_vectors : bool         fill ``Record.vector``
        order_by : str or None      a metadata field: numbers first, then strings and dates, then others, then
                                    documents without the field
        descending : bool           the largest first; documents without the field still come last

        >>> [record.id for record in col.scroll(filter={"year": {"$lt": 2022}})]
        ['a', 'b']
        >>> [record.id for record in col.scroll(order_by="year", descending=True, limit=2)]
        ['d', 'c']
        """
        engine = self._engine
        engine.check()
        batch, tree = check_int("batch", batch, 1, 1_000_000), filter_grammar.parse(filter)
        limit = None if limit is None else check_int("limit", limit, 0, 2**62)
        offset, descending = check_int("offset", offset, 0, 2**62), check_bool("descending", descending)
        if check_bool("with_vectors", with_vectors) and not engine.keeps_originals:
            raise no_originals("with_vectors=True")
        order = None if order_by is None else filter_grammar.checked_field(order_by, "order_by")
        ids, ordinals = listing.ordered(engine, tree, order, descending, offset, limit)
        return self._records(ids, ordinals, batch, bool(with_vectors))

    def _records(self, ids: Ids, ordinals: NDArray[np.int32], batch: int, with_vectors: bool) -> Iterator[Record]:
        for at in range(0, len(ordinals), batch):
            yield from self.get(ids.take(ordinals[at : at + batch]).tolist(), with_vectors)

    @checked_keywords
    def ids(self, filter: Filter | None = None) -> list[str]:
        """Return the ids of the documents that match, oldest first; no document is read. ``for id in col`` does, too.

        >>> col.ids({"year": {"$lt": 2022}}), list(col)
        (['a', 'b'], ['a', 'b', 'c', 'd'])
        """
        self._engine.check()
        return listing.ids(self._engine, filter_grammar.parse(filter))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids, oldest first."""
        return iter(self.ids())

    @checked_keywords
    def facets(
        self, field: str, filter: Mapping[str, Any] | None = None, limit: int | None = None
    ) -> list[tuple[Any, int]]:
        """Return the values of a metadata field and how many documents have each, the most frequent first.

        A list counts once for each of its different elements; dicts do not count. Dates come as ISO 8601 strings, with
        a time zone as datetimes in UTC.

        >>> col.facets("lang"), col.facets("year", filter={"year": {"$gt": 2021}}, limit=1)
        ([('en', 4)], [(2022, 1)])
        """
        self._engine.check()
        limit = None if limit is None else check_int("limit", limit, 0, 2**62)
        tree = filter_grammar.parse(filter)
        return listing.facets(self._engine, filter_grammar.checked_field(field, "field"), tree)[:limit]

    @checked_keywords
    def distinct(self, field: str, filter: Mapping[str, Any] | None = None) -> list[Any]:
        """Return the different values of a metadata field in their order: numbers, strings, then others.

        >>> col.distinct("year")
        [2020, 2021, 2022, 2023]
        """
        self._engine.check()
        tree = filter_grammar.parse(filter)
        return listing.distinct(self._engine, filter_grammar.checked_field(field, "field"), tree)

    @checked_keywords
    def count(self, filter: Filter | None = None) -> int:
        """Count the documents that match.

        >>> col.count({"year": [2020, 2021]})
        2
        """
        engine = self._engine
        engine.check()
        return engine.acceptor.accepted(engine.publisher.current(), filter_grammar.parse(filter))[1].count

    def __len__(self) -> int:
        """Count all documents."""
        return self.count()

    def __contains__(self, id_: object) -> bool:
        """Whether there is a document with this id."""
        engine = self._engine
        engine.check()

        def answer(state: State) -> bool:
            with Block() as block, at_commit_of(engine.store, state, block):
                places = state.ordinals(engine.store.rids_by_id([str(id_)]).values())
                return bool(state.live[places].any())

        return isinstance(id_, str) and is_text(id_) and engine.publisher.whole(answer)

    def info(self) -> CollectionInfo:
        """Describe the collection: its settings, and what it takes in bytes.

        >>> col.info().count, col.info().dim, col.info().way
        (4, 4, 'exact')
        """
        self._engine.check()
        return info.info_of(self._engine)

    def health(self) -> Health:
        """Tell whether searches reach the target recall, and what would mend it if not; the call measures nothing.

        It goes by measurements with held-out documents, made whenever the collection had doubled, and by searches of
        this process: one in many is answered again by exact search, in the background, in a hundredth of the time.

        >>> col.health().ok, col.health().target
        (True, 0.95)
        """
        return self.info().recall

    def verify(self) -> VerifyReport:
        """Read everything and compare it with its checksums and counts. Reports damage, does not raise for it.

        Others write meanwhile; in memory they wait.

        >>> col.verify().ok
        True
        """
        self._engine.check()
        return info.verify(self._engine)

    @checked_keywords
    def check_model(self, model: str, dim: int | None = None, *, remember: bool = False, writing: bool = False) -> None:
        """Raise unless a model's vectors belong here; embedders call it before they make and pay for vectors.

        Parameters
        ----------
        model : str         as in ``embedding_model=`` of `open`
        dim : int or None   dimension of the model's vectors, if known
        remember : bool     store the model if the collection knows none yet
        writing : bool      the vectors are to be added

        Raises
        ------
        SettingsConflictError   the collection holds vectors of another model or dimension; both are named
        ReadOnlyError           ``writing=True``, and the collection is open for reading only

        >>> col.check_model("text-embedding-3-small", dim=4)
        """
        self._engine.check(writing=writing or remember)
        embedding_model.check(self._engine, embedding_model.checked_model(model, "model"), dim, remember)

    # ---- quality

    @checked_keywords
    def recall(
        self,
        queries: ArrayLike | None = None,
        k: int = 10,
        sample: int = 200,
        settings: Sequence[Mapping[str, Any]] | None = None,
    ) -> RecallReport:
        """Measure how many of the true nearest documents searches find, and how fast; takes seconds.

        Parameters
        ----------
        queries : array-like (m, dim)   best, your users' queries, as questions differ from documents. None: ``sample``
                                        documents are used as queries, each for its neighbors, without itself
        k : int                         hits per query
        sample : int                    how many documents to use as queries if none are given
        settings : list of dicts        what to measure, each with some of ``oversampling``, ``rescore``, ``hnsw_ef``,
                                        ``query_encoding``, ``encoding``, ``estimator``, ``rotate``, ``truncate_dim``.
                                        None: a choice of them. Encodings other than the collection's are tried in
                                        memory, nothing stored changes

        Raises
        ------
        InvalidInputError               impossible settings, fewer than two documents, or no originals kept

        >>> report = col.recall(k=2)
        >>> report.recall
        1.0
        """
        self._engine.check()
        given = None if queries is None else self._queries(queries, single=False)
        self._engine.graph.settle()
        return measure_recall(self._engine, given, k, sample, settings)

    @checked_keywords
    def tune(self, target_recall: float = 0.98, k: int = 10, queries: ArrayLike | None = None) -> SearchParams:
        """Find the fastest search settings that reach a recall on this data, and make them the defaults.

        They are stored: searches without keywords use them from now on, here and at the next opening.

        Parameters
        ----------
        target_recall : float           share of the k nearest to find, above 0 and at most 1, with 95% confidence
        k : int                         hits per query
        queries : array-like (m, dim)   as in `recall`

        Raises
        ------
        TargetNotReachedError           no settings reach it, and nothing was changed; `requantize` with more bits may
        InvalidInputError               as in `recall`

        >>> col.clear()
        >>> _ = col.add(np.random.default_rng(0).standard_normal((500, 4)))
        >>> col.tune(target_recall=0.9).oversampling >= 1
        True
        """
        self._engine.check(writing=True)
        given = None if queries is None else self._queries(queries, single=False)
        self._engine.graph.settle()
        params = find_settings(self._engine, target_recall, k, given)
        self._engine.set_search_defaults(params)
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
        """Make all codes anew from the original vectors, and give back the space of deleted documents.

        Without arguments, encodings are measured on the present vectors and the best is taken; worthwhile when these
        differ in kind from the first ones. With fewer than 2,048 vectors, too few to tell, the simplest encoding that
        the arguments allow is used until there are more.

        Searches go on meanwhile, here and in other processes; writes wait. It is one commit: until then an
        interruption changes nothing. Settings found by `tune` are dropped, as they were for the old codes.

        Parameters
        ----------
        encoding, query_encoding, estimator, rotate, truncate_dim
            as in `Quantization`. They become the collection's settings; those not given get their defaults

        Returns
        -------
        Quantization        what is in use now, with nothing left "auto"

        Raises
        ------
        InvalidInputError   no originals are kept: codes cannot be made from codes

        >>> col.requantize(encoding="two_bits", estimator="rabitq").encoding
        'two_bits'
        """
        self._engine.check(writing=True)
        wanted = Quantization(encoding, query_encoding, estimator, rotate, truncate_dim)
        if not self._engine.keeps_originals:
            raise no_originals("requantize()")
        self._engine.recode(lambda: self._engine.encoder.change(wanted))
        return self._engine.encoder.in_use(self._engine.query_encoding)

    @checked_keywords
    def reembed_plan(self, embedder: Any) -> ReembedPlan:
        """Tell what `reembed` would take: texts, characters, and the price if the embedder can tell. Nothing is sent.

        >>> class Lengths:
        ...     model = "lengths"
        ...
        ...     def embed(self, texts):
        ...         return np.array([[len(text), 1, 1] for text in texts], np.float32)
        ...
        ...     def embed_query(self, text):
        ...         return self.embed([text])[0]
        >>> plan = col.reembed_plan(Lengths())
        >>> plan.documents, plan.characters
        (4, 15)
        """
        self._engine.check()
        return reembed.plan(self._engine, embedder)

    @checked_keywords
    def reembed(self, embedder: Any, *, batch: int = 1000) -> ReembedReport:
        """Embed all texts with another model, of another dimension too, and replace all vectors in one commit.

        Until that commit searches answer from the old vectors, and others add and delete as ever; what they add is
        embedded as well. New vectors are kept on disk batch by batch: a call that was interrupted or killed goes on
        when it is made again with the same model, and nothing is embedded twice. The collection remembers the new
        model, and refuses vectors of the old one. Search settings found by `tune` are dropped.

        Parameters
        ----------
        embedder : Embedder     the new model: ``model``, ``embed(texts)``; `reembed_plan` tells the price before
        batch : int             texts to embed at a time

        Raises
        ------
        InvalidInputError       documents without a text, or vectors that cannot be stored; nothing was changed
        LockedError             another process is embedding this collection again
        EmbeddingError          the model refused; what was embedded before is kept for the next call

        >>> class Lengths:
        ...     model = "lengths"
        ...
        ...     def embed(self, texts):
        ...         return np.array([[len(text), 1, 1] for text in texts], np.float32)
        ...
        ...     def embed_query(self, text):
        ...         return self.embed([text])[0]
        >>> report = col.reembed(Lengths())
        >>> report.documents, report.dim, col.info().embedding_model
        (4, 3, 'lengths')
        """
        self._engine.check(writing=True)
        return reembed.reembed(self._engine, embedder, check_int("batch", batch, 1, 1_000_000))

    # ---- upkeep and closing

    def flush(self) -> None:
        """Link what is not linked yet, save the graph, measure recall if due, and fold SQLite's log into its file.

        What was acknowledged is durable without it. It makes the next opening quick.

        >>> col.flush()
        """
        self._engine.check(writing=True)
        self._engine.core.texts.settle(self._engine.lock_timeout)
        self._engine.graph.settle()
        self._engine.core.flush(self._engine.lock_timeout)
        self._engine.core.keeper.settle(self._engine.target_recall, self._engine.hnsw.full_scan_threshold)

    @checked_keywords
    def set_text_index(self, text_index: bool | Mapping[str, Any] = True) -> None:
        """Index the words of all texts anew, perhaps with another tokenizer; or drop the index (False).

        It is built in portions, each a commit of its own, and others may write meanwhile. Until it is complete,
        searches for words raise `NotReadyError`. If it is interrupted, it goes on at the next opening.

        Parameters
        ----------
        text_index : bool or dict   as in `bqstore.open`

        >>> col.set_text_index({"tokenize": "porter"})
        """
        self._engine.check(writing=True)
        given = text_index_in(text_index)
        text_upkeep.set_text_index(self._engine, None if given is None else given["tokenize"])

    @traced("compact")
    def compact(self) -> None:
        """Give back the space of deleted, replaced and expired documents: nothing of them is left in the files.

        Searches go on meanwhile, here and in other processes; writes wait. It is one commit: until then an
        interruption changes nothing. A process that reads an older commit at that moment keeps SQLite's log, and what
        stands in it, until a later `flush`, `compact` or `close`.

        >>> col.delete(["a"])
        1
        >>> col.compact()
        >>> col.info().deleted
        0
        """
        self._engine.check(writing=True)
        self._engine.graph.settle()
        writes.compact(self._engine)

    @checked_keywords
    def backup(self, path: str | PathLike[str], *, incremental: bool = False) -> BackupReport:
        """Copy the collection as of its last commit into another store, and read all of the copy back.

        Searches and writes go on meanwhile, here and in other processes. To restore, open the copy. An interrupted call
        leaves no collection behind, and the next call goes on where it was.

        Parameters
        ----------
        path : str or path      folder of the store to copy into, best on another disk; the collection has the same
                                name there
        incremental : bool      bring the copy that is there up to date, in one commit: both are read, and only
                                differences are written. If there is no copy, one is made

        Raises
        ------
        InvalidInputError       there is something already, or it is no older copy of this collection
        CorruptionError         the collection, or the older copy, is damaged; an older copy was left as it was
        LockedError, StorageError

        >>> col.backup("my-backup").documents
        4
        >>> with bqstore.open("my-backup") as copy:
        ...     len(copy)
        4
        >>> _ = col.add(np.ones((1, 4)), ids=["e"])
        >>> col.backup("my-backup", incremental=True).documents
        5
        """
        self._engine.check()
        folder = absolute(path, expected="expected the folder of the store to copy into")
        return engine_backup(self._engine, folder, check_bool("incremental", incremental))

    def close(self) -> None:
        """Give back the files, if nothing else in this process has the collection open. Closing twice is fine.

        Searches under way end or raise ClosedError.

        >>> col.close()
        >>> len(col)
        Traceback (most recent call last):
        bqstore.errors.ClosedError: this collection is closed; open it again
        """
        self._engine.close()

    def __enter__(self) -> Collection:
        self._engine.check()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __copy__(self) -> Collection:
        """Return the collection itself: it has one set of files and one lock."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Collection:
        """Return the collection itself."""
        return self

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        # given as a default, as the module's names may be gone at the end of a program
        if hasattr(self, "_engine") and not ending():
            self._engine.close()

    def __repr__(self) -> str:
        engine = self._engine
        where = "in memory" if engine.path is None else str(engine.path)
        state = "closed" if engine.closed or engine.lifecycle.closed else f"{engine.publisher.count:,} documents"
        return f"<Collection {engine.name!r} {where}, {state}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the collection's settings, and nothing of its documents."""
        return info.html_of(self._engine, repr(self))

    def _several(self, vectors: object, words: hybrid.Asked) -> F32 | None:
        """The vectors beside texts, one for each."""
        if not words.has_vectors:
            return None
        found = self._queries(vectors, single=False)
        if len(found) != len(words.texts):
            raise InvalidInputError(f"texts has {len(words.texts):,}, vectors {len(found):,}; expected as many")
        return found

    def _queries(self, given: object, single: bool) -> F32:
        head = self._engine.store.head
        return validate.queries_in(given, head.dim, head.settings["distance"], single)


def _refuse_damaged(allow_damaged: object) -> None:
    if check_bool("allow_damaged", allow_damaged):
        raise InvalidInputError("allow_damaged=True is for searches with vectors alone; leave text out")
