"""A `bqstore.Embedder` as a LlamaIndex embedding model. Knows no store."""

import asyncio
from collections.abc import Iterable
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr

import bqstore


class VectorOf(list[float]):
    """A vector that says which model made it: LlamaIndex hands its stores a query's list, and nothing beside it."""

    __slots__ = ("model",)

    def __init__(self, values: Iterable[float], model: str) -> None:
        super().__init__(values)
        self.model = model

    def __reduce__(self) -> tuple[Any, ...]:
        return VectorOf, (list(self), self.model)


def model_of(vector: list[float] | None) -> str | None:
    """The model that made a vector, if it says so."""
    return vector.model if isinstance(vector, VectorOf) else None


class EmbedderEmbedding(BaseEmbedding):
    """A `bqstore.Embedder`, such as `bqstore.OpenAIEmbedder`, wherever LlamaIndex wants an ``embed_model``.

        VectorStoreIndex.from_vector_store(store, embed_model=EmbedderEmbedding(bqstore.OpenAIEmbedder()))

    Parameters
    ----------
    embedder : what makes the vectors; its ``model`` becomes ``model_name``
    embed_batch_size : most texts handed to the embedder at once, 1 to 2,048; it cuts its own requests from them
    """

    _embedder: bqstore.Embedder = PrivateAttr()

    def __init__(self, embedder: bqstore.Embedder, embed_batch_size: int = 512) -> None:
        if isinstance(embedder, type) or not isinstance(embedder, bqstore.Embedder):
            raise bqstore.InvalidInputError(
                f"embedder is of type {type(embedder).__name__}; expected a bqstore.Embedder, which has model, embed "
                "and embed_query"
            )
        super().__init__(model_name=embedder.model, embed_batch_size=embed_batch_size)
        self._embedder = embedder

    def __getstate__(self) -> dict[str, Any]:
        """LlamaIndex drops what cannot be pickled, and would miss it in the other process."""
        state: dict[str, Any] = super().__getstate__()
        if "_embedder" not in (state.get("__pydantic_private__") or {}):
            raise TypeError(
                f"an embed_model around a {type(self._embedder).__name__} cannot be pickled; embed in this process, "
                "without num_workers"
            )
        return state

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex writes beside a serialized model."""
        return "EmbedderEmbedding"

    def get_agg_embedding_from_queries(self, queries: list[str], agg_fn: Any = None) -> list[float]:
        """What LlamaIndex's retrievers search by: the mean of the queries' vectors."""
        return VectorOf(super().get_agg_embedding_from_queries(queries, agg_fn), self._embedder.model)

    async def aget_agg_embedding_from_queries(self, queries: list[str], agg_fn: Any = None) -> list[float]:
        """`get_agg_embedding_from_queries` without blocking the event loop."""
        return VectorOf(await super().aget_agg_embedding_from_queries(queries, agg_fn), self._embedder.model)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._embedder.embed(texts).tolist()
        return vectors

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return VectorOf(self._embedder.embed_query(query).tolist(), self._embedder.model)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        own: Any = getattr(self._embedder, "aembed", None)
        if own is None:
            return await asyncio.to_thread(self._get_text_embeddings, texts)
        vectors: list[list[float]] = (await own(texts)).tolist()
        return vectors

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        own: Any = getattr(self._embedder, "aembed_query", None)
        if own is None:
            return await asyncio.to_thread(self._get_query_embedding, query)
        return VectorOf((await own(query)).tolist(), self._embedder.model)
