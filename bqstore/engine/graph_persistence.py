"""The graph, the ids and the metadata columns on disk: when a snapshot is due, how it is taken and restored.

A snapshot is derived state. One that is damaged or refused by the disk is a warning, never an error. There may be none,
where a program has ended before the kernels were compiled: its successor links in the background.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BqstoreError
from ..index import MISSED, HnswGraph
from ..metadata.columns import Column, field_of
from ..metadata.dictionary import NOTHING
from ..metadata.id_column import Ids
from ..metadata.to_json import ID_KEY, REF_DOC_ID_KEY
from ..metadata.values import typed
from ..storage import Snapshot, Store
from .graph_builder import GraphBuilder, long_tail
from .state import State, with_ids, with_restored

_COLUMN = "column"
# At opening, so many documents are compared with their rows, which takes some milliseconds: fewer where they have many
# fields, so that about `_VALUES` values are compared.
_COMPARED = range(32, 129)
_VALUES = 2048
_UNFIT = (ValueError, LookupError, TypeError, OverflowError, RecursionError)  # arrays that are not what they should be


class GraphPersistence:
    """What the last snapshot of a collection holds; for the thread that holds the writer's lock."""

    def __init__(self, store: Store, builder: GraphBuilder) -> None:
        self._store, self._builder = store, builder
        self._saved = (-1, 0)  # generation and slots of the last snapshot
        self._told = -1  # generation of the last snapshot whose graph has walks that miss too many
        self._tried = (0, 0)  # slots and commit of the newest snapshot when they were last looked at
        self._kept: frozenset[str] = frozenset()  # metadata fields whose columns are in it
        self._refused = (-1, 0)  # of the last one that was not taken, as the disk was full or another process took one

    def restore(self, state: State) -> State:
        """The state with the graph, ids and columns of the newest snapshot; warns if a snapshot cannot be used."""
        self._tried = self._store.newest_snapshot()
        snapshot, problem = self._store.read_snapshot()
        if snapshot is not None and snapshot.n > self._builder.linked(state) and state.data is not None:
            try:
                graph = self._graph_in(snapshot, state)
            except _UNFIT as error:
                problem = f"the snapshot does not hold a graph that can be walked ({error}); it will be rebuilt"
            else:
                ids, columns, problem = _ids_and_columns(snapshot)
                with self._store.consistent():
                    if not _agrees_with_rows(self._store, state, snapshot, ids, columns):
                        ids, columns = None, {}
                        problem = (
                            "the snapshot's ids or columns are not those of the rows; they will be read from there"
                        )
                    known = state.head.settings.get("missed_by_walks", 0) if graph.missed > MISSED else 0
                    self._builder.adopt(graph, state.head.generation, known)
                    # one that is not whole is written again
                    self._saved = (state.head.generation, 0 if problem else snapshot.n)
                    self._kept, self._told = frozenset(columns), self._telling(state)
                    if state.ids is None:
                        state = with_ids(self._store, replace(state, ids=ids))
                    state = with_restored(self._store, state, columns, snapshot.seq)
        if problem is not None:
            warnings.warn(f"{problem}. Nothing is lost, and there is nothing to do", RuntimeWarning, stacklevel=2)
        return self._builder.attached(state)

    def is_newer_there(self, n: int) -> bool:
        """Whether another process has kept a snapshot of more than n slots since the last look at them."""
        newest = (0, 0) if self._store.is_alone else self._store.newest_snapshot()
        return newest[0] > n and newest != self._tried

    def _graph_in(self, snapshot: Snapshot, state: State) -> HnswGraph:
        """The graph that a snapshot holds; ValueError or KeyError if it is not whole. Its pages are given back."""
        assert state.data is not None
        numbers, arrays, graph = snapshot.numbers, snapshot.arrays, self._builder.empty()
        graph.restore(numbers, arrays, snapshot.n)
        if "missed" not in numbers and state.data.quantizer.linked_otherwise_before:
            raise ValueError("an older version has linked it by measures that leave nodes out of reach")
        if "alike" not in numbers:
            graph.count(state.data.words, state.data.quantizer)
        graph.sample(state.data.words, state.data.quantizer.arrays.width)
        snapshot.release([name for name in arrays if name in HnswGraph.ARRAYS])
        return graph

    def is_wanted(self, state: State, least: int) -> bool:
        """Whether a snapshot would hold ``least`` slots more than the last, or the column of a field named since."""
        if self._store.folder is None:
            return False
        new = not self._named(state) <= self._kept
        return self._unsaved(state) >= least or (self._builder.linked(state) > 0 and new)

    def _named(self, state: State) -> set[str]:
        """Metadata fields that a snapshot of the state would keep the columns of."""
        return {key for key, column in state.columns.items() if not column.is_blank}

    def is_due(self, state: State) -> bool:
        """Whether much is linked that the last snapshot lacks; after one that failed, only when much more is linked.

        Due is also a snapshot that says that walks miss too many, where no originals are kept: whoever links the codes
        again after a crash could not find that out.
        """
        generation, n = self._refused
        tried = n if generation == state.head.generation else 0
        news = state.head.settings["originals"] == "none" and self._telling(state) not in (-1, self._told)
        least = 1 if news and not tried else long_tail(state.n)
        return min(self._unsaved(state), self._builder.linked(state) - tried) >= least

    def _telling(self, state: State) -> int:
        """The generation of a graph whose walks miss too many; else -1."""
        graph = self._builder.graph
        return -1 if graph is None or graph.missed <= MISSED else state.head.generation

    def _unsaved(self, state: State) -> int:
        """Slots that are linked, and not in the last snapshot."""
        generation, n = self._saved
        return self._builder.linked(state) - (n if generation == state.head.generation else 0)

    def save(self, state: State) -> None:
        """Keep the graph, the ids and the metadata columns on disk; a failure is a warning, as nothing depends on it.

        The state must have its ids.
        """
        n, graph = self._builder.linked(state), self._builder.graph
        if graph is None or n == 0:
            return
        if self.is_newer_there(n - 1) and self._named(state) <= self._kept:
            self._saved = (state.head.generation, n)  # another process was faster
            return
        assert state.ids is not None
        numbers, arrays = graph.parts()
        arrays["id_bytes"], arrays["id_ends"] = state.ids.parts(n)
        arrays |= _parts_of(state.columns, n)
        try:
            size = self._store.write_snapshot(n, state.head.seq, numbers, arrays, generation=state.head.generation)
        except BqstoreError as error:
            self._store.check_place()
            self._refused = (state.head.generation, n)
            warnings.warn(
                f"no snapshot of the graph was kept: {error}. Nothing is lost, and the next opening takes longer; make "
                "room, and flush() keeps one",
                RuntimeWarning,
                stacklevel=2,
            )
        else:
            if size:
                self._saved, self._kept = (state.head.generation, n), frozenset(state.columns)
                self._told = self._telling(state)
            else:
                self._refused = (state.head.generation, n)


