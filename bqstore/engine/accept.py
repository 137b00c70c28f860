"""Which documents a search may find: live AND filter, as a bitmap; ids and columns are loaded when first asked for.

Columns are loaded on a read snapshot beside a writer, then brought up to what the writer has published meanwhile.
"""

import inspect
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from ..bitmap import Matches
from ..clock import EXPIRES_AT_KEY
from ..errors import InvalidInputError
from ..metadata.columns import Column
from ..metadata.documents import record_of
from ..metadata.filter_tree import Field, OneOf, Predicate, Tree, fields_of
from ..metadata.to_json import ID_KEY, REF_DOC_ID_KEY
from ..storage.reading import Block
from . import fetch
from .lifecycle import Lifecycle
from .publisher import Publisher
from .state import State, carried, matching, with_columns, with_ids
from .zero_matches import ZeroMatches

T = TypeVar("T")
_KEPT, _KEPT_BYTES = 256, 64 << 20  # filters whose matches a state remembers, and bytes of them
_COLUMNS = 256  # metadata fields whose columns are kept
_LOOKED_UP = 100  # source documents in SQLite's index; more are found in a column
_AT_ONCE = 1000  # documents read at a time when the filter is a function
_PATIENCE, _MOMENT = 50, 0.001  # tries, and seconds between them, to load columns beside a busy writer


