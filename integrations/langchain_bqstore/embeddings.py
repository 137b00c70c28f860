"""The embedding model of a store: any LangChain `Embeddings`, or a `bqstore.Embedder` wrapped as one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator, Sized
from functools import partial
from typing import Any, TypeAlias, TypeGuard, TypeVar, cast

from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import run_in_executor

import bqstore

T = TypeVar("T")
Steps: TypeAlias = Generator[Any, Any, T]  # of `bqstore.in_steps`


class EmbedderEmbeddings(Embeddings):
    """A `bqstore.Embedder`, such as `bqstore.OpenAIEmbedder`, as a LangChain `Embeddings`.

    `BQVectorStore` takes an embedder directly and wraps it itself. This class is for other parts of LangChain.

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
    >>> embeddings = EmbedderEmbeddings(Lengths())
    """

    def __init__(self, embedder: bqstore.Embedder) -> None:
        if isinstance(embedder, type) or not isinstance(embedder, bqstore.Embedder):
            raise bqstore.InvalidInputError(
                f"embedder is {_described(embedder)}; expected a bqstore.Embedder, which has model, embed and "
                "embed_query"
            )
        self.embedder = embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector for each text.

        >>> embeddings.embed_documents(["Cats sleep.", "Dogs"])
        [[11.0, 1.0], [4.0, 1.0]]
        """
        vectors: list[list[float]] = self.embedder.embed(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of one query.

        >>> embeddings.embed_query("Cats?")
        [5.0, 1.0]
        """
        vector: list[float] = self.embedder.embed_query(text).tolist()
        return vector

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Await `embed_documents`: the embedder's own ``aembed`` if it has one, else ``embed`` in a thread.

        >>> import asyncio
        >>> asyncio.run(embeddings.aembed_documents(["Dogs"]))
        [[4.0, 1.0]]
        """
        listed: list[list[float]] = (await aembed_texts(self, texts)).tolist()
        return listed

    async def aembed_query(self, text: str) -> list[float]:
        """Await `embed_query`: the embedder's own ``aembed_query`` if it has one, else ``embed_query`` in a thread.

        >>> import asyncio
        >>> asyncio.run(embeddings.aembed_query("Cats?"))
        [5.0, 1.0]
        """
        own: Any = getattr(self.embedder, "aembed_query", None)
        vector = await (asyncio.to_thread(self.embedder.embed_query, text) if own is None else own(text))
        listed: list[float] = vector.tolist()
        return listed


def as_embeddings(given: Embeddings | bqstore.Embedder) -> Embeddings:
    """Return what can embed as an `Embeddings`: a `bqstore.Embedder` is wrapped, anything else is returned as it is.

    An object with ``embed_documents`` and ``embed_query`` needs no particular base class. Raises InvalidInputError for
    what has neither pair of methods.
    """
    if not isinstance(given, type):  # a class has the methods too, but no instance to call them on
        if isinstance(given, Embeddings) or _has_embedding_methods(given):
            return given
        if isinstance(given, bqstore.Embedder):
            return EmbedderEmbeddings(given)
    raise bqstore.InvalidInputError(
        f"embedding is {_described(given)}; expected a LangChain Embeddings, which has embed_documents and "
        "embed_query, or a bqstore.Embedder such as bqstore.OpenAIEmbedder(): it comes first, then the folder, path="
    )


def model_of(embeddings: Embeddings) -> str | None:
    """Return the model's name, where it is told: by a `bqstore.Embedder`, and by most classes of LangChain."""
    if isinstance(embeddings, EmbedderEmbeddings):
        return embeddings.embedder.model
    inner = getattr(embeddings, "underlying_embeddings", None) or embeddings  # of a CacheBackedEmbeddings
    names: tuple[str, ...] = ("model", "model_name", "model_id")
    if type(inner).__name__.startswith("Azure"):  # there ``model`` keeps its default
        names = ("deployment", *names)
    found = (getattr(inner, name, None) for name in names)
    return next((name for name in found if isinstance(name, str) and name), None)


def dim_of(embeddings: Embeddings) -> int | None:
    """Return the dimension of the vectors, if the embedder knows it before it makes any."""
    dim = getattr(embeddings.embedder, "dim", None) if isinstance(embeddings, EmbedderEmbeddings) else None
    return dim if isinstance(dim, int) else None


def embed_texts(embeddings: Embeddings, texts: list[str]) -> Any:
    """Return one vector for each text: float32 (n, dim) from a `bqstore.Embedder`, without a detour through lists."""
    if isinstance(embeddings, EmbedderEmbeddings):
        return _one_each(embeddings.embedder.embed(texts), texts, embeddings)
    return _one_each(embeddings.embed_documents(texts), texts, embeddings)


async def aembed_texts(embeddings: Embeddings, texts: list[str]) -> Any:
    """Await `embed_texts`."""
    if not isinstance(embeddings, EmbedderEmbeddings):
        return _one_each(await call_async(embeddings, "embed_documents", texts), texts, embeddings)
    own: Any = getattr(embeddings.embedder, "aembed", None)
    vectors = await (asyncio.to_thread(embeddings.embedder.embed, texts) if own is None else own(texts))
    return _one_each(vectors, texts, embeddings)


def texts_step(embeddings: Embeddings, texts: list[str]) -> bqstore.Waits:
    """Return `embed_texts` as a step of a call."""
    return bqstore.Waits(partial(embed_texts, embeddings, texts), partial(aembed_texts, embeddings, texts))


def query_step(embeddings: Embeddings, text: str) -> bqstore.Waits:
    """Return the embedding of a query as a step of a call."""
    return bqstore.Waits(partial(embeddings.embed_query, text), partial(call_async, embeddings, "embed_query", text))


def _one_each(vectors: Any, texts: list[str], embeddings: Embeddings) -> Any:
    """Return the vectors; EmbeddingError unless there is one for each text."""
    if isinstance(vectors, Sized) and len(vectors) == len(texts):
        bqstore.tell_of_zeros(cast(Any, vectors), f"that {type(embeddings).__name__} returned")
        return vectors
    made = f"{len(vectors)} vectors" if isinstance(vectors, Sized) else f"a {type(vectors).__name__}"
    raise bqstore.EmbeddingError(
        f"the embedding model ({type(embeddings).__name__}) returned {made} for {len(texts)} texts; nothing of these "
        "was added"
    )


def call_async(embeddings: Embeddings, method: str, given: Any) -> Awaitable[Any]:
    """Call the async form of an embedding method, or the plain one in a thread if there is no async form."""
    own = getattr(embeddings, f"a{method}", None)
    return own(given) if own else run_in_executor(None, getattr(embeddings, method), given)


def _has_embedding_methods(given: object) -> TypeGuard[Embeddings]:
    return all(callable(getattr(given, name, None)) for name in ("embed_documents", "embed_query"))


def _described(given: object) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else f"of type {type(given).__name__}"
