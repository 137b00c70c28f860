"""A `bqstore.Embedder` as a LlamaIndex embedding model. Knows no store."""

import asyncio
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr

import bqstore


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

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex writes beside a serialized model."""
        return "EmbedderEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._embedder.embed(texts).tolist()
        return vectors

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._embedder.embed_query(query).tolist()
        return vector

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
        vector: list[float] = (await own(query)).tolist()
        return vector
