"""The base of a framework's vector store: what it passes on to the collection beneath it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..arguments import check_int
from ..errors import InvalidInputError, ReadOnlyError
from ..metadata.to_json import ID_KEY
from ..remote import RemoteCollection
from ..stores import drop

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..collection import Collection
    from ..config import SearchParams
    from ..results.hits import Record
    from ..results.recall import Health, RecallReport


class OnCollection:
    """A base of the adapters' stores: what they pass on to their collection, and how they are closed.

    A subclass sets ``_collection``, and ``_is_lent``: whether the caller gave the collection open.

    >>> import bqstore
    >>> class Store(bqstore.OnCollection):
    ...     def __init__(self):
    ...         self._collection, self._is_lent = bqstore.open(), False
    >>> store = Store()
    >>> ids = store.collection.add([[i, 1] for i in range(300)])
    """

    _collection: Collection
    _is_lent: bool

    @property
    def collection(self) -> Collection:
        """The open `bqstore.Collection`.

        >>> store.collection.count()
        300
        """
        return self._collection

    @property
    def client(self) -> Collection:
        """The same, under the name that stores of others have for it.

        >>> store.client is store.collection
        True
        """
        return self._collection

    def health(self) -> Health:
        """Tell whether searches find what the target recall promises, as `bqstore.Collection.health`.

        >>> store.health().ok
        True
        """
        return self._collection.health()

    def recall(self, **kwargs: Any) -> RecallReport:
        """Measure how many of the true nearest searches find, and how fast; takes seconds.

        ``kwargs`` are those of `bqstore.Collection.recall`: ``queries`` (vectors), ``k``, ``sample``, ``settings``.

        >>> store.recall(k=1).recall
        1.0
        """
        return self._collection.recall(**kwargs)

    def tune(self, target_recall: float = 0.98, k: int = 10, **kwargs: Any) -> SearchParams:
        """Find the fastest search settings that reach a recall, and store them as the collection's defaults.

        ``kwargs`` are those of `bqstore.Collection.tune`. Raises `bqstore.TargetNotReachedError`.

        >>> store.tune(target_recall=0.1, k=2).oversampling >= 1
        True
        """
        return self._collection.tune(target_recall, k, **kwargs)

    def _stored(
        self,
        ids: str | Iterable[str] | None,
        filter: Any,
        limit: int | None = None,
        offset: int | None = None,
        with_vectors: bool = False,
    ) -> list[Record]:
        """Return records in the order of the ids, of those that match; without ids all that match, oldest first."""
        if ids is None:
            found = self._collection.scroll(filter, limit=limit, offset=offset or 0, with_vectors=with_vectors)
            return list(found)
        names = [ids] if isinstance(ids, str) else list(ids)
        if filter is not None:
            matching = set(self._collection.ids({"$and": [{ID_KEY: {"$in": names}}, filter]}))
            names = [name for name in names if name in matching]
        start = 0 if offset is None else check_int("offset", offset, 0, 2**62)
        end = None if limit is None else start + check_int("limit", limit, 0, 2**62)
        return self._collection.get(names, with_vectors)[start:end]

    def _drop(self) -> None:
        """Remove the collection from its folder, durably, and close it."""
        info = self._collection.info()
        if info.read_only:
            raise ReadOnlyError("delete_collection() on a store that was opened with read_only=True")
        if isinstance(self._collection, RemoteCollection):
            self._collection.drop()
        elif info.path is not None:
            drop(info.path, info.collection)
        self._collection.close()

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """Close what was just opened, if it cannot be made ready."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _check_words(self, mode: str) -> None:
        """Raise InvalidInputError where a mode needs a text index and there is none, before anything is embedded."""
        if self._collection.info().text_index is None:
            raise InvalidInputError(
                f"{mode} searches for words, and this store has no text index: open it with text_index=True, or call "
                "store.collection.set_text_index(), which makes one of the texts that are there"
            )

    def close(self) -> None:
        """Close the collection, unless it was given open. Closing twice is fine; ``with store:`` closes too.

        >>> store.close()
        """
        if not self._is_lent:
            self._collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
