"""One committed state of a collection, as searches see it: immutable, published by one assignment.

`advance` makes the next state from the last one and what was committed since. The writer calls it after its own commit,
a reader after another process's, and opening calls it with no last state. Knows the store and the arrays; knows no
settings of a search.
"""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import index
from ..bitmap import Bits, Matches, everything, to_bitmap
from ..clock import EXPIRES_AT_KEY
from ..errors import RESTORE, CorruptionError
from ..index.search import METRICS, NO_RECORDS, Searchable
from ..kernels.metadata import INT
from ..metadata import evaluate
from ..metadata.columns import Column, field_of
from ..metadata.dictionary import NOTHING
from ..metadata.filter_tree import Field, OneOf, Tree
from ..metadata.id_column import Ids
from ..metadata.to_json import ID_KEY, REF_DOC_ID_KEY
from ..storage import Store
from ..storage.files import RecordFile
from ..storage.format import FORMS
from ..storage.head import Head, coding_of
from ..storage.store import SupersededError
from .recent_rows import RecentRows
from .stored_settings import check_stored

NO_RIDS = np.zeros(0, np.int64)
NEVER = np.iinfo(np.int64).max  # of `State.times`
Mask = NDArray[np.bool_]
_decode = json.JSONDecoder().raw_decode  # json.loads spends half its time on white space


class ChangedError(Exception):
    """A document changed between the search and the reading of its row; `Publisher.whole` looks again."""


@dataclass(frozen=True)
class State:
    """The arrays of one commit.

    Parameters
    ----------
    rids : int64 (at least n,)      rid of each ordinal, ascending
    live : bool (n,)                False where the row was deleted or replaced
    data : Searchable or None       None while there are no vectors
    vectors : RecordFile or None    the file that ``data.records`` is a view of
    ids, columns                    loaded when first needed, then extended with every commit
    recent : RecentRows             what searches have read of rows that are the same in this state
    prepared                        kept by `search`: prepared searches of this state
    matched                         kept by `accept`: what filters match
    plans                           kept by `prepared_search`: plans by how many documents are accepted
    expired : int                   expired rows, which ``live`` and the head's count leave out; 0 in a published state,
                                    see `Publisher.seen`
    """

    head: Head
    rids: NDArray[np.int64]
    live: Mask
    data: Searchable | None = None
    vectors: RecordFile | None = None
    ids: Ids | None = None
    columns: dict[str, Column] = field(default_factory=dict)
    recent: RecentRows = field(default_factory=RecentRows, repr=False, compare=False)
    expired: int = 0
    prepared: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    matched: dict[Tree, Matches] = field(default_factory=dict, init=False, repr=False, compare=False)
    plans: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def n(self) -> int:
        """Slots: records in the flat files, deleted ones included."""
        return self.head.n_slots

    @cached_property
    def live_bits(self) -> NDArray[np.uint64]:
        """``live`` as a bitmap, made once."""
        return to_bitmap(self.live)

    @cached_property
    def expires(self) -> bool:
        """Whether there may be documents that expire."""
        return "expires" in self.head.settings

    @cached_property
    def times(self) -> NDArray[np.int64]:
        """When each document expires, int64 (n,), or `NEVER`; the column must be loaded."""
        column = self.columns[EXPIRES_AT_KEY]
        entries = column.dictionary.entries
        times: NDArray[np.int64] = np.where(entries.kinds == INT, entries.values, NEVER)[column.codes]
        return times

    def ordinals(self, rids: Iterable[int]) -> NDArray[np.int64]:
        """The ordinals of those rids that this state has."""
        wanted = np.fromiter(rids, np.int64)
        known = self.rids[: self.n]
        places = np.searchsorted(known, wanted)
        inside = places < self.n
        places, wanted = places[inside], wanted[inside]
        found: NDArray[np.int64] = places[known[places] == wanted]
        return found


def advance(store: Store, old: State | None) -> State:
    """The state of the store's last commit, made from an older one of the same generation where there is one.

    Raises CorruptionError where new records do not agree with their checksums, or rows with records.
    """
    with store.consistent():
        head = store.reread()
        if old is not None and old.head == head:
            return old
        if old is None or old.head.settings is not head.settings:
            check_stored(head.settings, store.catalogue.name)
        if old is None or old.head.generation != head.generation or old.n > head.n_slots:
            keys = [] if old is None else list(old.columns)
            fresh = Head(head.store_id, seq=-1, meta_seq=-1, generation=head.generation, next_rid=-1)
            old = State(fresh, NO_RIDS, np.zeros(0, bool), None, None, old.ids and Ids() if old else None)
            old.columns.update((key, Column(key)) for key in keys)
        rids, live, data = _grown(store, old, head)
        dead = store.dead_since(old.head.seq)
        recent = old.recent if old.head.meta_seq == head.meta_seq else RecentRows()
        state = State(head, rids, live, data, store.vectors, recent=recent)
        live[state.ordinals(dead)] = False
        if np.count_nonzero(live) != head.n_live:
            raise CorruptionError(
                f"{store.catalogue.name} counts {head.n_live:,} rows, its list of deleted ones differs"
            )
        if old.ids is not None:
            state = replace(state, ids=_ids(store, state, old.ids))
        return replace(state, columns=_columns(store, state, old.columns, old.head.seq)) if old.columns else state


