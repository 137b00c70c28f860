"""A `bqstore.Embedder` as a LlamaIndex embedding model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr

import bqstore


class ModelVector(list[float]):
    """A vector that knows which model made it: LlamaIndex passes a query's list on to the store, and nothing else."""

    __slots__ = ("model",)

    def __init__(self, values: Iterable[float], model: str) -> None:
        super().__init__(values)
        self.model = model

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelVector, (list(self), self.model)


def model_of(vector: list[float] | None) -> str | None:
    """Return the model that made a vector, if the vector knows it."""
    return vector.model if isinstance(vector, ModelVector) else None


def name_of(model: Any) -> Any:
    """Return the name of an embedding model of LlamaIndex or a `bqstore.Embedder`; anything else as it is.

    >>> from llama_index.core import MockEmbedding
    >>> name_of(MockEmbedding(embed_dim=2, model_name="mock"))
    'mock'
    """
    names = (getattr(model, name, None) for name in ("model_name", "model"))
    return model if isinstance(model, str) else next((name for name in names if isinstance(name, str)), model)


class EmbedderEmbedding(BaseEmbedding):
    """A `bqstore.Embedder`, such as `bqstore.OpenAIEmbedder`, as an ``embed_model`` of LlamaIndex.

    Parameters
    ----------
    embedder : bqstore.Embedder     makes the vectors; its ``model`` becomes ``model_name``
    embed_batch_size : int          most texts passed to the embedder at once, 1 to 2,048; it divides them into
                                    requests of its own

    Raises InvalidInputError if ``embedder`` lacks ``model``, ``embed`` or ``embed_query``.

    >>> import numpy as np
    >>> class Lengths:
    ...     model = "lengths"
    ...
    ...     def embed(self, texts):
    ...         return np.array([[len(text), 1] for text in texts], np.float32)
    ...
    ...     def embed_query(self, text):
    ...         return self.embed([text])[0]
    >>> embed_model = EmbedderEmbedding(Lengths())
    >>> embed_model.get_text_embedding("Cats sleep.")
    [11.0, 1.0]
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
        """Refuse to pickle without the embedder: LlamaIndex drops what cannot be pickled, in silence."""
        state: dict[str, Any] = super().__getstate__()
        if "_embedder" not in (state.get("__pydantic_private__") or {}):
            raise TypeError(
                f"an embed_model around a {type(self._embedder).__name__} cannot be pickled; embed in this process, "
                "without num_workers"
            )
        return state

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex writes into a serialized model.

        >>> EmbedderEmbedding.class_name()
        'EmbedderEmbedding'
        """
        return "EmbedderEmbedding"

    def get_agg_embedding_from_queries(self, queries: list[str], agg_fn: Any = None) -> list[float]:
        """Return the mean of the queries' vectors (or what ``agg_fn`` makes of them): retrievers search by it.

        >>> embed_model.get_agg_embedding_from_queries(["Cats?", "Fish"])
        [4.5, 1.0]
        """
        return ModelVector(super().get_agg_embedding_from_queries(queries, agg_fn), self._embedder.model)

    async def aget_agg_embedding_from_queries(self, queries: list[str], agg_fn: Any = None) -> list[float]:
        """Run `get_agg_embedding_from_queries` without blocking the event loop.

        >>> import asyncio
        >>> asyncio.run(embed_model.aget_agg_embedding_from_queries(["Cats?", "Fish"]))
        [4.5, 1.0]
        """
        return ModelVector(await super().aget_agg_embedding_from_queries(queries, agg_fn), self._embedder.model)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._embedder.embed(texts).tolist()
        return vectors

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return ModelVector(self._embedder.embed_query(query).tolist(), self._embedder.model)

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
        return ModelVector((await own(query)).tolist(), self._embedder.model)
