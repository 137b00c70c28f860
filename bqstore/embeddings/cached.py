"""A cache around any embedding model: an `Embedder`, or a LangChain ``Embeddings``."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import is_dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from .. import tracing
from ..arguments import checked_keywords, counted, shown
from ..errors import EmbeddingError, InvalidInputError
from .base import EmbeddedBatches, EmbedderBase
from .disk_cache import KeyMaker, open_cache
from .ingest import Report, check_batch, progress_line
from .local_models import load_local_model
from .protocol import Vectors
from .text_rows import TextRows, portions
from .texts import as_list, check_texts, enumerate_batches

_OF_NO_VECTOR = re.compile(
    r"key|token|secret|password|timeout|retr|batch|chunk|progress|verbose|cache|device|thread|worker|concurren|parallel|"
    r"callback|proxy|organi|training|^model(_name)?$|^dimensions$|base_url|api_base",
    re.I,
)
_BATCH = 512  # texts per call of the model; each batch is stored before the next begins


class _Side(NamedTuple):
    key_of: KeyMaker
    ask: Callable[[list[str]], Any]


class CachedEmbedder(EmbedderBase[_Side]):
    """An `Embedder` that caches the vectors of another on disk. Thread-safe if the other is.

    Parameters
    ----------
    embedder                an object with ``embed_documents`` and ``embed_query`` (LangChain), or with ``embed`` and
                            ``embed_query``; or a local model as "library:model": "model2vec:...", "fastembed:...",
                            "sentence-transformers:...", "wordllama:l2_supercat" (its weights are in the package), or
                            "llama-cpp:..." with the path of a GGUF file
    model : str, optional   the model's name, part of the cache keys; by default ``embedder.model`` or
                            ``embedder.model_name``
    settings : dict, optional   other settings that the vectors depend on, such as ``{"normalize": True}``; they are
                            part of the cache keys. By default the embedder's public fields with plain values at this
                            moment, except those that do not affect vectors (keys, timeouts, batch sizes, devices)
    cache : bool or path    True: the user's cache folder; a path: that folder; False: none
    max_cache_bytes : int, optional   limit of the cache's size; the oldest entries are deleted first

    Raises
    ------
    InvalidInputError   the embedder lacks the methods or a name, or a setting is unknown
    ImportError         the library of a local model is not installed
    EmbeddingError      the library cannot load the model
    StorageError        the given cache folder cannot be used

    >>> class Lengths:
    ...     model = "lengths"
    ...
    ...     def embed(self, texts):
    ...         print("embedding", texts)
    ...         return [[len(text), 1] for text in texts]
    ...
    ...     def embed_query(self, text):
    ...         return [len(text), 1]
    >>> embedder = CachedEmbedder(Lengths(), cache="my-cache")
    >>> embedder.embed(["cat", "horse", "cat"]).tolist()
    embedding ['cat', 'horse']
    [[3.0, 1.0], [5.0, 1.0], [3.0, 1.0]]
    >>> embedder.embed(["horse"]).tolist()
    [[5.0, 1.0]]
    """

    @checked_keywords
    def __init__(
        self,
        embedder: Any,
        model: str | None = None,
        cache: bool | str | os.PathLike[str] = True,
        *,
        settings: Mapping[str, Any] | None = None,
        max_cache_bytes: int | None = None,
    ) -> None:
        if isinstance(embedder, str):
            embedder = load_local_model(embedder)
            settings = embedder.settings if settings is None else {**embedder.settings, **settings}
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
        # Separate cache keys for queries and passages, since a model may embed them differently, and for each server,
        # since two servers may use one name for different models.
        url = getattr(embedder, "base_url", None) or getattr(embedder, "openai_api_base", None)
        server = f" {url}" if isinstance(url, str) else ""
        if settings is not None and not isinstance(settings, Mapping):
            raise InvalidInputError(f"settings is {shown(settings)}; expected a dictionary")
        told = (_plain_fields(embedder) if settings is None else dict(settings)) or None
        ways = (("passages", many), ("questions", lambda texts: [one(text) for text in texts]))
        self._passages, self._questions = (
            _Side(KeyMaker(side + server, name, self._known_dim(), told), ask) for side, ask in ways
        )
        self._cache = open_cache(cache, max_cache_bytes)

    def __repr__(self) -> str:
        return f"CachedEmbedder(model={self.model!r})"

    def close(self) -> None:
        """Close the embedder, if it has ``close``; the cache needs no closing.

        >>> embedder = CachedEmbedder(OpenAIEmbedder("text-embedding-3-small"))
        >>> embedder.close()
        """
        close = getattr(self.embedder, "close", None)
        if callable(close):
            close()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of passages, float32 (n, dim), in the order of ``texts``.

        The embedder is called only with texts that are not cached, each distinct text once. Raises InvalidInputError if
        a text is empty or not a string, EmbeddingError unless the embedder returns one finite vector per text.

        >>> with CachedEmbedder(OpenAIEmbedder(dimensions=8, cache=False)) as embedder:
        ...     embedder.embed(["cats", "dogs"]).shape
        (2, 8)
        """
        return self._embed(texts, self._passages)

    def _known_dim(self) -> int | None:
        """The embedder's ``dimensions``, if set: part of the cache keys, as the same model gives other vectors then."""
        dimensions = getattr(self.embedder, "dimensions", None)
        return dimensions if isinstance(dimensions, int) else None

    def _batches(self, texts: Iterable[str], batch: int) -> EmbeddedBatches:
        for start, part in enumerate_batches(texts, check_batch(batch)):
            yield start, part, self.embed(part)

    def _reporting(self) -> AbstractContextManager[Report]:
        return progress_line()

    def _embed(self, texts: Sequence[str], side: _Side) -> Vectors:
        texts = as_list(texts)
        check_texts(texts)
        rows = TextRows(texts, side.key_of)
        for part in portions(rows.take_cached(self._cache), _BATCH):
            with tracing.embedding(self.model, len(part), type(self.embedder).__module__.partition(".")[0]):
                vectors = _checked(side.ask([rows.texts[row] for row in part]), len(part), self.model)
            if vectors.shape[1] != (rows.dim or vectors.shape[1]):
                raise EmbeddingError(f"{self.model} gives vectors of another dimension than the cache holds of it")
            rows.put(part, vectors)
            rows.to_cache(self._cache, part)
        return rows.hand_over()


