"""Searches of a `BQVectorStore`: by text and by vector, with scores or relevances, and how one was done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

import bqstore

from .documents import Filter, document_of, native_filter
from .embeddings import call_async
from .keywords import HERE
from .tracing import search
from .words import WORD_KEYWORDS, needs_vector, of_search_type, refuse_words, with_words


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

    def similarity_search(
        self, query: str | None, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
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
        return self.similarity_search_by_vector(self._vector_of(query, kwargs), k, filter, **with_words(query, kwargs))

    async def asimilarity_search(
        self, query: str | None, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """Run `similarity_search` without blocking the event loop.

        >>> import asyncio
        >>> [document.id for document in asyncio.run(store.asimilarity_search("Dogs bark.", k=1))]
        ['2']
        """
        vector = await self._avector_of(query, kwargs)
        return await self.asimilarity_search_by_vector(vector, k, filter, **with_words(query, kwargs))

    def similarity_search_by_vector(
        self, embedding: Sequence[float] | None, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """Return the k documents nearest to a vector, nearest first.

        >>> vector = store.embeddings.embed_query("Dogs bark.")
        >>> [document.id for document in store.similarity_search_by_vector(vector, k=1)]
        ['2']
        """
        return [document_of(hit) for hit in self._hits(embedding, k, filter, kwargs)]

    async def asimilarity_search_by_vector(
        self, embedding: Sequence[float] | None, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """Run `similarity_search_by_vector` without blocking the event loop.

        >>> import asyncio
        >>> vector = store.embeddings.embed_query("Dogs bark.")
        >>> [document.id for document in asyncio.run(store.asimilarity_search_by_vector(vector, k=1))]
        ['2']
        """
        return await bqstore.reading(self.similarity_search_by_vector, embedding, k, filter, **kwargs)

    def similarity_search_with_score(
        self, query: str | None, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the k documents nearest to a text, with their scores; a larger score is nearer.

        >>> [(document.id, round(score, 3)) for document, score in store.similarity_search_with_score("Dogs bark.", 1)]
        [('2', 1.0)]
        """
        return self.similarity_search_with_score_by_vector(
            self._vector_of(query, kwargs), k, filter, **with_words(query, kwargs)
        )

    async def asimilarity_search_with_score(
        self, query: str | None, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Run `similarity_search_with_score` without blocking the event loop.

        >>> import asyncio
        >>> [(found, score)] = asyncio.run(store.asimilarity_search_with_score("Dogs bark.", k=1))
        >>> found.id, round(score, 3)
        ('2', 1.0)
        """
        vector = await self._avector_of(query, kwargs)
        return await self.asimilarity_search_with_score_by_vector(vector, k, filter, **with_words(query, kwargs))

    def similarity_search_with_score_by_vector(
        self, embedding: Sequence[float] | None, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the k documents nearest to a vector, with their scores; a larger score is nearer.

        >>> vector = store.embeddings.embed_query("Dogs bark.")
        >>> [(found, score)] = store.similarity_search_with_score_by_vector(vector, k=1)
        >>> found.id, round(score, 3)
        ('2', 1.0)
        """
        return [(document_of(hit), hit.score) for hit in self._hits(embedding, k, filter, kwargs)]

    async def asimilarity_search_with_score_by_vector(
        self, embedding: Sequence[float] | None, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Run `similarity_search_with_score_by_vector` without blocking the event loop.

        >>> import asyncio
        >>> vector = store.embeddings.embed_query("Dogs bark.")
        >>> [(found, score)] = asyncio.run(store.asimilarity_search_with_score_by_vector(vector, k=1))
        >>> found.id, round(score, 3)
        ('2', 1.0)
        """
        return await bqstore.reading(self.similarity_search_with_score_by_vector, embedding, k, filter, **kwargs)

    def similarity_search_by_vector_with_relevance_scores(
        self, embedding: Sequence[float] | None, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
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

    async def asimilarity_search_by_vector_with_relevance_scores(
        self, embedding: Sequence[float] | None, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Run `similarity_search_by_vector_with_relevance_scores` without blocking the event loop.

        >>> import asyncio
        >>> vector = store.embeddings.embed_query("Dogs bark.")
        >>> [(found, _)] = asyncio.run(store.asimilarity_search_by_vector_with_relevance_scores(vector, k=1))
        >>> found.id
        '2'
        """
        search = self.similarity_search_by_vector_with_relevance_scores
        return await bqstore.reading(search, embedding, k, filter, **kwargs)

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

    def explain(
        self, query: str | None, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> bqstore.Explanation:
        """Tell how the search for a text is done: by a scan or the graph, and how much is compared and rescored.

        LangSmith, and other tracers of LangChain, have the same of every search by a retriever: the child run
        "bqstore.search".

        >>> store.explain("Dogs bark.", k=1).way
        'exact'
        """
        vector = self._vector_of(query, kwargs)
        settings = search_settings(filter, with_words(query, kwargs))
        hits = self.collection.search(vector, k, **settings, explain=True)
        return cast(bqstore.ExplainedHits, hits).explanation

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        refuse_words(kwargs)
        return super()._similarity_search_with_relevance_scores(query, k, **kwargs)

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        refuse_words(kwargs)
        return await super()._asimilarity_search_with_relevance_scores(query, k, **kwargs)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return self._relevance_score_fn

    def _vector_of(self, query: str | None, kwargs: Mapping[str, Any]) -> Any:
        return self._embedding.embed_query(cast(str, query)) if needs_vector(query, kwargs) else None

    async def _avector_of(self, query: str | None, kwargs: Mapping[str, Any]) -> Any:
        return await call_async(self._embedding, "embed_query", query) if needs_vector(query, kwargs) else None

    def _hits(
        self, embedding: Sequence[float] | None, k: int, filter: Filter | None, kwargs: dict[str, Any]
    ) -> list[bqstore.Hit]:
        return search(self.collection, embedding, k, search_settings(filter, kwargs))


def search_settings(filter: Filter | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of a search in the form that `bqstore.Collection.search` takes."""
    where_document = kwargs.pop("where_document", None) if kwargs else None
    settings: dict[str, Any] = {}
    if kwargs:
        if kwargs.pop("with_vectors", None):
            raise bqstore.InvalidInputError(
                "a Document carries no vector; store.collection.search(..., with_vectors=True) returns them"
            )
        bqstore.refuse_foreign("search", kwargs, HERE["search"])
        known = SEARCH_KEYWORDS if kwargs.get("rerank") is None else (*SEARCH_KEYWORDS, "fetch_k")
        settings = bqstore.search_keywords(kwargs.pop("search_params", None), known, **kwargs)
    if filter is not None or where_document is not None:
        settings["filter"] = native_filter(filter, where_document)
    return settings


SEARCH_KEYWORDS = (
    *("k", "filter", "score_threshold", "oversampling", "rescore", "hnsw_ef", "exact", "ignore_quantization"),
    *("target_recall", "search_params", *WORD_KEYWORDS),
)
