"""Searches of a `BQVectorStore` for documents that differ from each other: maximal marginal relevance."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from langchain_core.documents import Document

import bqstore

from .documents import Filter, Scored, Vector, document_of
from .embeddings import Steps, query_step
from .searching import Searching, search_settings
from .words import checked_query

T = TypeVar("T")


class Diverse(Searching):
    """The searches of `BQVectorStore` by maximal marginal relevance.

    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> from langchain_bqstore import BQVectorStore
    >>> store = BQVectorStore(DeterministicFakeEmbedding(size=64))
    >>> store.add_texts(["Cats sleep.", "Dogs bark."], [{"animal": "cat"}, {"animal": "dog"}], ids=["1", "2"])
    ['1', '2']
    """

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
        hits = self.collection.max_marginal_relevance(embedding, k, fetch_k, lambda_mult, **settings)
        return [(document_of(hit), hit.score) for hit in hits]

    amax_marginal_relevance_search_with_score_by_vector = bqstore.awaited(
        max_marginal_relevance_search_with_score_by_vector
    ).reading

    def _diverse(self, search: Callable[..., T], query: str, *given: Any, **kwargs: Any) -> Steps[T]:
        vector = yield query_step(self._embedding, checked_query(query))
        found: T = yield partial(search, vector, *given, **kwargs)
        return found