def _parts_of(columns: Mapping[str, Column], n: int) -> dict[str, NDArray[Any]]:
    """The columns of the first n ordinals as arrays: their names as JSON, and what `Column.parts` gives of each."""
    kept = {key: column for key, column in columns.items() if not column.is_blank}
    names = np.frombuffer(json.dumps(list(kept)).encode(), np.uint8)
    arrays = {f"{_COLUMN}s": names}
    for i, column in enumerate(kept.values()):
        arrays |= {f"{_COLUMN}_{i}_{name}": array for name, array in column.parts(n).items()}
    return arrays


def _ids_and_columns(snapshot: Snapshot) -> tuple[Ids | None, dict[str, Column], str | None]:
    """The ids and columns of a snapshot, as far as they are whole, and what is wrong with the others.

    What is not whole is read from the rows when it is needed. The pages of the snapshot are given back.
    """
    arrays, problem = snapshot.arrays, None
    ids, columns = None, {}
    try:
        ids = Ids.restored(arrays["id_bytes"], arrays["id_ends"], snapshot.n)
        snapshot.release(["id_bytes", "id_ends"])
    except _UNFIT as error:
        problem = f"the snapshot does not hold the ids ({error}); they will be read from the rows"
    try:
        for i, key in enumerate(_names_in(arrays)):
            columns[key] = Column.restored(key, _Prefixed(arrays, f"{_COLUMN}_{i}_"), snapshot.n)
    except _UNFIT as error:
        columns = {}
        problem = f"the snapshot does not hold the metadata columns ({error}); they will be read from the rows"
    snapshot.release([name for name in arrays if name.startswith(_COLUMN)])
    return ids, columns, problem


def _agrees_with_rows(
    store: Store, state: State, snapshot: Snapshot, ids: Ids | None, columns: Mapping[str, Column]
) -> bool:
    """Whether a snapshot's ids and columns are those of the rows; true if the rows cannot be read.

    Of a small collection all are compared, of a larger one a random sample.
    """
    ordinals = np.flatnonzero(state.live[: snapshot.n])
    most = max(_COMPARED.start, min(_COMPARED.stop - 1, _VALUES // max(1, len(columns))))
    if len(ordinals) > most:
        ordinals = np.sort(np.random.default_rng().choice(ordinals, most, replace=False))
    try:
        rows = {row.rid: row for row in store.rows("rid", state.rids[ordinals].tolist())}
    except BqstoreError:  # who needs the rows gets the error
        return True
    kept = [None] * len(ordinals) if ids is None else ids.take(ordinals.astype(np.int32))
    for ordinal, id_ in zip(ordinals.tolist(), kept, strict=True):
        row = rows.get(int(state.rids[ordinal]))
        if row is None:
            continue
        if ids is not None and id_ != row.id:
            return False
        metadata = json.loads(row.metadata)
        for key, column in columns.items() if row.seq <= snapshot.seq else ():
            value = row.ref_doc_id if key == REF_DOC_ID_KEY else field_of(metadata, key)
            missing = value is NOTHING or (key == REF_DOC_ID_KEY and value is None)
            code, entries = int(column.codes[ordinal]), column.dictionary.entries
            if (code == 0) != missing or (code and not entries.equals(code, typed(value))):
                return False
    return True


def _names_in(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """The fields whose columns are in a snapshot."""
    given = arrays.get(f"{_COLUMN}s")
    names = [] if given is None else json.loads(given.tobytes())  # None: of a version that kept none
    if not isinstance(names, list) or not all(isinstance(name, str) and name != ID_KEY for name in names):
        raise ValueError("the names of its fields are not a list of strings")
    return names


class _Prefixed(dict[str, Any]):
    """Some of the arrays of a snapshot, by the rest of their names."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], prefix: str) -> None:
        super().__init__((name[len(prefix) :], array) for name, array in arrays.items() if name.startswith(prefix))