class Acceptor:
    """Answers filters for the published states of one collection."""

    def __init__(self, publisher: Publisher, lifecycle: Lifecycle) -> None:
        self._publisher, self._store, self._life = publisher, publisher.store, lifecycle
        self._zero_matches = ZeroMatches()

    def accepted(self, state: State, tree: Tree | None) -> tuple[State, Matches]:
        """live AND filter; the state may be a newer one, with the columns it needs."""
        if tree is None:
            return state, Matches(state.n, state.live_bits)
        if isinstance(tree, Predicate):
            function, within = tree.function, tree.within

            def asked(state: State) -> tuple[State, Matches]:
                state, among = self.accepted(state, within)
                return state, self.called(state, function, among)

            if self._life.is_changing():  # inside a delete: the store stands at the last commit, and nobody else writes
                return asked(state)
            return self._publisher.whole(asked)
        known = state.matched.get(tree)
        if known is not None:
            return state, known
        missing, ids = [field for field in fields_of(tree) if field.key not in state.columns], state.ids is not None
        keys = {field.key for field in missing if not _has_index(field)}

        def grow(state: State) -> State:
            return with_columns(self._store, with_ids(self._store, state) if ids else state, keys)

        def answer(state: State) -> tuple[State, Matches]:
            return state, matching(self._store, state, tree)

        state, found = self._loaded(grow, answer) if missing else answer(state)
        if state.head.n_live < state.n:
            found = found.among(state.live, state.live_bits)
        if len(state.matched) >= min(_KEPT, _KEPT_BYTES // (state.n // 8 + 1)):
            state.matched.clear()
        state.matched[tree] = found
        if not found.count:
            self._zero_matches.tell(self._store, state, tree)
        return state, found

    def tell_of_order(self, state: State, key: str) -> None:
        """Log that no document has the field that a listing is ordered by, if so."""
        self._zero_matches.tell_of_order(self._store, state, key)

    def with_ids(self) -> State:
        """A state that has its ids in memory."""
        state = self._publisher.current()
        if state.ids is not None:
            return state
        return self._loaded(lambda state: with_ids(self._store, state), lambda state: state)

    def with_times(self) -> State:
        """The state as seen by the clock, with the column that it goes by."""
        return self._loaded(lambda state: state, lambda state: state)

    def load_columns(self, keys: Iterable[str]) -> None:
        """Load the columns of metadata fields, so that the first filter on them need not."""
        wanted = frozenset(keys)
        if wanted - self._publisher.current().columns.keys():
            self._loaded(lambda state: with_columns(self._store, state, wanted), lambda state: None)

    def called(self, state: State, function: Callable[[Any], object], among: Matches) -> Matches:
        """The documents among some that a filter function accepts. ChangedError if one is not as the state knows it."""
        accepted, live = [], among.ordinals()
        for at in range(0, len(live), _AT_ONCE):
            for ordinal, row in fetch.rows(self._store, state, live[at : at + _AT_ONCE]).items():
                answer = function(record_of(row))
                if inspect.isawaitable(answer):  # a coroutine is truthy, whatever it would return
                    raise InvalidInputError("filter is an async function; expected one that returns a boolean at once")
                if answer:
                    accepted.append(ordinal)
        return Matches(state.n, rows=np.array(accepted, np.int32))

    def _loaded(self, grow_more: Callable[[State], State], answer_seen: Callable[[State], T]) -> T:
        """Load ids or columns into a state, the store standing at its commit, and return the answer from it.

        A writer goes on meanwhile: what was loaded is brought up to the state that it has published, and becomes a part
        of that. The answer is from the state as `Publisher.seen` shows it.
        """
        publisher = self._publisher

        def grow(state: State) -> State:
            return grow_more(with_columns(self._store, state, (EXPIRES_AT_KEY,)) if state.expires else state)

        def answer(state: State) -> T:
            return answer_seen(publisher.seen(state))

        if self._store.read_only:

            def load(state: State) -> T:
                grown = grow(state)
                found = answer(grown)
                new = grown.columns.keys() - state.columns.keys()
                publisher.amend(lambda _: replace(grown, columns=_limited(grown.columns, new)))
                return found

            return publisher.at_one_commit(load)
        last: State | None = None  # with the columns loaded here only: who follows commits extends the others
        for _ in range(_PATIENCE):
            with Block() as block, self._store.snapshot(block) as seq:
                state = publisher.state
                current = state.head.seq == seq
                if current:
                    grown = grow(carried(self._store, state, last))
                    found = answer(grown)
                    own = {key: column for key, column in grown.columns.items() if key not in state.columns}
                    last = replace(grown, columns=own, ids=None if grown.ids is state.ids else grown.ids)
            if not current:  # a commit is being published, or was made by another process
                publisher.look()
                time.sleep(_MOMENT)
            elif last is not None and self._publish(last):
                return found
        return found if last is not None else publisher.at_one_commit(lambda state: answer(grow(state)))

    def _publish(self, loaded: State) -> bool:
        """Add what a state has loaded to the published one; False if that is of a later commit."""

        def amended(state: State) -> State:
            if state.head.seq != loaded.head.seq:
                return state
            columns = _limited({**loaded.columns, **state.columns}, loaded.columns.keys())
            return replace(state, ids=loaded.ids if state.ids is None else state.ids, columns=columns)

        return self._publisher.amend(amended).head.seq == loaded.head.seq


def _has_index(field: Field) -> bool:
    """Whether an index of SQLite answers a test, so that no column is needed: of ids, and of few source documents."""
    some = isinstance(field.test, OneOf) and len(field.test.operands) <= _LOOKED_UP
    return field.key == ID_KEY or (field.key == REF_DOC_ID_KEY and some)


def _limited(columns: dict[str, Column], new: Iterable[str]) -> dict[str, Column]:
    """At most `_COLUMNS` of the columns: those of fields that no document has are dropped first, then the oldest.

    Filters may come from people, or from models: without a bound, every misspelt key would keep a column.
    """
    surplus = len(columns) - _COLUMNS
    if surplus <= 0:
        return columns
    fresh = set(new)
    fresh.add(EXPIRES_AT_KEY)  # every search asks for it
    order = sorted(columns, key=lambda key: (key in fresh, not columns[key].is_blank))  # stable: the oldest first
    gone = set(order[:surplus])
    return {key: column for key, column in columns.items() if key not in gone}
