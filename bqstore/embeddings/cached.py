"""The cache around anything that embeds: an `Embedder`, or an `Embeddings` of LangChain's. It knows no network."""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arguments import checked_keywords
from ..errors import EmbeddingError, InvalidInputError
from .bar import Bar
from .cache import EmbeddingCache, KeyMaker, open_cache
from .checks import checked_count, checked_folder
from .frameworks import ForFrameworks
from .in_flight import Claim, InFlight
from .ingest import Batches, IntoStore, Report
from .openai.packing import check_texts
from .openai.stream import enumerate_batches, listed

Vectors = npt.NDArray[np.float32]

_BATCH = 512  # texts handed over at once; each batch is kept before the next is begun


class CachedEmbedder(IntoStore, ForFrameworks):
    """An `Embedder` that asks another for what it has not kept. Safe to share between threads if the other is.

    Parameters
    ----------
    embedder          has embed_documents and embed_query (LangChain), or embed and embed_query
    model : str, optional   names what makes the vectors: the cache tells models apart by it. ``embedder.model``, if
                            there is one
    cache : bool or path    True: the user's cache folder; a path: that folder; False: none
    max_cache_bytes : int, optional   bound the cache; what was written first goes first

    Raises
    ------
    InvalidInputError   the embedder has not the methods, or no name, or a setting is unknown
    StorageError        the cache folder that was named cannot be used
    """

    @checked_keywords
    def __init__(
        self,
        embedder: Any,
        model: str | None = None,
        cache: bool | str | os.PathLike[str] = True,
        *,
        max_cache_bytes: int | None = None,
    ) -> None:
        many = getattr(embedder, "embed_documents", None) or getattr(embedder, "embed", None)
        one = getattr(embedder, "embed_query", None)
        if isinstance(embedder, type) or not (callable(many) and callable(one)):
            raise InvalidInputError(
                f"embedder is of type {type(embedder).__name__}; expected an object with embed_documents and "
                "embed_query, or with embed and embed_query"
            )
        name = model or getattr(embedder, "model", None) or getattr(embedder, "model_name", None)
        if not isinstance(name, str) or not name:
            raise InvalidInputError(
                "the embedder has no model's name; pass model=..., so that the cache can tell models apart"
            )
        self.model, self.embedder = name, embedder
        self._many, self._one = many, one
        # A model may treat questions otherwise than passages: each has keys of its own.
        dimensions, server = _dimensions_of(embedder), _server_of(embedder)
        self._passages = KeyMaker(f"passages{server}", name, dimensions)
        self._questions = KeyMaker(f"questions{server}", name, dimensions)
        self._in_flight, self._pid = InFlight(), os.getpid()  # its own: one may be around another of the same name
        self._cache: EmbeddingCache | None = open_cache(checked_folder(cache), max_cache_bytes)

    def __repr__(self) -> str:
        return f"CachedEmbedder(model={self.model!r})"

    def close(self) -> None:
        """Close the embedder, if it can be closed; the cache needs no closing."""
        close = getattr(self.embedder, "close", None)
        if callable(close):
            close()

    def __enter__(self) -> "CachedEmbedder":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of passages, float32 (n, dim); only what is not cached is asked for, equal texts once.

        Raises
        ------
        InvalidInputError   a text is empty or no string
        EmbeddingError      the embedder gave something else than a finite vector for each
        """
        return self._all(listed(texts), self._passages, self._many)

    def embed_query(self, text: str) -> Vectors:
        """The vector of one question, float32 (dim,). Raises as `embed`."""
        return np.ascontiguousarray(self._all([text], self._questions, lambda texts: [self._one(texts[0])])[0])

    async def aembed(self, texts: Sequence[str]) -> Vectors:
        """As `embed`, in a thread."""
        return await asyncio.to_thread(self.embed, texts)

    async def aembed_query(self, text: str) -> Vectors:
        """As `embed_query`, in a thread."""
        return await asyncio.to_thread(self.embed_query, text)

    @property
    def dim(self) -> int | None:
        """The dimension of what comes, if it is known before the first text is embedded."""
        return _dimensions_of(self.embedder)

    def _batches(self, texts: Iterable[str], batch: int) -> Batches:
        batch = checked_count("batch", batch, 1)
        for start, part in enumerate_batches(texts, batch):
            yield start, part, self.embed(part)

    @contextmanager
    def _reporting(self) -> Iterator[Report]:
        with Bar() as bar:
            yield bar

    def _all(self, texts: Sequence[str], key_of: KeyMaker, ask: Callable[[list[str]], Any]) -> Vectors:
        check_texts(texts)
        if not texts:
            return np.empty((0, 0), np.float32)
        if os.getpid() != self._pid:  # a fork: the threads that had claimed are not in this process
            self._in_flight, self._pid = InFlight(), os.getpid()
        keys = [key_of(text) for text in texts]
        text_of = dict(zip(keys, texts, strict=True))
        found: dict[bytes, Vectors] = {}
        left = list(text_of)
        while left:  # again for what another thread had claimed and given up
            claim = Claim(self._in_flight)
            try:
                others = claim.take(left)
                mine = [key for key in left if key in claim.open]
                cached = {} if self._cache is None else self._cache.get(mine)
                claim.settle(list(cached), list(cached.values()))
                found.update(cached)
                missing = [key for key in mine if key not in cached]
                for start in range(0, len(missing), _BATCH):
                    part = missing[start : start + _BATCH]
                    vectors = _checked(ask([text_of[key] for key in part]), len(part), self.model)
                    if self._cache is not None:
                        self._cache.put(part, vectors)
                    claim.settle(part, vectors)
                    found.update(zip(part, vectors, strict=True))
            finally:
                claim.give_up()
            for key, other in others.items():
                other.wait(key, None, lambda: False, lambda: 0.0)
                vector = other.get(key)
                if vector is not None:
                    found[key] = vector
            left = [key for key in others if key not in found]
        if len({vector.size for vector in found.values()}) > 1:
            raise EmbeddingError(f"{self.model} gives vectors of another dimension than the cache holds of it")
        return np.stack([found[key] for key in keys])


def _dimensions_of(embedder: Any) -> int | None:
    """What it has been told to shorten its vectors to: other vectors, under the same model's name."""
    told = getattr(embedder, "dimensions", None)
    return told if isinstance(told, int) else None


def _server_of(embedder: Any) -> str:
    """The server it has been told to ask: what one calls by this name, another may not."""
    told = getattr(embedder, "base_url", None) or getattr(embedder, "openai_api_base", None)
    return f" {told}" if isinstance(told, str) else ""


def _checked(given: Any, n: int, model: str) -> Vectors:
    try:
        vectors = np.asarray(given, np.float32)
    except (TypeError, ValueError):
        vectors = np.empty(0, np.float32)
    if vectors.ndim != 2 or len(vectors) != n or vectors.shape[1] == 0 or not np.isfinite(vectors).all():
        raise EmbeddingError(f"{model} gave something else than {n} finite vectors of one dimension")
    return vectors
