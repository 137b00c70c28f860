"""The base of all embedders: single queries, async calls, `add_to` and `search` of a collection, framework adapters.

Before texts are embedded for a collection, the collection checks the model and dimension. LangChain and LlamaIndex are
imported only by `as_langchain` and `as_llama_index`.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, closing
from importlib import import_module
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ..errors import InvalidInputError
from ..validate import new_ids
from .ingest import STREAM_BATCH, Report, ValuesPerText
from .protocol import Vectors

EmbeddedBatches = Generator[tuple[int, Sequence[str], Vectors], None, None]
SideT = TypeVar("SideT")
SelfT = TypeVar("SelfT", bound="EmbedderBase[Any]")


class CollectionLike(Protocol):
    """The methods of `bqstore.Collection` that an embedder calls."""

    def check_model(self, model: str, dim: int | None = None, *, remember: bool = False, writing: bool = False) -> None:
        """As `bqstore.Collection.check_model`."""

    def add(self, vectors: Any, ids: Any = None, texts: Any = None, metadatas: Any = None) -> Any:
        """As `bqstore.Collection.add`."""

    def search(self, vector: Any, k: int = 10, **settings: Any) -> Any:
        """As `bqstore.Collection.search`."""


class EmbedderBase(ABC, Generic[SideT]):
    """The public calls of an `Embedder`, except `embed`, built on the abstract methods below."""

    model: str
    _passages: SideT  # how passages are embedded, and their cache keys
    _questions: SideT

    @property
    def dim(self) -> int | None:
        """The dimension of the vectors, if it is known before the first text is embedded.

        >>> with OpenAIEmbedder("text-embedding-3-large", dimensions=1024) as embedder:
        ...     embedder.dim
        1024
        """
        return self._known_dim()

    def __enter__(self: SelfT) -> SelfT:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def embed_query(self, text: str) -> Vectors:
        """The vector of one question, float32 (dim,). Raises as `embed`.

        >>> with OpenAIEmbedder("text-embedding-3-small", dimensions=512) as embedder:
        ...     embedder.embed_query("Which animals purr?").shape
        (512,)
        """
        return np.ascontiguousarray(self._embed([text], self._questions)[0])

    async def aembed(self, texts: Sequence[str]) -> Vectors:
        """As `embed`, without blocking the event loop. An `OpenAIEmbedder` sends asynchronous requests, through its
        ``async_client`` if it has one; other embedders run in a thread.

        >>> import asyncio
        >>> with OpenAIEmbedder("text-embedding-3-small", dimensions=512) as embedder:
        ...     asyncio.run(embedder.aembed(["Cats purr.", "Dogs bark."])).shape
        (2, 512)
        """
        return await self._aembed(texts, self._passages)

    async def aembed_query(self, text: str) -> Vectors:
        """As `embed_query`, without blocking the event loop; see `aembed`.

        >>> import asyncio
        >>> with OpenAIEmbedder("text-embedding-3-small", dimensions=512) as embedder:
        ...     asyncio.run(embedder.aembed_query("Which animals purr?")).shape
        (512,)
        """
        return np.ascontiguousarray((await self._aembed([text], self._questions))[0])

    def add_to(
        self,
        collection: CollectionLike,
        texts: Iterable[str],
        ids: Iterable[str] | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        batch: int = STREAM_BATCH,
    ) -> int:
        """Embed texts and add them to a collection, batch by batch, in the memory of a few batches.

        While a batch is committed, an `OpenAIEmbedder` embeds the next ones. After an error or Ctrl-C, committed
        documents stay in the collection and embedded ones in the cache: a second run requests only what is missing.
        Pass ids, so that it replaces the documents of the first run instead of adding them again. The collection
        remembers the model. Returns the number of texts added.

        Parameters
        ----------
        collection : bqstore.Collection
        texts : iterable of str
        ids : iterable of str, optional         one per text; random by default
        metadatas : iterable of dict, optional  one per text
        batch : int                             texts per batch

        Raises
        ------
        SettingsConflictError   the collection holds vectors of another model or dimension; nothing was sent
        ReadOnlyError           the collection is read-only; nothing was sent
        InvalidInputError       the number of ids or metadatas differs from that of texts
        Also as `embed` and `bqstore.Collection.add`, after earlier batches were added.

        >>> with OpenAIEmbedder("text-embedding-3-small") as embedder, bqstore.open() as collection:
        ...     embedder.add_to(collection, ["Cats purr.", "Dogs bark."], ids=["cats", "dogs"])
        2
        """
        _check_collection(collection)
        collection.check_model(self.model, self.dim, writing=True)
        total = len(texts) if isinstance(texts, Sized) else None
        id_values, metadata_values = ValuesPerText(ids, "ids", total), ValuesPerText(metadatas, "metadatas", total)
        if total is not None and isinstance(ids, Sized):
            id_values = ValuesPerText(new_ids(ids, total), "ids")
        added = 0
        with self._reporting() as report, closing(self._batches(texts, batch)) as embedded:
            for start, part, vectors in embedded:
                # the model is remembered with the first vectors, so that an embedder that fails leaves no trace; and
                # checked with every batch, since the collection may have been embedded anew with another model
                collection.check_model(self.model, vectors.shape[1], remember=not added)
                part_ids, part_metadatas = (values.take(len(part), start) for values in (id_values, metadata_values))
                collection.add(vectors, ids=part_ids, texts=part, metadatas=part_metadatas)
                added += len(part)
                report(added, total)
        id_values.check_end(added)
        metadata_values.check_end(added)
        return added

    def search(self, collection: CollectionLike, text: str, k: int = 10, **settings: Any) -> Any:
        """The ``k`` documents of a collection nearest to a text, as `bqstore.Collection.search` returns them.

        ``settings`` are those of `bqstore.Collection.search`, such as ``filter``.

        Raises SettingsConflictError if the collection holds vectors of another model or dimension; nothing was sent.
        Otherwise raises as `embed_query` and `bqstore.Collection.search`.

        >>> with OpenAIEmbedder("text-embedding-3-small") as embedder, bqstore.open() as collection:
        ...     added = embedder.add_to(collection, ["Cats purr.", "Dogs bark."], ids=["cats", "dogs"])
        ...     embedder.search(collection, "Cats purr.", k=1)[0].id
        'cats'
        """
        _check_collection(collection)
        collection.check_model(self.model, self.dim)
        return collection.search(self.embed_query(text), k, **settings)

    def as_langchain(self) -> Any:
        """This embedder as a LangChain ``Embeddings``. Raises ImportError if LangChain is missing.

        >>> with OpenAIEmbedder("text-embedding-3-small", dimensions=8) as embedder:
        ...     embeddings = embedder.as_langchain()
        ...     len(embeddings.embed_query("Which animals purr?"))
        8
        """
        return _adapter("langchain_bqstore", "EmbedderEmbeddings", "langchain")(self)

    def as_llama_index(self) -> Any:
        """This embedder as a LlamaIndex ``embed_model``. Raises ImportError if LlamaIndex is missing.

        >>> with OpenAIEmbedder("text-embedding-3-small", dimensions=8) as embedder:
        ...     embed_model = embedder.as_llama_index()
        ...     len(embed_model.get_query_embedding("Which animals purr?"))
        8
        """
        return _adapter("llama_index.vector_stores.bqstore", "EmbedderEmbedding", "llama-index")(self)

    # Each embedder implements these.

    @abstractmethod
    def close(self) -> None:
        """Release resources."""

    @abstractmethod
    def _known_dim(self) -> int | None:
        """The dimension of the vectors, if it is known."""

    @abstractmethod
    def _embed(self, texts: Sequence[str], side: SideT) -> Vectors:
        """The vectors of texts, float32 (n, dim)."""

    async def _aembed(self, texts: Sequence[str], side: SideT) -> Vectors:
        return await asyncio.to_thread(self._embed, texts, side)

    @abstractmethod
    def _batches(self, texts: Iterable[str], batch: int) -> EmbeddedBatches:
        """For each batch in order: the index of its first text, its texts, and its vectors, float32 (m, dim)."""

    @abstractmethod
    def _reporting(self) -> AbstractContextManager[Report]:
        """A context manager that yields a function to call with (texts done, total or None)."""


def _check_collection(given: Any) -> None:
    if not hasattr(given, "check_model"):
        inside = "; pass its .collection" if hasattr(getattr(given, "collection", None), "check_model") else ""
        raise InvalidInputError(f"collection is of type {type(given).__name__}; expected a bqstore.Collection{inside}")


def _adapter(module: str, name: str, extra: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        message = f'{name} needs a package that is not installed: pip install "bqstore[{extra}]"'
        raise ImportError(message, name=error.name) from error
