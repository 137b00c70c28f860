"""What all embedders have in common: single questions, async calls, `add_to` and `search` of a collection, frameworks.

Before anything is embedded for a collection, it is asked whether it takes vectors of this model and dimension. Neither
LangChain nor LlamaIndex is imported before it is asked for.
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
    """An `Embedder` with all its public calls but `embed`, made of how it embeds passages and questions."""

    model: str
    _passages: SideT  # how they are embedded, and under which keys they are cached
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
        """As `embed`. An `OpenAIEmbedder` waits on an event loop, through its ``async_client`` if it has one; others
        work in a thread.

        >>> import asyncio
        >>> with OpenAIEmbedder("text-embedding-3-small", dimensions=512) as embedder:
        ...     asyncio.run(embedder.aembed(["Cats purr.", "Dogs bark."])).shape
        (2, 512)
        """
        return await self._aembed(texts, self._passages)

    async def aembed_query(self, text: str) -> Vectors:
        """As `embed_query`, and as `aembed`.

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

        The next batches are embedded while one is committed. After an error or Ctrl-C, what was committed stays in
        the collection and what was embedded stays in the cache: a second run requests only what is missing. Give ids,
        so that the second run replaces the documents of the first instead of adding them twice. The collection
        remembers the model. Returns the number of texts added.

        Parameters
        ----------
        collection : bqstore.Collection
        texts : iterable of str
        ids : iterable of str, optional         one a text; random ones otherwise
        metadatas : iterable of dict, optional  one a text
        batch : int                             texts in a batch

        Raises
        ------
        SettingsConflictError   the collection holds vectors of another model or dimension; nothing was sent
        ReadOnlyError           the collection cannot be written; nothing was sent
        InvalidInputError       there are fewer or more ids or metadatas than texts
        Also as `embed` and `bqstore.Collection.add`, after the batches before were added.

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
                # remembered with the first vectors: an embedder that fails leaves no trace. Asked again with the
                # others, as all texts may have been embedded with another model meanwhile
                collection.check_model(self.model, vectors.shape[1], remember=not added)
                part_ids, part_metadatas = (values.take(len(part), start) for values in (id_values, metadata_values))
                collection.add(vectors, ids=part_ids, texts=part, metadatas=part_metadatas)
                added += len(part)
                report(added, total)
        id_values.check_end(added)
        metadata_values.check_end(added)
        return added

    def search(self, collection: CollectionLike, text: str, k: int = 10, **settings: Any) -> Any:
        """The ``k`` documents of a collection that are nearest to a text, as `bqstore.Collection.search` returns them.

        ``settings`` are those of `bqstore.Collection.search`, such as ``filter``.

        Raises SettingsConflictError if the collection holds vectors of another model or dimension; nothing was sent.
        Also as `embed_query` and `bqstore.Collection.search`.

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

    # What an embedder has of its own.

    @abstractmethod
    def close(self) -> None:
        """Give back what is held."""

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
        """The index of the first text, the texts and the vectors, float32 (m, dim), of each batch, in order."""

    @abstractmethod
    def _reporting(self) -> AbstractContextManager[Report]:
        """A context whose value is called with (done, total or None)."""


def _check_collection(given: Any) -> None:
    if not hasattr(given, "check_model"):
        inside = "; this one's is its .collection" if hasattr(getattr(given, "collection", None), "check_model") else ""
        raise InvalidInputError(f"collection is of type {type(given).__name__}; expected a bqstore.Collection{inside}")


def _adapter(module: str, name: str, extra: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        message = f'{name} needs a package that is not installed: pip install "bqstore[{extra}]"'
        raise ImportError(message, name=error.name) from error
