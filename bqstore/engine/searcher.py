"""A search that is prepared once and made many times: what `Collection.searcher` returns."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..metadata.filter_tree import Predicate, Tree
from ..results.hits import Hit
from ..tracing import traced
from ..validate import queries_in
from . import search
from .options import Options
from .prepared_search import PreparedSearch
from .state import ChangedError, State

if TYPE_CHECKING:
    from .engine import Engine

F32 = NDArray[np.float32]


class Searcher:
    """A search with fixed settings and filter, for many vectors, one at a time; `Collection.searcher` makes it.

    It finds what `Collection.search` and `Collection.search_ids` find with the same keywords at that moment: in what
    was committed before the call, here or by other processes, with the collection's settings as they are then. It
    raises the same errors. Many threads may use one at once. Its collection stays open as long as it is held.

    >>> import bqstore, numpy as np
    >>> col = bqstore.open()
    >>> ids = col.add(np.eye(4), ids=["a", "b", "c", "d"], metadatas=[{"year": 2020 + i} for i in range(4)])
    >>> recent = col.searcher(k=2, filter={"year": {"$gte": 2021}})
    >>> [hit.id for hit in recent.search([0, 1, 0, 0])], recent.search_ids([0, 0, 0, 1])[0].tolist()
    (['b', 'c'], [['d', 'b']])
    """

    __slots__ = ("_collection", "_engine", "_keywords", "_settled", "_tree")

    def __init__(
        self,
        collection: Any,
        engine: "Engine",
        keywords: Mapping[str, Any],
        asked: tuple[Any, ...],
        tree: Tree | None,
    ) -> None:
        self._collection, self._engine = collection, engine  # a collection that nobody holds is closed
        self._keywords, self._tree = _copied(dict(keywords)), tree  # a caller may go on to change its filter
        self._settled = self._settle(asked)

    @traced("search")
    def search(self, vector: ArrayLike) -> list[Hit]:
        """Find the documents nearest to a vector, array-like (dim,), as `Collection.search`.

        >>> import bqstore
        >>> with bqstore.open() as col:
        ...     ids = col.add([[1.0, 0.0], [0.0, 1.0]], ids=["a", "b"], texts=["one", "two"])
        ...     col.searcher(k=1).search([1.0, 0.0])
        [Hit(id='a', score=1.0, text='one', metadata={}, vector=None)]
        """
        engine = self._engine
        state = engine.entered()
        query = queries_in(vector, state.head.dim, state.head.settings["distance"], True)
        state, way = self._prepared(state)
        try:
            return search.found(engine, state, way, query, way.options, False)[0]
        except ChangedError:
            return search.hits(engine, query, self._tree, way.options)[0]

    @traced("search")
    def search_ids(self, vector: ArrayLike) -> tuple[NDArray[np.object_], F32]:
        """Find ids and scores only, of one vector, as `Collection.search_ids`: no document is read.

        Returns
        -------
        ids : object (1, k)             str, padded with None
        scores : float32 (1, k)         padded with NaN

        >>> import bqstore
        >>> with bqstore.open() as col:
        ...     ids = col.add([[1.0, 0.0], [0.0, 1.0]], ids=["a", "b"])
        ...     ids, scores = col.searcher(k=1).search_ids([1.0, 0.0])
        >>> ids.tolist(), scores.tolist()
        ([['a']], [[1.0]])
        """
        engine = self._engine
        state = engine.entered()
        query = queries_in(vector, state.head.dim, state.head.settings["distance"], True)
        if state.ids is None:
            state = engine.acceptor.with_ids()
        state, way = self._prepared(state)
        found = search.ids_in(engine, state, way, query)
        return found or search.ids(engine, engine.publisher.current(), query, self._tree, way.options)

    def _prepared(self, state: State) -> tuple[State, PreparedSearch]:
        """The state, or a newer one that has what the filter needs, and its search: states remember it.

        So a searcher that is not used keeps no old state in memory.
        """
        settled = self._settled
        if settled[0] is not self._engine.settings_seen:
            self._settled = settled = self._settle(settled[1])
        _, _, options, key = settled
        known: PreparedSearch | None = state.prepared.get(key)
        if known is not None:
            return state, known
        state, way = search.prepared(self._engine, state, self._tree, options)
        if not isinstance(self._tree, Predicate):
            search.remember(state, key, way)
        return state, way

    def _settle(self, asked: tuple[Any, ...]) -> tuple[object, tuple[Any, ...], Options, object]:
        """The settings with the collection's defaults as they are now, and the key of searches with them in states."""
        seen = self._engine.settings_seen
        return seen, asked, self._engine.options(*asked), object()

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._collection, self._keywords)

    def __repr__(self) -> str:
        return f"<Searcher {self._keywords} of {self._collection!r}>"


def _copied(given: Any) -> Any:
    """Dicts and lists as they are now, in all depths."""
    if isinstance(given, dict):
        return {key: _copied(value) for key, value in given.items()}
    return [_copied(value) for value in given] if isinstance(given, list) else given


def _again(collection: Any, keywords: Mapping[str, Any]) -> Searcher:
    """The searcher of a collection that was opened again, in another process say."""
    made: Searcher = collection.searcher(**keywords)
    return made
