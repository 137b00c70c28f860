"""From texts to a collection, and from a question to hits. It knows vectors come in batches, and of a store its calls.

Before anything is embedded, the collection is asked whether it takes vectors of this model and dimension.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Sized
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..validate import new_ids
from .openai.stream import Alongside

Vectors = npt.NDArray[np.float32]
Batches = Generator[tuple[int, Sequence[str], Vectors], None, None]
Report = Callable[[int, Any], None]

STREAM_BATCH = 1_000


class Store(Protocol):
    """What an embedder needs of a `bqstore.Collection`."""

    def check_model(self, model: str, dim: int | None = None, *, remember: bool = False, writing: bool = False) -> None:
        """As `bqstore.Collection.check_model`."""

    def add(self, vectors: Any, ids: Any = None, texts: Any = None, metadatas: Any = None) -> Any:
        """As `bqstore.Collection.add`."""

    def search(self, vector: Any, k: int = 10, **settings: Any) -> Any:
        """As `bqstore.Collection.search`."""


class IntoStore(ABC):
    """What makes an `Embedder` fill a collection and search it."""

    model: str

    @property
    @abstractmethod
    def dim(self) -> int | None:
        """The dimension of what comes, if it is known before the first text is embedded."""

    def add_to(
        self,
        collection: Store,
        texts: Iterable[str],
        ids: Iterable[str] | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        batch: int = STREAM_BATCH,
    ) -> int:
        """Embed texts and add them to a collection, batch by batch: the next are embedded while one is committed.

        The collection remembers the model, unless it knows it. It takes the memory of a few batches, however many
        texts there are. What was committed stays, whatever happens then, and what was embedded is in the cache: a
        second run asks the server only for what is missing. Give ids, so that it replaces what the first has added.

        Returns
        -------
        int   how many were added

        Raises SettingsConflictError, before anything is sent, if the collection holds vectors of another model or
        dimension, ReadOnlyError if it cannot be written, InvalidInputError if lists are not as long as that of the
        texts; as `embed` and `bqstore.Collection.add`, after the batches before were added.
        """
        collection.check_model(self.model, self.dim, writing=True)
        names, details = Alongside(ids, "ids"), Alongside(metadatas, "metadatas")
        total = len(texts) if isinstance(texts, Sized) else None
        if total is not None:
            names.check_length(total)
            details.check_length(total)
        if total is not None and isinstance(ids, Sized):
            names = Alongside(new_ids(ids, total), "ids")
        added = 0
        with self._reporting() as report:
            coming = self._batches(texts, batch)
            try:
                for start, part, vectors in coming:
                    if not added:  # an embedder that fails leaves no trace
                        collection.check_model(self.model, vectors.shape[1], remember=True)
                    ids_, metadatas_ = names.take(len(part), start), details.take(len(part), start)
                    collection.add(vectors, ids=ids_, texts=part, metadatas=metadatas_)
                    added += len(part)
                    report(added, total)
            finally:
                coming.close()
        names.check_end(added)
        details.check_end(added)
        return added

    def search(self, collection: Store, text: str, k: int = 10, **settings: Any) -> Any:
        """The k documents of a collection nearest to a text: `bqstore.Collection.search` with its settings and hits.

        Raises SettingsConflictError, before anything is sent, if the collection holds vectors of another model or
        dimension; else as `embed_query` and `bqstore.Collection.search`.
        """
        collection.check_model(self.model, self.dim)
        return collection.search(self.embed_query(text), k, **settings)

    @abstractmethod
    def embed_query(self, text: str) -> Vectors:
        """The vector of one text, float32 (dim,)."""

    @abstractmethod
    def _batches(self, texts: Iterable[str], batch: int) -> Batches:
        """The start, the texts and the vectors, float32 (m, dim), of each batch, in order."""

    @abstractmethod
    def _reporting(self) -> AbstractContextManager[Report]:
        """What to call with (done, in all or None)."""
