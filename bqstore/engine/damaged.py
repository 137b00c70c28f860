"""Searches with ``allow_damaged=True``: documents that cannot be read are left out and named, one after the other.

Damage is found when a vector or row is read, that is when it is a candidate for the answer. The document is then
excluded and the search repeated, so that the k hits are the nearest of what is intact.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ..bitmap import Matches, to_bitmap
from ..errors import CorruptionError
from ..index import DamagedVectorError
from ..metadata.filter_tree import Predicate, Tree, fields_of
from ..results.hits import ExplainedHits, Hit, PartialHits
from ..storage import Store
from ..storage.reading import Block
from . import fetch, search
from .fetch import DamagedError
from .options import Options
from .prepared_search import PreparedSearch
from .state import State, matching, with_columns

if TYPE_CHECKING:
    from .engine import Engine

F32 = NDArray[np.float32]


def hits(engine: "Engine", queries: F32, tree: Tree | None, options: Options, explain: bool = False) -> list[list[Hit]]:
    """As `search.hits`, of what is intact; the lists have ``left_out``, see `PartialHits`."""
    bad: set[int] = set()

    def answer(state: State) -> list[list[Hit]]:
        way = PreparedSearch(state, _accepted(engine, state, tree, bad), options, filtered=True)
        try:
            return search.found(engine, state, way, queries, options, explain)
        except DamagedVectorError as error:
            raise fetch.damaged_documents(str(error), [int(state.rids[error.slot])]) from error

    while True:
        try:
            found = engine.publisher.whole(answer)
        except DamagedError as error:
            if error.rids <= bad:
                raise
            bad |= error.rids
        else:
            names = _names(engine, sorted(bad))
            return [_partial(each, names) for each in found]


def _partial(found: list[Hit], names: tuple[str | None, ...]) -> list[Hit]:
    out = found if isinstance(found, ExplainedHits) else PartialHits(found)
    out.left_out = names
    return out


def _names(engine: "Engine", rids: list[int]) -> tuple[str | None, ...]:
    """The ids of documents; None where the id is damaged, too."""
    known = dict(engine.store.intact_column(rids, "id"))
    return tuple(known.get(rid) for rid in rids)


def _accepted(engine: "Engine", state: State, tree: Tree | None, bad: set[int]) -> Matches:
    """live AND filter, without the documents that cannot be read. Those whose metadata cannot are added to ``bad``."""
    live = state.live.copy()
    live[state.ordinals(sorted(bad))] = False
    if tree is None:
        return Matches(state.n, to_bitmap(live))
    view = replace(state, live=live, columns={}, ids=None)
    if isinstance(tree, Predicate):
        among = _accepted(engine, state, tree.within, bad)
        return engine.acceptor.called(view, tree.function, among)
    try:
        of, found = engine.acceptor.accepted(state, tree)
        if of.head.seq == state.head.seq:
            return found.among(live, to_bitmap(live))
    except CorruptionError:  # metadata of a row cannot be read: whether it matches is not known
        pass
    with Block() as block, fetch.at_commit_of(engine.store, state, block):
        intact = _Intact(engine.store, state.rids[: state.n][live].tolist())
        readable = np.zeros(state.n, bool)
        readable[state.ordinals(rid for rid, _ in intact.rows)] = True
        bad.update(state.rids[: state.n][live & ~readable].tolist())
        store = cast(Store, intact)
        view = with_columns(store, replace(view, live=readable), {field.key for field in fields_of(tree)})
        return matching(engine.store, view, tree).among(readable, to_bitmap(readable))


class _Intact:
    """What `with_columns` reads of a store, without the rows that cannot be read."""

    def __init__(self, store: Store, rids: list[int]) -> None:
        self._store, self._rids, self.catalogue = store, rids, store.catalogue
        self.rows = store.intact_column(rids, "metadata")

    def column_since(self, rid: int, column: str) -> Iterator[list[tuple[int, Any]]]:
        found = self._store.intact_column([each for each in self._rids if each >= rid], column)
        if found:
            yield found
