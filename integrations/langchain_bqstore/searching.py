"""Searches of a `BQVectorStore`: by text and by vector, with scores or relevances, diverse ones, how one was done."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

import bqstore

from .documents import Filter, Scored, Vector, document_of, native_filter
from .embeddings import Steps, query_step
from .keywords import HERE
from .tracing import search
from .words import MODES, WORD_KEYWORDS, checked_query, needs_vector, of_search_type, refuse_words, with_words

T = TypeVar("T")
_MMR = "max_marginal_relevance_search"


class Searching(bqstore.OnCollection, VectorStore):
    """The searches of `BQVectorStore`, which lists their keywords.

    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> from langchain_bqstore import BQVectorStore
    >>> store = BQVectorStore(DeterministicFakeEmbedding(size=64))
    >>> store.add_texts(["Cats sleep.", "Dogs bark."], [{"animal": "cat"}, {"animal": "dog"}], ids=["1", "2"])
    ['1', '2']
    """

    _embedding: Embeddings
    _relevance_score_fn: Callable[[float], float]

    @bqstore.in_steps
    def similarity_search(
        self, query: str | None, k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> Steps[list[Document]]:
        """Return the k documents nearest to a text, nearest first.

        ``kwargs`` are the keywords of searches, which `BQVectorStore` lists. With a filter the text may be None: then
        the first k documents that match are returned, and nothing is embedded. ``mode="hybrid"`` looks for the words of
        the text, too, ``mode="text"`` for these alone, in a store that was opened with ``text_index=True``.

        >>> store.similarity_search("Dogs bark.", k=1)
        [Document(id='2', metadata={'animal': 'dog'}, page_content='Dogs bark.')]
        >>> store.similarity_search("Dogs bark.", k=1, filter={"animal": "cat"}, exact=True)
        [Document(id='1', metadata={'animal': 'cat'}, page_content='Cats sleep.')]
        >>> store.as_retriever(search_kwargs={"k": 1, "oversampling": 8.0}).invoke("Cats sleep.")
        [Document(id='1', metadata={'animal': 'cat'}, page_content='Cats sleep.')]
        """
        return (yield from self._by_text(self.similarity_search_by_vector, query, k, filter, **kwargs))

    asimilarity_search = bqstore.awaited(similarity_search).reading

    def similarity_search_by_vector(
        self, embedding: Vector | None, k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> list[Document]:
        """Return the k documents nearest to a vector, nearest first.

        >>> vector = store.embeddings.embed_query("Dogs bark.")
        >>> [document.id for document in store.similarity_search_by_vector(vector, k=1)]
        ['2']
        """
        return [document_of(hit) for hit in self._hits(embedding, k, filter, kwargs)]

    asimilarity_search_by_vector = bqstore.awaited(similarity_search_by_vector).reading

    @bqstore.in_steps
    def similarity_search_with_score(
        self, query: str | None, k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> Steps[Scored]:
        """Return the k documents nearest to a text, with their scores; a larger score is nearer.

        >>> [(document.id, round(score, 3)) for document, score in store.similarity_search_with_score("Dogs bark.", 1)]
        [('2', 1.0)]
        """
        return (yield from self._by_text(self.similarity_search_with_score_by_vector, query, k, filter, **kwargs))

    asimilarity_search_with_score = bqstore.awaited(similarity_search_with_score).reading

    def similarity_search_with_score_by_vector(
        self, embedding: Vector | None, k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> Scored:
        """Return the k documents nearest to a vector, with their scores; a larger score is nearer.

        >>> vector = store.embeddings.embed_query("Dogs bark.")
        >>> [(found, score)] = store.similarity_search_with_score_by_vector(vector, k=1)
        >>> found.id, round(score, 3)
        ('2', 1.0)
        """
        return [(document_of(hit), hit.score) for hit in self._hits(embedding, k, filter, kwargs)]

    asimilarity_search_with_score_by_vector = bqstore.awaited(similarity_search_with_score_by_vector).reading

    def similarity_search_by_vector_with_relevance_scores(
        self, embedding: Vector | None, k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> Scored:
        """Return the k documents nearest to a vector, with relevances from 0 to 1.

        ``score_threshold`` drops documents with a lower relevance.

        >>> vector = store.embeddings.embed_query("Dogs bark.")
        >>> [(found, relevance)] = store.similarity_search_by_vector_with_relevance_scores(vector, k=1)
        >>> found.id, round(relevance, 3)
        ('2', 1.0)
        """
        refuse_words(kwargs)
        least = kwargs.pop("score_threshold", None)
        hits = self._hits(embedding, k, filter, kwargs)
        found = [(document_of(hit), self._relevance_score_fn(hit.score)) for hit in hits]
        return [pair for pair in found if least is None or pair[1] >= least]

    asimilarity_search_by_vector_with_relevance_scores = bqstore.awaited(
        similarity_search_by_vector_with_relevance_scores
    ).reading

    # ---- maximal marginal relevance: documents that differ from each other

    @bqstore.in_steps
    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, filter: Filter = None, **kwargs: Any
    ) -> Steps[list[Document]]:
        """Return k documents that are near a text and differ from each other.

        The parameters are those of `max_marginal_relevance_search_by_vector`.

        >>> [document.id for document in store.max_marginal_relevance_search("Dogs bark.", k=2)]
        ['2', '1']
        """
        search = self.max_marginal_relevance_search_by_vector
        return (yield from self._diverse(search, query, k, fetch_k, lambda_mult, filter, **kwargs))

    amax_marginal_relevance_search = bqstore.awaited(max_marginal_relevance_search).reading

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: Vector,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Return k documents that are near a vector and differ from each other; the first is the nearest.

        Parameters
        ----------
        embedding : sequence of float
        k : int                     documents to return
        fetch_k : int               choose among this many nearest documents that match the filter, at least k
        lambda_mult : float         from 1, relevance alone, to 0, diversity alone
        filter, **kwargs            the keywords of searches, which `BQVectorStore` lists

        See `bqstore.Collection.max_marginal_relevance` for the rule. Raises InvalidInputError where no original
        vectors are stored.

        >>> vector = store.embeddings.embed_query("Dogs bark.")
        >>> found = store.max_marginal_relevance_search_by_vector(vector, k=2, lambda_mult=0.3)
        >>> [document.id for document in found]
        ['2', '1']
        """
        scored = self.max_marginal_relevance_search_with_score_by_vector(
            embedding, k, fetch_k, lambda_mult, filter, **kwargs
        )
        return [document for document, _ in scored]

    amax_marginal_relevance_search_by_vector = bqstore.awaited(max_marginal_relevance_search_by_vector).reading

    @bqstore.in_steps
    def max_marginal_relevance_search_with_score(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, filter: Filter = None, **kwargs: Any
    ) -> Steps[Scored]:
        """Run `max_marginal_relevance_search`, and return each document with its score, larger is nearer.

        >>> found = store.max_marginal_relevance_search_with_score("Dogs bark.", k=2)
        >>> [(document.id, score > 0.99) for document, score in found]
        [('2', True), ('1', False)]
        """
        search = self.max_marginal_relevance_search_with_score_by_vector
        return (yield from self._diverse(search, query, k, fetch_k, lambda_mult, filter, **kwargs))

    amax_marginal_relevance_search_with_score = bqstore.awaited(max_marginal_relevance_search_with_score).reading

    def max_marginal_relevance_search_with_score_by_vector(
        self,
        embedding: Vector,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter = None,
        **kwargs: Any,
    ) -> Scored:
        """Run `max_marginal_relevance_search_by_vector`, and return each document with its score, larger is nearer.

        >>> vector = store.embeddings.embed_query("Dogs bark.")
        >>> found = store.max_marginal_relevance_search_with_score_by_vector(vector, k=1)
        >>> [document.id for document, _ in found]
        ['2']
        """
        with suppress(TypeError):  # k or fetch_k is not a number: the collection's error says which
            fetch_k = max(k, fetch_k)
        settings = search_settings(filter, kwargs)
        bqstore.refuse_foreign(_MMR, settings, HERE[_MMR])
        hits = self.collection.max_marginal_relevance(embedding, k, fetch_k, lambda_mult, **settings)
        return [(document_of(hit), hit.score) for hit in hits]

    amax_marginal_relevance_search_with_score_by_vector = bqstore.awaited(
        max_marginal_relevance_search_with_score_by_vector
    ).reading

    def _diverse(self, search: Callable[..., T], query: str, *given: Any, **kwargs: Any) -> Steps[T]:
        vector = yield query_step(self._embedding, checked_query(query))
        found: T = yield partial(search, vector, *given, **kwargs)
        return found

    # ---- all of them

    def search(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """Return documents by a search type: LangChain's, or "hybrid" or "text", for the words of the query.

        >>> with BQVectorStore(DeterministicFakeEmbedding(size=64), text_index=True) as words:
        ...     ids = words.add_texts(["Cats sleep.", "Dogs bark."], ids=["1", "2"])
        ...     [found.id for found in words.search("who can bark", "text")]
        ['2']
        """
        asked = of_search_type({"search_type": search_type})
        return super().search(query, asked["search_type"], **{**asked.get("search_kwargs", {}), **kwargs})

    async def asearch(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """Run `search` without blocking the event loop.

        >>> import asyncio
        >>> [found.id for found in asyncio.run(store.asearch("Dogs bark.", "similarity", k=1))]
        ['2']
        """
        asked = of_search_type({"search_type": search_type})
        return await super().asearch(query, asked["search_type"], **{**asked.get("search_kwargs", {}), **kwargs})

    @bqstore.in_steps
    def explain(
        self, query: str | None, k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> Steps[bqstore.Explanation]:
        """Tell how the search for a text is done: by a scan or the graph, and how much is compared and rescored.

        LangSmith, and other tracers of LangChain, have the same of every search by a retriever: the child run
        "bqstore.search".

        >>> store.explain("Dogs bark.", k=1).way
        'exact'
        """

        def search(vector: Any, **settings: Any) -> Any:
            return self.collection.search(vector, k, **search_settings(filter, settings), explain=True)

        hits = yield from self._by_text(search, query, **kwargs)
        return cast(bqstore.ExplainedHits, hits).explanation

    @bqstore.in_steps
    def _similarity_search_with_relevance_scores(self, query: str, k: int = 4, **kwargs: Any) -> Steps[Scored]:
        refuse_words(kwargs)
        search = self.similarity_search_by_vector_with_relevance_scores
        return (yield from self._by_text(search, query, k, **kwargs))

    _asimilarity_search_with_relevance_scores = bqstore.awaited(_similarity_search_with_relevance_scores).reading

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return self._relevance_score_fn

    def _by_text(self, search: Callable[..., T], query: str | None, *given: Any, **kwargs: Any) -> Steps[T]:
        """Embed a text, if the search needs that, and search by its vector and its words, in steps."""
        if kwargs.get("mode") in MODES:
            yield partial(self._check_words, f"mode={kwargs['mode']!r}")
        vector = (yield query_step(self._embedding, cast(str, query))) if needs_vector(query, kwargs) else None
        found: T = yield partial(search, vector, *given, **with_words(query, kwargs))
        return found

    def _hits(self, embedding: Vector | None, k: int, filter: Filter, kwargs: dict[str, Any]) -> list[bqstore.Hit]:
        return search(self.collection, embedding, k, search_settings(filter, kwargs))


def search_settings(filter: Filter, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of a search in the form that `bqstore.Collection.search` takes."""
    where_document = kwargs.pop("where_document", None) if kwargs else None
    settings: dict[str, Any] = {}
    if kwargs:
        if kwargs.pop("with_vectors", None):
            raise bqstore.InvalidInputError(
                "a Document carries no vector; store.collection.search(..., with_vectors=True) returns them"
            )
        bqstore.refuse_foreign("search", kwargs, HERE["search"])
        settings = bqstore.search_keywords(kwargs.pop("search_params", None), SEARCH_KEYWORDS, **kwargs)
    if filter is not None or where_document is not None:
        settings["filter"] = native_filter(filter, where_document)
    return settings


SEARCH_KEYWORDS = (
    *("k", "filter", "score_threshold", "oversampling", "rescore", "hnsw_ef", "exact", "ignore_quantization"),
    *("target_recall", "search_params", *WORD_KEYWORDS),
)