def first(store: Store) -> State:
    """The state of a store that was just opened. Reads and checks every code."""
    while True:
        with suppress(SupersededError):
            return advance(store, None)


def _grown(store: Store, old: State, head: Head) -> tuple[NDArray[np.int64], Mask, Searchable | None]:
    """The arrays with the new slots appended; ``live`` is a copy."""
    count = head.n_slots - old.n
    live = np.ones(head.n_slots, bool)
    live[: old.n] = old.live
    if head.n_slots == 0 or head.dim is None:
        return NO_RIDS, live, None
    settings = head.settings
    form, metric = FORMS.get(settings["originals"], 0), METRICS[settings["distance"]]
    if old.data is not None:
        quantizer, words = old.data.quantizer, old.data.words
    else:
        quantizer = index.Quantizer.restore(coding_of(settings), store.parameters, head.dim, metric)
        words = index.new_codes(quantizer.words)
    rids = old.rids
    if count:
        before = len(store.flat.remade)
        new_rids, codes = store.read_codes(old.n, count, quantizer.encode)
        if len(store.flat.remade) > before:
            warnings.warn(
                f"{len(store.flat.remade) - before:,} codes in {store.codes_name} were damaged, and were made anew "
                "from the originals; verify() tells whether more is damaged",
                RuntimeWarning,
                stacklevel=2,
            )
        last = int(rids[old.n - 1]) if old.n else -1
        if new_rids[0] <= last or new_rids[-1] >= head.next_rid or (np.diff(new_rids) <= 0).any():
            raise CorruptionError(f"the records of {store.codes_name} are out of order; {RESTORE}")
        if head.n_slots > len(rids):
            rids = np.empty(max(head.n_slots, old.n + old.n // 2), np.int64)
            rids[: old.n] = old.rids[: old.n]
        rids[old.n : head.n_slots] = new_rids
        words = index.append_codes(words, old.n, codes)
    records = store.vectors.view(head.n_slots) if store.vectors else NO_RECORDS
    if old.data is None:
        return rids, live, Searchable(words, records, head.n_slots, head.dim, form, metric, quantizer)
    # the graph of the same generation covers the first slots
    return rids, live, replace(old.data, words=words, records=records, n=head.n_slots)


def _ids(store: Store, state: State, old: Ids) -> Ids:
    """The ids of all ordinals of the state; ordinals that died before they were read have an empty one."""
    for at, places, rows in _portions(store, state, old.n, "id"):
        old = old.extended(_spread([id_ for _, id_ in rows], [place - at for place in places], ""))
    return old.extended([""] * (state.n - old.n))


def _columns(store: Store, state: State, columns: Mapping[str, Column], seq: int) -> dict[str, Column]:
    """Metadata columns as of commit ``seq``, brought up to the state: first rows changed in place, then new ones.

    Metadata of a row is decoded once for all columns of the same length.
    """
    out: dict[str, Column] = {}
    for name in ("ref_doc_id", "metadata"):
        some = [column for key, column in columns.items() if (key == REF_DOC_ID_KEY) == (name == "ref_doc_id")]
        for n in sorted({column.n for column in some}):
            behind = [column for column in some if column.n == n]
            keys = [column.key for column in behind]
            start = int(state.rids[n]) if n < state.n else state.head.next_rid
            for portion in store.column_changed(seq, name) if state.head.meta_seq > seq and n else ():
                changed = [row for row in portion if row[0] < start]
                if changed:
                    values, places = _values(keys, name, changed), _places(store, state, changed)
                    behind = [column.replaced(places, found) for column, found in zip(behind, values, strict=True)]
            for at, places, rows in _portions(store, state, n, name):
                offsets = [place - at for place in places]
                given = [_spread(found, offsets, NOTHING) for found in _values(keys, name, rows)]
                behind = [column.extended(values) for column, values in zip(behind, given, strict=True)]
            for column in behind:
                out[column.key] = column.extended([NOTHING] * (state.n - column.n))
    return {key: out[key] for key in columns}


def _portions(
    store: Store, state: State, n: int, column: str
) -> Iterator[tuple[int, list[int], list[tuple[int, Any]]]]:
    """The rows from ordinal n on in portions: where each begins, its ordinals, and (rid, value).

    Raises CorruptionError at the end unless they are those of all live ordinals.
    """
    at, count = n, 0
    for rows in store.column_since(int(state.rids[n]), column) if n < state.n else ():
        places = _places(store, state, rows)
        if not state.live[places].all():
            raise _lost_rows(store)
        yield at, places, rows
        at, count = places[-1] + 1, count + len(rows)
    if count != np.count_nonzero(state.live[n:]):
        raise _lost_rows(store)


def _spread(values: list[Any], offsets: list[int], nothing: Any) -> list[Any]:
    """Values at their offsets, which ascend, and ``nothing`` between them: deleted ordinals have no row."""
    if offsets[-1] + 1 == len(values):
        return values
    every = [nothing] * (offsets[-1] + 1)
    for offset, value in zip(offsets, values, strict=True):
        every[offset] = value
    return every


def _values(keys: list[str], name: str, rows: list[tuple[int, Any]]) -> list[list[Any]]:
    """The values of fields in rows: one list per key."""
    if name == "ref_doc_id":
        return [[NOTHING if text is None else text for _, text in rows] for _ in keys]
    out: list[list[Any]] = [[] for _ in keys]
    for _, text in rows:
        metadata = _decode(text)[0]
        for key, values in zip(keys, out, strict=True):
            values.append(metadata[key] if key in metadata else field_of(metadata, key))
    return out


def _places(store: Store, state: State, rows: list[tuple[int, str]]) -> list[int]:
    """The ordinals of rows, all of which the state must have."""
    places: list[int] = state.ordinals(rid for rid, _ in rows).tolist()
    if len(places) != len(rows):
        raise CorruptionError(f"{store.catalogue.name} holds rows that have no vector; {RESTORE}")
    return places


def _lost_rows(store: Store) -> CorruptionError:
    return CorruptionError(f"{store.catalogue.name} has lost rows that have vectors; {RESTORE}")


def with_columns(store: Store, state: State, keys: Iterable[str]) -> State:
    """The state with these columns loaded; the store must stand at the state's commit."""
    missing = [key for key in keys if key not in state.columns and key != ID_KEY]
    if not missing:
        return state
    columns = _columns(store, state, {key: Column(key) for key in missing}, state.head.seq)
    return replace(state, columns={**state.columns, **columns})


def with_ids(store: Store, state: State) -> State:
    """The state with all its ids loaded; the store must stand at the state's commit."""
    if state.ids is not None and state.ids.n == state.n:
        return state
    return replace(state, ids=_ids(store, state, state.ids or Ids()))


def carried(store: Store, state: State, old: State | None) -> State:
    """The state with the ids and columns that an older one has loaded; the store must stand at its commit."""
    if old is None or old.head.generation != state.head.generation or old.n > state.n:
        return state
    ids = state.ids if state.ids is not None or old.ids is None else _ids(store, state, old.ids)
    missing = {key: column for key, column in old.columns.items() if key not in state.columns}
    grown = _columns(store, state, missing, old.head.seq)
    return replace(state, ids=ids, columns={**state.columns, **grown})


def with_restored(store: Store, state: State, columns: Mapping[str, Column], seq: int) -> State:
    """The state with columns that a snapshot kept at commit ``seq``; the store must stand at the state's commit."""
    new = {key: column for key, column in columns.items() if key not in state.columns}
    return replace(state, columns={**state.columns, **_columns(store, state, new, seq)})


def matching(store: Store, state: State, tree: Tree) -> Matches:
    """What a filter matches in this state, deleted ordinals included; the store must stand at its commit."""

    def by_id(field: Field) -> Matches:
        if not isinstance(field.test, OneOf):
            return Matches(state.n, everything(state.n))  # every document has an id
        wanted = [operand[1] for operand in field.test.operands if operand[0] == "string"]
        rids = store.rids_by_id(wanted).values() if field.key == ID_KEY else store.rids_by_ref(wanted)
        return Matches(state.n, rows=np.unique(state.ordinals(rids)).astype(np.int32))

    def bits(field: Field) -> Bits:
        column = state.columns.get(field.key)
        return by_id(field).bits if column is None else evaluate.matching(column, field.test)

    if isinstance(tree, Field):
        column = state.columns.get(tree.key)
        return by_id(tree) if column is None else evaluate.matches(column, tree.test)
    return Matches(state.n, evaluate.evaluate(tree, state.n, bits))
