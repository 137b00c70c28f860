"""A search of a collection on a server that is prepared once: what `RemoteCollection.searcher` returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..results.hits import Hit
from .searching import Asked, as_arrays

F32 = NDArray[np.float32]


class RemoteSearcher:
    """A search with fixed settings and filter, for many vectors, one at a time; `RemoteCollection.searcher` makes it.

    It finds what `RemoteCollection.search` and `search_ids` find with the same keywords, which are checked once. Many
    threads may use one.

    >>> import bqstore
    >>> from qdrant_client import QdrantClient
    >>> col = bqstore.open(QdrantClient(":memory:"), "notes")
    >>> col.add([[1.0, 0.2], [0.1, 1.0]], ids=["a", "b"], metadatas=[{"year": 2020}, {"year": 2021}])
    ['a', 'b']
    >>> recent = col.searcher(k=2, filter={"year": {"$gte": 2021}})
    >>> [hit.id for hit in recent.search([1, 0])], recent.search_ids([1, 0])[0].tolist()
    (['b'], [['b', None]])
    """

    __slots__ = ("_collection", "_find", "_how")

    def __init__(self, collection: Any, how: Asked, find: Callable[[ArrayLike, Asked], list[list[Hit]]]) -> None:
        self._collection, self._how, self._find = collection, how, find

    def search(self, vector: ArrayLike) -> list[Hit]:
        """Find the documents nearest to a vector, array-like (dim,), as `RemoteCollection.search`."""
        return self._find(vector, self._how)[0]

    def search_ids(self, vector: ArrayLike) -> tuple[NDArray[np.object_], F32]:
        """Find ids and scores only, of one vector, as `RemoteCollection.search_ids`: arrays of shape (1, k)."""
        how = replace(self._how, with_vectors=False, ids_only=True)
        return as_arrays(self._find(vector, how), how.k)

    def __repr__(self) -> str:
        return f"<RemoteSearcher of {self._collection!r}>"
