"""`BQRetriever`: LangChain's retriever of a vector store, with the score in the metadata on request, and serialized."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.load.serializable import Serializable, SerializedConstructor, SerializedNotImplemented
from langchain_core.vectorstores import VectorStoreRetriever
from pydantic import field_validator, model_validator

import bqstore

from .searching import SEARCH_KEYWORDS
from .tracing import traced
from .words import SEARCH_TYPES, of_search_type

_EMBEDDING: ContextVar[Any] = ContextVar("embedding", default=None)
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
    search_type : str           "similarity" (default), "mmr", "similarity_score_threshold", and for the words of a
                                query "hybrid" and "text": a search by similarity in that ``mode``
    search_kwargs : dict        keywords of the search, which `BQVectorStore` lists
    score_key : str or None     put each document's score under this key of its metadata; its relevance for the search
                                type "similarity_score_threshold"
    tags, metadata, name        as in every Runnable

    A tracer, such as LangSmith's, sees each search as the child run "bqstore.search", whose outputs are the number of
    documents found and the fields of `bqstore.Explanation`; the search type "mmr" has none.

    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> from langchain_bqstore import BQRetriever, BQVectorStore
    >>> store = BQVectorStore.from_texts(["Cats sleep."], DeterministicFakeEmbedding(size=64), ids=["1"])
    >>> retriever = BQRetriever(vectorstore=store, search_kwargs={"k": 1}, score_key="score")
    >>> [round(found.metadata["score"], 3) for found in retriever.invoke("Cats sleep.")]
    [1.0]
    """

    score_key: str | None = None
    allowed_search_types: ClassVar[Collection[str]] = SEARCH_TYPES

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return True: `langchain_core.load.dumps` writes a retriever of a store on disk, see `loading`.

        >>> BQRetriever.is_lc_serializable()
        True
        """
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Return where `langchain_core.load` finds the class.

        >>> BQRetriever.get_lc_namespace()
        ['langchain_bqstore']
        """
        return ["langchain_bqstore"]

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """Return the form that `langchain_core.load.dumps` writes: the store as its folder and settings, no documents.

        The embedding model is part of it only if it is serializable itself; its secrets never are.

        >>> retriever.to_json()["type"]  # of a store in memory
        'not_implemented'
        """
        reopening = self.vectorstore.reopening() if hasattr(self.vectorstore, "reopening") else None
        if reopening is None:
            return self.to_json_not_implemented()
        out = super().to_json()
        model = self.vectorstore.embeddings
        if isinstance(model, Serializable) and model.is_lc_serializable():
            reopening["embedding"] = model
        if out["type"] == "constructor":
            out["kwargs"]["vectorstore"] = reopening
        return out

    @model_validator(mode="before")
    @classmethod
    def _in_mode(cls, values: Any) -> Any:
        return of_search_type(values)

    @field_validator("vectorstore", mode="before")
    @classmethod
    def _opened(cls, given: Any) -> Any:
        """Open the store of a serialized retriever."""
        if not isinstance(given, dict):
            return given
        from .vectorstores import BQVectorStore

        embedding = given.pop("embedding", None) or _EMBEDDING.get()
        if embedding is None:
            raise bqstore.InvalidInputError(
                "a serialized BQRetriever holds no embedding model; write: with langchain_bqstore.loading(embedding): "
                "load(...)"
            )
        path, name = given.get("path"), given.get("collection_name", "default")
        if not isinstance(path, str) or name not in bqstore.collections(path):
            raise bqstore.NotFoundError(f"there is no collection {name!r} in {path!r}")
        return BQVectorStore(embedding, **given)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        with traced(run_manager):
            if self.score_key is None:
                return super()._get_relevant_documents(query, run_manager=run_manager, **kwargs)
            search = getattr(self.vectorstore, _WITH_SCORE[self.search_type])
            return self._scored(search(query, **(self.search_kwargs | kwargs)))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        with traced(run_manager):
            if self.score_key is None:
                return await super()._aget_relevant_documents(query, run_manager=run_manager, **kwargs)
            search = getattr(self.vectorstore, "a" + _WITH_SCORE[self.search_type])
            return self._scored(await search(query, **(self.search_kwargs | kwargs)))

    def _scored(self, found: list[tuple[Document, float]]) -> list[Document]:
        for document, score in found:
            document.metadata = {**document.metadata, str(self.score_key): score}
        return [document for document, _ in found]


@contextmanager
def loading(embedding: Embeddings | bqstore.Embedder) -> Iterator[None]:
    """Give retrievers that are loaded inside their embedding model, which is not written with them.

    >>> import json, tempfile
    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> from langchain_core.load import dumps, loads
    >>> from langchain_bqstore import BQRetriever, BQVectorStore, loading
    >>> embedding, folder = DeterministicFakeEmbedding(size=64), tempfile.TemporaryDirectory()
    >>> with BQVectorStore.from_texts(["Cats sleep."], embedding, path=folder.name) as store:
    ...     written = dumps(store.as_retriever(k=1))
    >>> with loading(embedding):
    ...     retriever = loads(written, allowed_objects=[BQRetriever], valid_namespaces=["langchain_bqstore"])
    >>> retriever.invoke("Cats sleep.")[0].page_content
    'Cats sleep.'
    >>> retriever.vectorstore.close()
    >>> folder.cleanup()
    """
    token = _EMBEDDING.set(embedding)
    try:
        yield
    finally:
        _EMBEDDING.reset(token)


def retriever_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `BQRetriever`, those of a search among ``given`` moved into ``search_kwargs``.

    >>> retriever_settings({"k": 3, "tags": ["animals"]})
    {'tags': ['animals'], 'search_kwargs': {'k': 3}}
    """
    given = of_search_type(given)
    fields = {name: value for name, value in given.items() if name not in _OF_SEARCH}
    for name in fields:
        if name not in BQRetriever.model_fields:
            known = ", ".join(sorted({*BQRetriever.model_fields, *_OF_SEARCH} - {"vectorstore"}))
            raise bqstore.UnknownKeywordError(f"as_retriever() has no keyword {name!r}; known: {known}")
    own = {name: value for name, value in given.items() if name in _OF_SEARCH}
    if own:
        fields["search_kwargs"] = {**(fields.get("search_kwargs") or {}), **own}
    return fields
