"""`BQRetriever`: LangChain's retriever of a vector store, with the score in the metadata on request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStoreRetriever

import bqstore

from .searching import SEARCH_KEYWORDS

_OF_SEARCH = {*SEARCH_KEYWORDS, "fetch_k", "lambda_mult", "where_document"}
_WITH_SCORE = {
    "similarity": "similarity_search_with_score",
    "similarity_score_threshold": "similarity_search_with_relevance_scores",
    "mmr": "max_marginal_relevance_search_with_score",
}


class BQRetriever(VectorStoreRetriever):
    """The retriever of a `BQVectorStore`, which `BQVectorStore.as_retriever` makes.

    Parameters
    ----------
    vectorstore : BQVectorStore
    search_type : str           "similarity" (default), "mmr" or "similarity_score_threshold"
    search_kwargs : dict        keywords of the search, which `BQVectorStore` lists
    score_key : str or None     put each document's score under this key of its metadata; its relevance for the search
                                type "similarity_score_threshold"
    tags, metadata, name        as in every Runnable

    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> from langchain_bqstore import BQRetriever, BQVectorStore
    >>> store = BQVectorStore.from_texts(["Cats sleep."], DeterministicFakeEmbedding(size=64), ids=["1"])
    >>> retriever = BQRetriever(vectorstore=store, search_kwargs={"k": 1}, score_key="score")
    >>> [round(found.metadata["score"], 3) for found in retriever.invoke("Cats sleep.")]
    [1.0]
    """

    score_key: str | None = None

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        if self.score_key is None:
            return super()._get_relevant_documents(query, run_manager=run_manager, **kwargs)
        search = getattr(self.vectorstore, _WITH_SCORE[self.search_type])
        return self._scored(search(query, **(self.search_kwargs | kwargs)))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        if self.score_key is None:
            return await super()._aget_relevant_documents(query, run_manager=run_manager, **kwargs)
        search = getattr(self.vectorstore, "a" + _WITH_SCORE[self.search_type])
        return self._scored(await search(query, **(self.search_kwargs | kwargs)))

    def _scored(self, found: list[tuple[Document, float]]) -> list[Document]:
        for document, score in found:
            document.metadata = {**document.metadata, str(self.score_key): score}
        return [document for document, _ in found]


def retriever_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `BQRetriever`, those of a search among ``given`` moved into ``search_kwargs``.

    >>> retriever_settings({"k": 3, "tags": ["animals"]})
    {'tags': ['animals'], 'search_kwargs': {'k': 3}}
    """
    fields = {name: value for name, value in given.items() if name not in _OF_SEARCH}
    for name in fields:
        if name not in BQRetriever.model_fields:
            known = ", ".join(sorted({*BQRetriever.model_fields, *_OF_SEARCH} - {"vectorstore"}))
            raise bqstore.UnknownKeywordError(f"as_retriever() has no keyword {name!r}; known: {known}")
    own = {name: value for name, value in given.items() if name in _OF_SEARCH}
    if own:
        fields["search_kwargs"] = {**(fields.get("search_kwargs") or {}), **own}
    return fields
