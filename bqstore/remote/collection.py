"""`RemoteCollection`: the calls of a local collection, answered by a Qdrant server.

Each call is checked once, as a local one is; `writing.py`, `searching.py` and `listing.py` ask the server.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace as replaced
from itertools import islice
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import clock, validate
from ..arguments import check_bool, check_choice, check_int, checked_keywords, is_text, shown
from ..config import MAX_K
from ..engine.embedding_model import checked_model, refuse_another
from ..engine.hybrid import Asked as Words
from ..engine.hybrid import texts_of
from ..engine.more_like import mean_of
from ..engine.rerank import Rerank, candidates, reranked
from ..errors import ClosedError, InvalidInputError, NotFoundError
from ..metadata import filter_grammar
from ..metadata.filter_grammar import Filter
from ..metadata.filter_tree import Tree
from ..results.hits import ExplainedHits, Explanation, Hit, Record
from ..results.info import CollectionInfo
from ..results.outcomes import AddResult, Skipped, StreamReport
from ..results.recall import Health, RecallReport
from ..storage import Head
from ..streaming import add_stream
from . import hybrid, listing, quality, searching, writing
from .filters import both, expired, present
from .library import NEWEST, models
from .place import Place
from .points import ID, record_of, vector_of
from .searcher import RemoteSearcher
from .searching import Asked

F32 = NDArray[np.float32]


class RemoteCollection:
    """A collection on a Qdrant server or cluster, which `bqstore.open` returns for ``qdrant://host:6333/name``.

    Its calls are those of `bqstore.Collection`, and mean the same. What a server has no counterpart for is refused by
    name: see ``docs/scaling.md``. Filters are answered by the server, within the search.

    A write that has returned is on as many replicas as the collection's ``write_consistency_factor`` asks for. Calls
    are repeated, with pauses, until ``timeout`` seconds have passed; then they raise `bqstore.ServerError`. There is no
    snapshot: a call of several requests may see what others write meanwhile.

    >>> import bqstore
    >>> from qdrant_client import QdrantClient
    >>> col = bqstore.open(QdrantClient(":memory:"), "notes")  # or "qdrant://host:6333/notes", api_key=...
    >>> col.add([[1.0, 0.2], [0.1, 1.0]], ids=["a", "b"], texts=["one", "two"], metadatas=[{"lang": "en"}, {}])
    ['a', 'b']
    >>> [hit.id for hit in col.search([1.0, 0.0], k=5, filter={"lang": "en"})]
    ['a']
    """

    def __init__(self, *place: Any, **keywords: Any) -> None:
        if len(place) != 1 or keywords or not isinstance(place[0], Place):
            raise InvalidInputError(
                'a RemoteCollection is not made directly; use bqstore.open("qdrant://host:6333/name", ...)'
            )
        self._place: Place = place[0]

    # ---- writing

    @checked_keywords
    def add(
        self,
        vectors: ArrayLike,
        ids: Sequence[str | None] | None = None,
        texts: Sequence[str | None] | None = None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        expires_at: Any = None,
        on_error: str = "raise",
    ) -> AddResult:
        """Add documents, or replace those whose ids exist, as `bqstore.Collection.add`; acknowledged by the server.

        Many are several requests: of an error, ``added`` has the ids of those that are stored.
        """
        place = self._writable()
        given, rows, skipped = validate.documents_or_skipped(
            vectors, ids, texts, metadatas, self._head(), on_error, expires_at
        )
        writing.refuse_expiry(place, rows.metadata)
        told = [Skipped(*each) for each in skipped]
        if not rows.ids:
            return AddResult([], 0, told)
        return AddResult(rows.ids, writing.add(place, *writing.distinct(given, rows)), told)

    @checked_keywords
    def add_stream(self, documents: Iterable[Any], *, batch_size: int = 1000, on_error: str = "raise") -> StreamReport:
        """Add what an iterable gives, a portion at a time, as `bqstore.Collection.add_stream`."""
        self._writable()
        return add_stream(self, documents, batch_size, on_error)

    @checked_keywords
    def update(
        self,
        ids: Sequence[str],
        *,
        texts: Sequence[str | None] | None = None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        vectors: ArrayLike | None = None,
        expires_at: Any = None,
        replace: bool = False,
    ) -> int:
        """Change parts of documents, as `bqstore.Collection.update`."""
        place = self._writable()
        parts = validate.parts_in(ids, texts, metadatas, vectors, self._head(), expires_at)
        return writing.update(place, *parts, check_bool("replace", replace))

    @checked_keywords
    def update_metadata(
        self,
        ids: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        *,
        expires_at: Any = None,
        filter: Filter | None = None,
        replace: bool = False,
    ) -> int:
        """Change metadata by ids or a filter, as `bqstore.Collection.update_metadata`."""
        place = self._writable()
        tree = filter_grammar.parse(filter)
        if ids is None or tree is not None:
            if tree is None:
                raise InvalidInputError("update_metadata() needs ids or a filter that restricts")
            some, one = validate.one_metadata_in(ids, metadata, expires_at)
            return writing.update_matching(place, self._among(some, filter), one, check_bool("replace", replace))
        names, each = validate.metadata_in(ids, metadata, expires_at)
        return writing.update_metadata(place, names, each, check_bool("replace", replace))

    @checked_keywords
    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> int:
        """Delete documents by ids, by a filter, or those of the ids that match, as `bqstore.Collection.delete`."""
        place = self._writable()
        names, tree = None if ids is None else validate.ids_in(ids), filter_grammar.parse(filter)
        if names is None and tree is None:
            raise InvalidInputError("delete() needs ids or a filter that restricts; clear() deletes everything")
        wanted = self._among(names, filter)
        return writing.delete(place, wanted) if place.settings().exists and (names is None or names) else 0

    def expire(self) -> int:
        """Delete expired documents, as `bqstore.Collection.expire`; the server frees their space."""
        place = self._writable()
        known = place.settings()
        if not known.exists or not known.layout.ours:
            return 0
        return writing.delete(place, models().Filter(must=[expired(clock.now())]))

    def clear(self) -> None:
        """Delete every document, as `bqstore.Collection.clear`; another dimension and model may follow."""
        place = self._writable()
        settings = place.settings()
        if settings.exists:
            m = models()
            place.call("delete", points_selector=m.FilterSelector(filter=m.Filter()), wait=True)
            place.grown(-1)
            place.keep(replaced(settings, cleared=settings.layout.ours))

    # ---- searching

    @checked_keywords
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
        """Find the k documents nearest to a vector, nearest first, as `bqstore.Collection.search`."""
        self._refuse(allow_damaged)
        words = self._words(vector is not None, text, mode, fusion, alpha, syntax, "text", rerank is not None)
        wanted = candidates(rerank, fetch_k, k) if rerank is not None or fetch_k is not None else k
        least = score_threshold if rerank is None else None
        how = self._asked(
            *(wanted, oversampling, rescore, hnsw_ef, exact, ignore_quantization, least, with_vectors, target_recall)
        )
        explain = check_bool("explain", explain)
        if words is not None:
            query = self._queries(vector, single=True) if words.has_vectors else None
            found = hybrid.hits(self._place, query, words, self._tree(filter), how, explain)[0]
        elif vector is None and filter is not None and not explain:
            found = self._first(filter, how)
        else:
            queries = self._queries(vector, single=True)
            found = searching.hits(self._place, queries, self._tree(filter), how)[0]
        if explain and words is None:
            found = self._explained(found, how)
        if rerank is None:
            return found
        return reranked(rerank, text, found, check_int("k", k, 1, MAX_K), score_threshold)

    @checked_keywords
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
        """Run `search` for many vectors, several in a request, as `bqstore.Collection.search_batch`."""
        self._refuse(allow_damaged, threads)
        words = self._words(vectors is not None, texts, mode, fusion, alpha, syntax, "texts", rerank is not None)
        wanted = candidates(rerank, fetch_k, k) if rerank is not None or fetch_k is not None else k
        least = score_threshold if rerank is None else None
        how = self._asked(
            *(wanted, oversampling, rescore, hnsw_ef, exact, ignore_quantization, least, with_vectors, target_recall)
        )
        if words is not None:
            lists = hybrid.hits(self._place, self._several(vectors, words), words, self._tree(filter), how)
        else:
            lists = searching.hits(self._place, self._queries(vectors, single=False), self._tree(filter), how)
        if rerank is None:
            return lists
        k, each = check_int("k", k, 1, MAX_K), texts_of(texts, len(lists))
        return [reranked(rerank, text, hits, k, score_threshold) for text, hits in zip(each, lists, strict=True)]

    @checked_keywords
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
        """Find ids and scores only, as `bqstore.Collection.search_ids`: the server sends nothing else."""
        self._refuse(False, threads)
        words = self._words(vectors is not None, texts, mode, fusion, alpha, syntax, "texts")
        how = self._asked(
            *(
                k,
                oversampling,
                rescore,
                hnsw_ef,
                exact,
                ignore_quantization,
                score_threshold,
                False,
                target_recall,
                True,
            )
        )
        if words is not None:
            found = hybrid.hits(self._place, self._several(vectors, words), words, self._tree(filter), how)
            return searching.as_arrays(found, how.k)
        if vectors is None and filter is not None:
            return searching.as_arrays([self._first(filter, how)], how.k)
        found = searching.hits(self._place, self._queries(vectors, single=False), self._tree(filter), how)
        return searching.as_arrays(found, how.k)

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
    ) -> RemoteSearcher:
        """Prepare a search that is made often, for one vector at a time, as `bqstore.Collection.searcher`."""
        how = self._asked(
            *(k, oversampling, rescore, hnsw_ef, exact, ignore_quantization, score_threshold, with_vectors),
            target_recall,
        )
        tree = filter_grammar.parse(filter)
        self._present(tree)  # what a server cannot answer is refused here

        def find(vector: ArrayLike, how: Asked) -> list[list[Hit]]:
            return searching.hits(self._check(), self._queries(vector, single=True), self._present(tree), how)

        return RemoteSearcher(self, how, find)

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
        target_recall: float | None = None,
        score_threshold: float | None = None,
        with_vectors: bool = False,
    ) -> list[Hit]:
        """Choose k documents that are near and differ, as `bqstore.Collection.max_marginal_relevance` does."""
        k, fetch_k, relevance = validate.mmr_in(k, fetch_k, lambda_mult)
        how = self._asked(
            *(k, oversampling, rescore, hnsw_ef, exact, ignore_quantization, score_threshold, with_vectors),
            target_recall,
        )
        query = self._queries(vector, single=True)[0]
        return searching.diverse(self._place, query, self._tree(filter), how, fetch_k, relevance)

    @checked_keywords
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
        """Find the k documents nearest to several at once, as `bqstore.Collection.more_like`."""
        k, combine = check_int("k", k, 1, MAX_K), check_choice("combine", combine, ("mean", "best"))
        names = validate.ids_in([ids] if isinstance(ids, str) else [] if ids is None else ids)
        given = [] if vectors is None else list(self._queries(vectors, single=False))
        how = self._asked(
            *(k, oversampling, rescore, hnsw_ef, exact, ignore_quantization, score_threshold, with_vectors),
            target_recall,
        )
        place = self._place
        found = writing.retrieved(place, names, with_vectors=True)
        for name in names:
            if name not in found:
                raise NotFoundError(f"there is no document {shown(name)}")
        stored = [vector_of(place.known.layout, found[name]) for name in names]
        queries = [*(each for each in stored if each is not None), *given]
        if not queries:
            raise InvalidInputError("more_like() needs ids or vectors to search with")
        several = np.stack(queries)
        if combine == "mean":
            several = mean_of(several, place.known.distance)
        m = models()
        but = m.Filter(must_not=[m.HasIdCondition(has_id=[found[name].id for name in names])]) if names else None
        best: dict[str, Hit] = {}
        for line in searching.hits(place, several, both(self._tree(filter), but), how):
            for hit in line:
                if hit.id not in best or hit.score > best[hit.id].score:
                    best[hit.id] = hit
        return sorted(best.values(), key=lambda hit: -hit.score)[:k]

    # ---- reading

    @checked_keywords
    def get(self, ids: Sequence[str], with_vectors: bool = False) -> list[Record]:
        """Return the documents with these ids, in their order, as `bqstore.Collection.get`."""
        self._check()
        return self._records(validate.ids_in(ids), check_bool("with_vectors", with_vectors), clock.now())

    def _records(self, names: Sequence[str], vectors: bool, now: int) -> list[Record]:
        found = writing.retrieved(self._place, names, vectors, now=now)
        layout = self._place.known.layout
        return [record_of(layout, found[name], vectors) for name in names if name in found]

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
        """Iterate over every document that matches, oldest first, as `bqstore.Collection.scroll`.

        What is replaced meanwhile may come again, as it is then. For an ``order_by`` the field of every document that
        matches is read first.
        """
        self._check()
        now = clock.now()
        batch, wanted = check_int("batch", batch, 1, 1_000_000), self._tree(filter, now)
        limit = None if limit is None else check_int("limit", limit, 0, 2**62)
        offset, descending = check_int("offset", offset, 0, 2**62), check_bool("descending", descending)
        vectors = check_bool("with_vectors", with_vectors)
        field = None if order_by is None else filter_grammar.checked_field(order_by, "order_by")
        return self._scrolled(wanted, batch, limit, offset, vectors, field, descending, now)

    def _scrolled(
        self, wanted: Any, batch: int, limit: int | None, offset: int, vectors: bool, field: str | None, down: bool,
        now: int,
    ) -> Iterator[Record]:  # fmt: skip
        if limit == 0:
            return
        end = None if limit is None else offset + limit
        batch = min(batch, 10_000 if limit is None else max(2, limit))
        if field is not None:
            ids = listing.by_field(self._place, wanted, field, down)[offset:end]
            for at in range(0, len(ids), batch):
                yield from self._records(ids[at : at + batch], vectors, now)
            return
        yield from islice(listing.records(self._place, wanted, batch, vectors, offset), limit)

    @checked_keywords
    def ids(self, filter: Filter | None = None) -> list[str]:
        """Return the ids of the documents that match, oldest first, as `bqstore.Collection.ids`."""
        self._check()
        wanted = self._tree(filter)
        found = listing.points(self._place, wanted, 10_000, listing.only(ID))
        return [listing.id_of(point) for some in found for point in some]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids, oldest first."""
        return iter(self.ids())

    @checked_keywords
    def facets(
        self, field: str, filter: Mapping[str, Any] | None = None, limit: int | None = None
    ) -> list[tuple[Any, int]]:
        """Return the values of a field and how often each occurs, as `bqstore.Collection.facets`; all are read."""
        self._check()
        limit = None if limit is None else check_int("limit", limit, 0, 2**62)
        wanted = self._tree(filter)
        return listing.facets(self._place, wanted, filter_grammar.checked_field(field, "field"))[:limit]

    @checked_keywords
    def distinct(self, field: str, filter: Mapping[str, Any] | None = None) -> list[Any]:
        """Return the different values of a field in their order, as `bqstore.Collection.distinct`; all are read."""
        return sorted((value for value, _ in self.facets(field, filter)), key=listing.place_of)

    @checked_keywords
    def count(self, filter: Filter | None = None) -> int:
        """Count the documents that match, exactly."""
        self._check()
        wanted = self._tree(filter)
        if not self._place.settings().exists:
            return 0
        found: int = self._place.call("count", count_filter=wanted, exact=True).count
        return found

    def __len__(self) -> int:
        """Count all documents."""
        return self.count()

    def __contains__(self, id_: object) -> bool:
        """Whether there is a document with this id."""
        self._check()
        return isinstance(id_, str) and is_text(id_) and bool(writing.retrieved(self._place, [id_], payload=False))

    def info(self) -> CollectionInfo:
        """Describe the collection: its settings; sizes are those of a code and a vector, the rest is the server's."""
        self._check()
        place, known = self._place, self._place.settings()
        dim = known.dim or 0
        code = quality.code_bytes(known.quantization.encoding, dim)
        original = {"float32": 4 * dim, "float16": 2 * dim, "none": 0}.get(known.originals, 4 * dim)
        linked = place.call("get_collection").indexed_vectors_count if known.exists else 0
        return CollectionInfo(
            path=place.server.where or None,
            collection=place.name,
            count=self.count(),
            deleted=self._expired(),
            dim=None if known.cleared else known.dim,
            distance=known.distance,
            originals=known.originals,
            quantization=known.quantization,
            hnsw=known.hnsw,
            search=known.search,
            embedding_model=known.embedding_model,
            read_only=place.read_only,
            code_bytes=code,
            original_bytes=original,
            vector_bytes=4 * dim,
            compression=4 * dim / code if code else 0.0,
            memory_bytes=0,
            way="server",
            linked=linked or 0,
            graph_bytes=0,
            disk_bytes=0,
            catalogue_bytes=0,
            generation=0,
            format_version=1,
            recall=Health(True, 0.0, None, 0, {}, (), "server"),
            text_index=None if known.tokenize is None else {"tokenize": known.tokenize},
        )

    def _expired(self) -> int:
        """How many documents have expired and are not deleted yet."""
        place = self._place
        if not place.settings().exists or not place.known.layout.ours:
            return 0
        found: int = place.call("count", count_filter=models().Filter(must=[expired(clock.now())]), exact=True).count
        return found

    def health(self) -> Health:
        """Tell that nothing is measured by itself: `recall` measures."""
        return self.info().recall

    @checked_keywords
    def check_model(self, model: str, dim: int | None = None, *, remember: bool = False, writing: bool = False) -> None:
        """Raise unless a model's vectors belong here, as `bqstore.Collection.check_model`."""
        place = self._writable() if writing or remember else self._check()
        name = checked_model(model, "model")
        if place.known.exists:
            place.look()  # others may have stored one
        known = place.settings()
        stored = None if known.cleared else known.embedding_model
        refuse_another(name, dim, stored, None if known.cleared else known.dim)
        if remember and name != known.embedding_model:
            place.keep(replaced(known, embedding_model=name))

    @checked_keywords
    def recall(
        self,
        queries: ArrayLike | None = None,
        k: int = 10,
        sample: int = 200,
        settings: Sequence[Mapping[str, Any]] | None = None,
    ) -> RecallReport:
        """Measure what searches find against the server's exact search, as `bqstore.Collection.recall`.

        Times are those of a call. Of ``settings`` it takes ``oversampling``, ``rescore`` and ``hnsw_ef``.
        """
        self._check()
        given = None if queries is None else self._queries(queries, single=False)
        return quality.recall(self._place, given, k, sample, settings)

    # ---- upkeep and closing

    def flush(self) -> None:
        """Do nothing: a write that has returned is acknowledged, and the server builds its graph by itself."""
        self._check()

    def set_alias(self, alias: str) -> None:
        """Let another name stand for this collection from now on, in one step, whatever it stood for before.

        So a generation that was built beside another takes its place: programs open ``qdrant://host:6333/alias``.
        """
        place, m = self._writable(), models()
        if not place.settings().exists:
            raise InvalidInputError(f"the collection {place.name!r} is not made yet; add documents, or give dim=")
        known = {each.alias_name for each in place.server.call("get_aliases").aliases}
        new = m.CreateAliasOperation(create_alias=m.CreateAlias(collection_name=place.name, alias_name=alias))
        old = m.DeleteAliasOperation(delete_alias=m.DeleteAlias(alias_name=alias))
        place.server.call(
            "update_collection_aliases", change_aliases_operations=[*([old] if alias in known else []), new]
        )

    def drop(self) -> None:
        """Remove the collection from the server, with all its documents, and close it."""
        place = self._writable()
        if place.settings().exists:
            place.call("delete_collection")
        self.close()

    def close(self) -> None:
        """Close the connection, unless the client was given. Closing twice is fine."""
        self._place.server.close()

    def __enter__(self) -> RemoteCollection:
        self._check()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a RemoteCollection holds a connection; open it again where it is needed")

    def __repr__(self) -> str:
        state = "closed" if self._place.server.closed else "open"
        return f"<RemoteCollection {self._place.name!r} {self._place.server.where or 'in the client given'}, {state}>"

    def __getattr__(self, name: str) -> NoReturn:
        if name in _LACKING:
            raise AttributeError(f"a collection on a Qdrant server has no {name}(): {_LACKING[name]}", name=name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    # ---- what calls have in common

    def _check(self) -> Place:
        if self._place.server.closed:
            raise ClosedError("this collection is closed; open it again")
        return self._place

    def _writable(self) -> Place:
        place = self._check()
        place.check_writable()
        return place

    def _head(self) -> Head:
        """What documents are checked against."""
        known = self._place.settings()
        originals = "float16" if known.originals == "float16" else "float32"
        dim = None if known.cleared else known.dim
        return Head(store_id=0, dim=dim, settings={"distance": known.distance, "originals": originals})

    def _queries(self, given: object, single: bool) -> F32:
        known = self._place.settings()
        return validate.queries_in(given, None if known.cleared else known.dim, known.distance, single)

    def _tree(self, filter: Filter | None, now: int | None = None) -> Any:
        return self._present(filter_grammar.parse(filter), now)

    def _present(self, tree: Tree | None, now: int | None = None) -> Any:
        """The filter, restricted to documents that have not expired; the clock is read once."""
        place = self._place
        version = NEWEST if tree is None else place.server.version()
        return present(tree, place.settings().layout, version, clock.now() if now is None else now)

    def _among(self, ids: Sequence[str] | None, filter: Filter | None) -> Any:
        own = None if ids is None else writing.having(self._place.settings().layout, ids)
        return both(own, self._tree(filter))

    def _asked(self, *given: Any) -> Asked:
        return searching.asked(self._check(), *given)

    def _first(self, filter: Filter, how: Asked) -> list[Hit]:
        """The first k that match, with a score of 0."""
        now = clock.now()
        if how.score_threshold is not None and how.score_threshold > 0:
            return []
        found = self._scrolled(self._tree(filter, now), how.k, how.k, 0, how.with_vectors, None, False, now)
        return [Hit(each.id, 0.0, each.text, each.metadata, each.vector) for each in found]

    def _explained(self, found: list[Hit], how: Asked) -> ExplainedHits:
        out, known = ExplainedHits(found), self._place.known
        exact = how.exact or how.ignore
        out.explanation = Explanation(
            "exact" if exact else "server",
            known.quantization.query_encoding,
            hnsw_ef=how.params.hnsw_ef or 0,
            candidates=0 if exact else int(np.ceil(how.k * how.params.oversampling)),
        )
        return out

    def _words(
        self, has_vector: bool, text: Any, mode: Any, fusion: Any, alpha: Any, syntax: Any, name: str,
        reranks: bool = False,
    ) -> Words | None:  # fmt: skip
        if text is None and mode is None and fusion is None and alpha is None and syntax is None:
            return None
        return hybrid.asked(self._place, has_vector, text, mode, fusion, alpha, syntax, name, reranks)

    def _several(self, vectors: object, words: Words) -> F32 | None:
        """The vectors beside texts, one for each."""
        if not words.has_vectors:
            return None
        found = self._queries(vectors, single=False)
        if len(found) != len(words.texts):
            raise InvalidInputError(f"texts has {len(words.texts):,}, vectors {len(found):,}; expected as many")
        return found

    def _refuse(self, allow_damaged: object = False, threads: object = None) -> None:
        """Raise InvalidInputError for what a server has no counterpart for."""
        self._check()
        if check_bool("allow_damaged", allow_damaged):
            raise InvalidInputError("allow_damaged=True has no counterpart on a Qdrant server; leave it out")
        if threads is not None:
            raise InvalidInputError(
                f"threads={shown(threads)} has no counterpart: the server has its own; leave it out"
            )


_COPY = "bqstore.copy(SRC, ..., to=DST) copies it"
_LACKING = {
    "compact": "the server gives space back by itself",
    "verify": "it checks its own storage; bqstore.copy() compares all documents",
    "save": _COPY,
    "backup": f"{_COPY}, and the server makes snapshots",
    "tune": "recall() measures settings, and open(..., oversampling=) takes the one that is enough",
    "requantize": "make another collection with the encoding, and copy into it",
    "reembed": "copy it to a local collection, embed that again, and copy it back",
    "reembed_plan": "copy it to a local collection, embed that again, and copy it back",
    "set_text_index": "text_index=True is for making a collection: copy into another, to_settings={'text_index': True}",
}