def _plain_fields(embedder: Any) -> dict[str, Any]:
    """The public fields of an embedder with plain values, which may be settings that its vectors depend on."""
    slots = [name for kind in type(embedder).__mro__ for name in getattr(kind, "__slots__", ())]
    fields = {name: getattr(embedder, name, None) for name in slots} | getattr(embedder, "__dict__", {})
    return _plain(fields) or {}


def _plain(value: Any) -> Any:
    """The value reduced to plain values, without the names of `_OF_NO_VECTOR`; None if nothing remains."""
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, tuple):  # not lists, which may be records of past calls
        return [_plain(one) for one in value] or None
    if is_dataclass(value) or hasattr(type(value), "model_fields"):  # settings in a class
        value = getattr(value, "__dict__", {})
    if not isinstance(value, Mapping):
        return None
    named = {name: one for name, one in value.items() if isinstance(name, str) and not name.startswith("_")}
    found = {name: _plain(one) for name, one in named.items() if not _OF_NO_VECTOR.search(name)}
    return {name: one for name, one in found.items() if one is not None} or None


def _checked(given: Any, n: int, model: str) -> Vectors:
    vectors: Vectors = np.empty(0, np.float32)
    with suppress(TypeError, ValueError), np.errstate(over="ignore"):  # refused below
        found = np.asarray(list(given) if isinstance(given, Iterator) else given)
        vectors = vectors if np.iscomplexobj(found) else found.astype(np.float32)
    if vectors.ndim != 2 or len(vectors) != n or vectors.shape[1] == 0 or not np.isfinite(vectors).all():
        count = f": it gave {counted(len(vectors), 'vector')}" if vectors.ndim == 2 and len(vectors) != n else ""
        raise EmbeddingError(f"{model} gave something else than {n} finite vectors of one dimension{count}")
    return vectors
