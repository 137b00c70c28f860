"""`add_to` and `search`: what an embedder that makes vectors batch by batch needs to fill and search a collection.

Before anything is embedded, the collection is asked whether it takes vectors of this model and dimension.
"""

import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..arguments import check_int
from ..errors import InvalidInputError
from ..progress import Progress
from ..validate import new_ids
from .texts import check_iterable

Vectors = npt.NDArray[np.float32]
EmbeddedBatches = Generator[tuple[int, Sequence[str], Vectors], None, None]
Report = Callable[[int, Any], None]

STREAM_BATCH = 1_000
_LARGEST_BATCH = 1_000_000
_QUIET = 2.0  # seconds before the progress line appears


class CollectionLike(Protocol):
    """The methods of `bqstore.Collection` that an embedder calls."""

    def check_model(self, model: str, dim: int | None = None, *, remember: bool = False, writing: bool = False) -> None:
        """As `bqstore.Collection.check_model`."""

    def add(self, vectors: Any, ids: Any = None, texts: Any = None, metadatas: Any = None) -> Any:
        """As `bqstore.Collection.add`."""

    def search(self, vector: Any, k: int = 10, **settings: Any) -> Any:
        """As `bqstore.Collection.search`."""


class CollectionMixin(ABC):
    """Gives an `Embedder` the methods `add_to` and `search`."""

    model: str

    @property
    @abstractmethod
    def dim(self) -> int | None:
        """The dimension of the vectors, if it is known before the first text is embedded."""

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
        remembers the model.

        Parameters
        ----------
        collection : bqstore.Collection
        texts : iterable of str
        ids : iterable of str, optional         one a text; random ones otherwise
        metadatas : iterable of dict, optional  one a text
        batch : int                             texts in a batch

        Returns
        -------
        int   the number of texts added

        Raises
        ------
        SettingsConflictError   the collection holds vectors of another model or dimension; nothing was sent
        ReadOnlyError           the collection cannot be written; nothing was sent
        InvalidInputError       there are fewer or more ids or metadatas than texts
        Also as `embed` and `bqstore.Collection.add`, after the batches before were added.

        Examples
        --------
        >>> with OpenAIEmbedder("text-embedding-3-small") as embedder, bqstore.open() as collection:
        ...     embedder.add_to(collection, ["Cats purr.", "Dogs bark."], ids=["cats", "dogs"])
        2
        """
        collection.check_model(self.model, self.dim, writing=True)
        id_values, metadata_values = ValuesPerText(ids, "ids"), ValuesPerText(metadatas, "metadatas")
        total = len(texts) if isinstance(texts, Sized) else None
        if total is not None:
            id_values.check_length(total)
            metadata_values.check_length(total)
            if isinstance(ids, Sized):
                id_values = ValuesPerText(new_ids(ids, total), "ids")
        added = 0
        with self._reporting() as report:
            embedded = self._batches(texts, batch)
            try:
                for start, part, vectors in embedded:
                    # remembered with the first vectors: an embedder that fails leaves no trace. Asked again with the
                    # others, as all texts may have been embedded with another model meanwhile
                    collection.check_model(self.model, vectors.shape[1], remember=not added)
                    part_ids = id_values.take(len(part), start)
                    part_metadatas = metadata_values.take(len(part), start)
                    collection.add(vectors, ids=part_ids, texts=part, metadatas=part_metadatas)
                    added += len(part)
                    report(added, total)
            finally:
                embedded.close()
        id_values.check_end(added)
        metadata_values.check_end(added)
        return added

    def search(self, collection: CollectionLike, text: str, k: int = 10, **settings: Any) -> Any:
        """The ``k`` documents of a collection that are nearest to a text.

        Parameters
        ----------
        settings    of `bqstore.Collection.search`, such as ``filter``

        Returns
        -------
        as `bqstore.Collection.search`

        Raises
        ------
        SettingsConflictError   the collection holds vectors of another model or dimension; nothing was sent
        Also as `embed_query` and `bqstore.Collection.search`.

        Examples
        --------
        >>> with OpenAIEmbedder("text-embedding-3-small") as embedder, bqstore.open() as collection:
        ...     added = embedder.add_to(collection, ["Cats purr.", "Dogs bark."], ids=["cats", "dogs"])
        ...     embedder.search(collection, "Cats purr.", k=1)[0].id
        'cats'
        """
        collection.check_model(self.model, self.dim)
        return collection.search(self.embed_query(text), k, **settings)

    @abstractmethod
    def embed_query(self, text: str) -> Vectors:
        """The vector of one text, float32 (dim,)."""

    @abstractmethod
    def _batches(self, texts: Iterable[str], batch: int) -> EmbeddedBatches:
        """The index of the first text, the texts and the vectors, float32 (m, dim), of each batch, in order."""

    @abstractmethod
    def _reporting(self) -> AbstractContextManager[Report]:
        """A context whose value is called with (done, total or None)."""


class ValuesPerText:
    """The ids or metadata that go with the texts one by one, read as the texts are; None stands for none at all."""

    def __init__(self, values: Iterable[object] | None, name: str) -> None:
        if values is not None:
            check_iterable(values, name)
        self._length = len(values) if isinstance(values, Sized) else None
        self._values, self._name = None if values is None else iter(values), name

    def check_length(self, n: int) -> None:
        """Raise InvalidInputError if the length is known and is not ``n``."""
        if self._length is not None and self._length != n:
            raise InvalidInputError(f"there are {n} texts; {self._name} has {self._length}")

    def take(self, n: int, start: int) -> list[object] | None:
        """The next ``n`` values. Raises InvalidInputError if there are fewer."""
        if self._values is None:
            return None
        part = list(islice(self._values, n))
        if len(part) < n:
            raise InvalidInputError(f"{self._name} ends at {start + len(part)}; there are more texts than that")
        return part

    def check_end(self, n: int) -> None:
        """Raise InvalidInputError if there are more than ``n`` values."""
        if self._values is not None and next(self._values, self) is not self:
            raise InvalidInputError(f"there are {n} texts; {self._name} has more")


def check_batch(batch: object) -> int:
    """The number of texts in a batch. Raises InvalidInputError."""
    return check_int("batch", batch, 1, _LARGEST_BATCH)


@contextmanager
def progress_line(price: Callable[[], float | None] = lambda: None) -> Iterator[Report]:
    """A line on the terminal: texts embedded, texts a second, the price so far, the time left. In a notebook, a bar.

    Parameters
    ----------
    price : callable    US$ spent since the embedder was made; None if that is not known
    """
    bar = _bar_of_a_notebook()
    if bar is not None:
        with bar:

            def show(done: int, total: int | None) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield show
        return
    price_before, first = price(), None

    def describe(done: int, total: int | None, seconds: float) -> str:
        rate = (done - (first or 0)) / seconds if seconds > 0 else 0.0
        parts = [f"{rate:,.0f} texts/s"]
        if price_before is not None:
            parts.append(f"${(price() or 0.0) - price_before:,.4f}")
        if total and rate > 0:
            parts.append(f"{(total - done) / rate:,.0f} s left")
        return ", ".join(parts)

    with Progress("embedding", describe=describe, quiet=_QUIET) as line:

        def report(done: int, total: int | None) -> None:
            nonlocal first
            if first is None:  # texts found in the cache, which say nothing of the rate
                first = done
            line(done, total)

        yield report


def _bar_of_a_notebook() -> Any:
    """A bar of tqdm in a notebook, whose stderr is no terminal; None elsewhere, or where tqdm is missing."""
    if "ipykernel" not in sys.modules:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where the notebook has no widgets, the bar is text
        try:
            return import_module("tqdm.auto").tqdm(desc="embedding", unit=" texts", delay=_QUIET)
        except ImportError:
            return None
