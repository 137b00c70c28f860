"""OpenAI's embedding models: many texts in, float32 out. The story: cache, plan, ask, keep, put in order."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
import numpy.typing as npt

from ..errors import EmbeddingError, InvalidInputError, StorageError
from .cache import EmbeddingCache, cache_key, user_cache_folder
from .client import EmbeddingsClient, TextTooLongError
from .requests import MAX_INPUT_TOKENS, check_texts, plan_requests

Vectors = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]

_NATIVE_DIM = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}


class OpenAIEmbedder:
    """Embeds with an OpenAI model, or with any server that speaks its API; safe to use from several threads.

    Parameters
    ----------
    api_key : str, optional      the environment variable OPENAI_API_KEY otherwise
    model : str                  the name of the model; also the provenance to store with a collection
    dimensions : int, optional   ask for shorter vectors; models of the third generation only
    base_url : str, optional     another server; OPENAI_BASE_URL, or OpenAI's own, otherwise
    cache : bool or path         True: the user's cache folder; a path: that folder; False: none
    concurrency : int            requests under way at once
    max_retries : int            for each request, after 408, 409, 429, 5xx or a broken connection
    timeout : float              seconds for each try

    Raises
    ------
    ImportError         the ``openai`` package is missing
    EmbeddingError      there is no key, or what was given cannot be one
    InvalidInputError   a setting is out of range
    StorageError        the cache folder that was named cannot be used
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        model: str = "text-embedding-3-small",
        dimensions: int | None = None,
        base_url: str | None = None,
        cache: bool | str | os.PathLike[str] = True,
        concurrency: int = 4,
        max_retries: int = 5,
        timeout: float = 60.0,
    ) -> None:
        if dimensions is not None and dimensions < 1:
            raise InvalidInputError(f"dimensions is {dimensions}; at least 1 was expected")
        if concurrency < 1:
            raise InvalidInputError(f"concurrency is {concurrency}; at least 1 was expected")
        if max_retries < 0 or not timeout > 0:
            raise InvalidInputError("max_retries cannot be negative, and timeout must be more than 0 seconds")
        self.model = model
        self.dimensions = dimensions
        self._dim = dimensions or _NATIVE_DIM.get(model)
        self._settling = threading.Lock()  # the first of several answers says the dimension
        self._concurrency = concurrency
        self._client = EmbeddingsClient(api_key, base_url, max_retries, timeout)
        self._cache = _open_cache(cache)

    def __repr__(self) -> str:
        return f"OpenAIEmbedder(model={self.model!r}, dimensions={self.dimensions})"

    def close(self) -> None:
        """Close the connections to the server; the cache needs no closing."""
        self._client.close()

    def __enter__(self) -> "OpenAIEmbedder":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def embed_query(self, text: str) -> Vectors:
        """The vector of one text, float32 (dim,). Raises as `embed`."""
        return np.ascontiguousarray(self.embed([text])[0])

    def embed(self, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
        """The vectors of ``texts``, float32 (n, dim), in their order.

        What is in the cache is not asked for; the rest goes out in requests that fit the API's limits,
        several at once, equal texts only once. Every answer is kept as it comes, so what was embedded before
        an error or Ctrl-C is not paid for again.

        Parameters
        ----------
        progress : callable, optional   called in this thread with (texts done, texts in all)

        Raises
        ------
        InvalidInputError   a text is empty or no string; it is named by its index, and nothing was sent
        EmbeddingError      the server refused, cannot be reached or answered with something else; a text that
                            is too long is named by its index
        """
        texts = texts if isinstance(texts, str) else list(texts)
        sizes = check_texts(texts)
        if not texts:
            return np.empty((0, self._dim or 0), np.float32)
        keys = [cache_key(self._client.endpoint, self.model, self.dimensions, text) for text in texts]
        found = self._cached(keys)
        first: dict[bytes, int] = {}
        for index, key in enumerate(keys):
            if key not in found:
                first.setdefault(key, index)
        missing = list(first.values())
        done = len(keys) - len(missing)
        requests = [[missing[i] for i in run] for run in plan_requests([sizes[i] for i in missing])]

        if progress is not None:
            progress(done, len(keys))
        for indices, vectors in self._answers(requests, texts, keys):
            found.update(zip((keys[i] for i in indices), vectors, strict=True))
            done += len(indices)
            if progress is not None:
                progress(done, len(keys))
        return np.stack([found[key] for key in keys])

    def _cached(self, keys: list[bytes]) -> dict[bytes, Vectors]:
        if self._cache is None:
            return {}
        found = self._cache.get(list(dict.fromkeys(keys)))
        if self._dim is None and found:
            self._dim = next(iter(found.values())).size
        return {key: vector for key, vector in found.items() if vector.size == self._dim}

    def _answers(
        self, requests: list[list[int]], texts: Sequence[str], keys: list[bytes]
    ) -> Iterator[tuple[list[int], Vectors]]:
        """Each request's indices and vectors, as they come in; several requests are under way at once."""
        if len(requests) <= 1:  # a query: no threads to start, and Ctrl-C breaks the request itself off
            for indices in requests:
                yield indices, self._answer(indices, texts, keys)
            return
        pool = ThreadPoolExecutor(min(self._concurrency, len(requests)), "bqstore-openai")
        interrupted = True
        try:
            futures = {pool.submit(self._answer, indices, texts, keys): indices for indices in requests}
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
            interrupted = False
        except Exception:
            interrupted = False
            raise
        finally:
            # Requests under way finish and are kept. After Ctrl-C only Python's exit waits for them.
            pool.shutdown(wait=not interrupted, cancel_futures=True)

    def _answer(self, indices: list[int], texts: Sequence[str], keys: list[bytes]) -> Vectors:
        """One request, its answer checked and kept: float32 (len(indices), dim)."""
        try:
            vectors = self._client.embed([texts[i] for i in indices], self.model, self.dimensions)
        except TextTooLongError as error:
            position = 0 if len(indices) == 1 else error.position
        else:
            return self._keep(vectors, [keys[i] for i in indices])
        if position is None or position >= len(indices):
            return self._one_by_one(indices, texts, keys)
        raise EmbeddingError(
            f"text {indices[position]} is longer than {self.model} takes "
            f"({MAX_INPUT_TOKENS} tokens for OpenAI's models); split it"
        )

    def _one_by_one(self, indices: list[int], texts: Sequence[str], keys: list[bytes]) -> Vectors:
        """A refusal did not say which text was too long: ask for each, the longest first, to name it."""
        order = sorted(range(len(indices)), key=lambda place: -len(texts[indices[place]]))
        rows = {place: self._answer([indices[place]], texts, keys)[0] for place in order}
        return np.stack([rows[place] for place in range(len(indices))])

    def _keep(self, vectors: Vectors, keys: list[bytes]) -> Vectors:
        dim = vectors.shape[1]
        with self._settling:
            self._dim = self._dim or dim
        if dim != self._dim:
            raise EmbeddingError(f"{self.model} answered with {dim} dimensions; {self._dim} were expected")
        if self._cache is not None:
            self._cache.put(keys, vectors)
        return vectors


def _open_cache(cache: bool | str | os.PathLike[str]) -> EmbeddingCache | None:
    if cache is False:
        return None
    if cache is not True:
        return EmbeddingCache(cache)
    try:
        return EmbeddingCache(user_cache_folder())
    except (StorageError, RuntimeError) as error:  # no home, or a read-only one
        warnings.warn(f"embeddings are not cached: {error}", stacklevel=3)
        return None
