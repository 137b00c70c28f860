"""What a vector store of another library has of the collection beneath it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

    from .collection import Collection
    from .config import SearchParams
    from .results.recall import Health, RecallReport


class OnCollection:
    """A base of the adapters' stores: what they pass on to their collection, and how they are closed.

    A class sets ``_collection``, and ``_is_lent`` if the collection was given open.

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
