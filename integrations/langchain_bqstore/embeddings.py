"""What makes the vectors: LangChain's `Embeddings`, or a `bqstore.Embedder` made into one. Knows no store."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeGuard

from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import run_in_executor

import bqstore


class EmbedderEmbeddings(Embeddings):
    """A `bqstore.Embedder`, such as `bqstore.OpenAIEmbedder`, wherever LangChain wants an `Embeddings`.

    `BQVectorStore` takes an embedder as it is and wraps it so by itself.
    """

    def __init__(self, embedder: bqstore.Embedder) -> None:
        if isinstance(embedder, type) or not isinstance(embedder, bqstore.Embedder):
            raise bqstore.InvalidInputError(
                f"embedder is {_described(embedder)}; expected a bqstore.Embedder, which has model, embed and "
                "embed_query"
            )
        self.embedder = embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of passages."""
        vectors: list[list[float]] = self.embedder.embed(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question."""
        vector: list[float] = self.embedder.embed_query(text).tolist()
        return vector

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of passages: by the embedder's own `aembed` if it has one, else in a thread."""
        listed: list[list[float]] = (await avectors_of(self, texts)).tolist()
        return listed

    async def aembed_query(self, text: str) -> list[float]:
        """The vector of a question: by the embedder's own `aembed_query` if it has one, else in a thread."""
        own: Any = getattr(self.embedder, "aembed_query", None)
        vector = await (asyncio.to_thread(self.embedder.embed_query, text) if own is None else own(text))
        listed: list[float] = vector.tolist()
        return listed


def embeddings_of(given: Embeddings | bqstore.Embedder) -> Embeddings:
    """What was given, wrapped if it is a `bqstore.Embedder`. Raises InvalidInputError if it cannot embed."""
    if not isinstance(given, type):  # a class has the methods too, but nobody to call them on
        if isinstance(given, Embeddings) or _embeds(given):
            return given
        if isinstance(given, bqstore.Embedder):
            return EmbedderEmbeddings(given)
    raise bqstore.InvalidInputError(
        f"embedding is {_described(given)}; expected an Embeddings of LangChain's, which has embed_documents and "
        "embed_query, or a bqstore.Embedder such as bqstore.OpenAIEmbedder()"
    )


def model_of(embeddings: Embeddings) -> str | None:
    """The model that a store is to remember: an embedder's; nothing is known of others."""
    return embeddings.embedder.model if isinstance(embeddings, EmbedderEmbeddings) else None


def dim_of(embeddings: Embeddings) -> int | None:
    """The dimension of an embedder's vectors, if it says so before it makes any."""
    dim = getattr(embeddings.embedder, "dim", None) if isinstance(embeddings, EmbedderEmbeddings) else None
    return dim if isinstance(dim, int) else None


def vectors_of(embeddings: Embeddings, texts: list[str]) -> Any:
    """Vectors of passages: of an embedder float32 (n, dim), never a list."""
    if isinstance(embeddings, EmbedderEmbeddings):
        return embeddings.embedder.embed(texts)
    return embeddings.embed_documents(texts)


async def avectors_of(embeddings: Embeddings, texts: list[str]) -> Any:
    """`vectors_of` without blocking the event loop."""
    if not isinstance(embeddings, EmbedderEmbeddings):
        return await awaitable(embeddings, "embed_documents", texts)
    own: Any = getattr(embeddings.embedder, "aembed", None)
    return await (asyncio.to_thread(embeddings.embedder.embed, texts) if own is None else own(texts))


def awaitable(embeddings: Embeddings, method: str, given: Any) -> Awaitable[Any]:
    """A call of an embedding's async method; of the plain one, in a thread, where it has no other."""
    own = getattr(embeddings, f"a{method}", None)
    return own(given) if own else run_in_executor(None, getattr(embeddings, method), given)


def _embeds(given: object) -> TypeGuard[Embeddings]:
    """Whether it has the methods of an `Embeddings`, whatever its class."""
    return all(callable(getattr(given, name, None)) for name in ("embed_documents", "embed_query"))


def _described(given: object) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
