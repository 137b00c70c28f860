"""The graph of a collection: when it is linked, kept on disk, and found again. Floor 3.

The graph is derived: a lost one costs speed, never an answer, since what is not linked is scanned. It belongs to a
generation of the flat files and holds their first slots; the rest is the tail. A writer links what it adds before it
returns. After opening, a tail too long to be scanned in passing is linked in the background, in small batches, each
under the writer's lock. Knows states and the store; knows no settings of a search.
"""

import json
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .columns import Column
from .config import HnswConfig
from .errors import BqstoreError, ClosedError
from .ids import Ids
from .index import HnswGraph, Quantizer
from .progress import Progress
from .state import State, with_ids, with_restored
from .storage import Store

# Below this a scan is faster than any walk, and collections this small are made by the thousand: no graph at all.
WORTH = 2048
# A snapshot is taken when this many slots are not in the last one, or a part of all: the tail after a crash.
TAIL, TAIL_PART = 8192, 0.05
_COLUMN = "column"


def long_tail(n: int) -> int:
    """How many slots may wait for a link or a snapshot, of n."""
    return max(TAIL, int(n * TAIL_PART))


class Linking:
    """The graph that grows with the states of one collection.

    All methods but `attached` are for the thread that holds the writer's lock; in a reader, the follower's.
    """

    def __init__(self, store: Store, hnsw: HnswConfig, threads: int, executor: Callable[[], Executor]) -> None:
        self._store, self._hnsw = store, hnsw
        self._threads, self._executor = threads, weakly(executor)
        self._graph: HnswGraph | None = None
        self._generation = -1
        self._looked = False  # for a snapshot
        self._saved = (-1, 0)  # generation and slots of the last snapshot
        self._kept: frozenset[str] = frozenset()  # metadata fields whose columns are in it
        self._refused = (-1, 0)  # and of the last one that the disk did not take
        self._worker: threading.Thread | None = None
        self._stop = threading.Event()
        weakref.finalize(self, self._stop.set)  # also at the end of the process: no batch is begun then

    def attached(self, state: State) -> State:
        """The state with as much of the graph as there is."""
        if state.data is None:
            return state
        view, alike = None, 0
        if self._graph is not None and self._generation == state.head.generation and 0 < len(self._graph) <= state.n:
            view, alike = self._graph.view, self._graph.alike
        if state.data.graph is view:
            return state
        return replace(state, data=replace(state.data, graph=view, alike=alike))

    def linked(self, state: State) -> int:
        """Slots of a state that are in the graph."""
        return len(self._graph) if self._graph is not None and self._generation == state.head.generation else 0

    def link_batch(self, state: State) -> int:
        """Link the next of a state's slots; return how many are linked then. All of them where a graph is no use."""
        if state.data is None or state.n < WORTH:
            return state.n
        if self._graph is None or self._generation != state.head.generation:
            self._graph = HnswGraph(self._hnsw.m, self._hnsw.ef_construct)
            self._generation = state.head.generation
        data = state.data
        return _link_some(self._graph, data.words, data.quantizer, state.n, self._threads, self._executor)

    def link(self, state: State, publish: Callable[[], State]) -> None:
        """Link every slot, publishing after each batch."""
        done = self.linked(state)
        if done == state.n or state.n < WORTH:
            return
        before = done
        # a signal handler has called `close`, which waits for this write: the next opening goes on
        with suppress(ClosedError), Progress("linking", state.n - before) as progress:
            while done < state.n:
                done = self.link_batch(state)
                progress(done - before)
                state = publish()

    # ---- on disk

    def restore(self, state: State) -> State:
        """The state with the graph, ids and columns that the newest snapshot holds; a warning where it is no use."""
        snapshot, problem = self._store.read_snapshot()
        if snapshot is not None and snapshot.n > self.linked(state) and state.data is not None:
            numbers, arrays = snapshot.numbers, snapshot.arrays
            graph = HnswGraph(self._hnsw.m, self._hnsw.ef_construct)
            try:
                graph.restore(numbers, arrays, snapshot.n)
                if "alike" not in numbers:
                    graph.count(state.data.words, state.data.quantizer)
                snapshot.release([name for name in arrays if name in HnswGraph.ARRAYS])
                ids = Ids.restored(arrays["id_bytes"], arrays["id_ends"], snapshot.n)
                snapshot.release(["id_bytes", "id_ends"])
                columns = _columns_of(arrays, snapshot.n)
                snapshot.release([name for name in arrays if name.startswith(_COLUMN)])
            except (KeyError, ValueError) as error:
                problem = f"the snapshot does not hold a graph that can be walked ({error}); it will be rebuilt"
            else:
                self._graph, self._generation = graph, state.head.generation
                self._saved, self._kept = (state.head.generation, snapshot.n), frozenset(columns)
                with self._store.consistent():
                    if state.ids is None:
                        state = with_ids(self._store, replace(state, ids=ids))
                    state = with_restored(self._store, state, columns, snapshot.seq)
        where, opening, self._looked = self._store.folder, not self._looked, True
        # later than at opening it is on its way: a writer makes it after the commit
        if problem is None and snapshot is None and opening and where and state.n >= max(WORTH, long_tail(state.n)):
            problem = f"there is no snapshot of the graph in {where}; searches scan until it is rebuilt"
        if problem is not None:
            warnings.warn(problem, RuntimeWarning, stacklevel=2)
        return self.attached(state)

    def unsaved(self, state: State) -> int:
        """Slots that are linked, and not in the last snapshot."""
        generation, n = self._saved
        return self.linked(state) - (n if generation == state.head.generation else 0)

    def lacks(self, state: State) -> bool:
        """Whether the last snapshot has no column of a field that filters have named since."""
        named = {key for key, column in state.columns.items() if not column.is_blank}
        return self.linked(state) > 0 and not named <= self._kept

    def due(self, state: State) -> bool:
        """Whether much is linked that the last snapshot lacks; one that the disk refused is not tried at every add."""
        generation, n = self._refused
        tried = n if generation == state.head.generation else 0
        return min(self.unsaved(state), self.linked(state) - tried) >= long_tail(state.n)

    def save(self, state: State) -> None:
        """Keep the graph, the ids and the metadata columns on disk.

        A failure is a warning: nothing depends on it, and the next one may succeed.
        """
        n = self.linked(state)
        if self._graph is None or n == 0:
            return
        assert state.ids is not None, "loaded by the caller"
        numbers, arrays = self._graph.parts()
        arrays["id_bytes"], arrays["id_ends"] = state.ids.parts(n)
        arrays |= _parts_of(state.columns, n)
        try:
            self._store.write_snapshot(n, state.head.seq, numbers, arrays, generation=state.head.generation)
        except BqstoreError as error:
            self._refused = (state.head.generation, n)
            warnings.warn(f"no snapshot of the graph was kept: {error}", RuntimeWarning, stacklevel=2)
        else:
            self._saved, self._kept = (state.head.generation, n), frozenset(state.columns)

    def adopt(self, graph: HnswGraph | None, generation: int) -> None:
        """Go on with a graph that was made for a new generation."""
        self._graph, self._generation = graph, generation

    # ---- in the background

    def start(self, step: Callable[[], bool]) -> None:
        """Call ``step`` in a thread of its own until it says that nothing is left, or `stop`."""
        if self._worker is not None and self._worker.is_alive():
            return
        self._stop.clear()

        def work() -> None:
            try:
                while not self._stop.is_set() and step():
                    pass
            except BqstoreError:  # the collection was closed, or is damaged: who uses it is told so
                pass

        self._worker = threading.Thread(target=work, name="bqstore-linking", daemon=True)
        self._worker.start()

    @property
    def at_work(self) -> bool:
        """Whether the background thread goes on."""
        return self._worker is not None and self._worker.is_alive()

    def stop(self) -> None:
        """End the background thread, and wait for it; not under the lock that its steps take."""
        self._stop.set()
        worker = self._worker
        if worker is not None and worker is not threading.current_thread():
            worker.join()


def _parts_of(columns: Mapping[str, Column], n: int) -> dict[str, NDArray[Any]]:
    """The columns of the first n ordinals as arrays: their names as JSON, and what `Column.parts` gives of each."""
    kept = {key: column for key, column in columns.items() if not column.is_blank}
    names = np.frombuffer(json.dumps(list(kept)).encode(), np.uint8)
    arrays = {f"{_COLUMN}s": names}
    for i, column in enumerate(kept.values()):
        arrays |= {f"{_COLUMN}_{i}_{name}": array for name, array in column.parts(n).items()}
    return arrays


def _columns_of(arrays: Mapping[str, NDArray[Any]], n: int) -> dict[str, Column]:
    """The columns that `_parts_of` gave; ValueError or KeyError if they are not whole."""
    names = arrays.get(f"{_COLUMN}s")
    if names is None:  # of a version that kept none
        return {}
    return {
        key: Column.restored(key, _Prefixed(arrays, f"{_COLUMN}_{i}_"), n)
        for i, key in enumerate(json.loads(names.tobytes()))
    }


class _Prefixed(dict[str, Any]):
    """Some of the arrays of a snapshot, by the rest of their names."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], prefix: str) -> None:
        super().__init__((name[len(prefix) :], array) for name, array in arrays.items() if name.startswith(prefix))


def _link_some(
    graph: HnswGraph,
    words: NDArray[np.uint64],
    quantizer: Quantizer,
    stop: int,
    threads: int,
    executor: Callable[[], Executor],
) -> int:
    """Link the next batch; by this thread alone while the process ends, when pools of threads take no more work."""
    try:
        return graph.link(words, stop, threads, executor, quantizer)
    except RuntimeError as error:
        if "shutdown" not in str(error):
            raise
    return graph.link(words, stop, 1, executor, quantizer)


def weakly(executor: Callable[[], Executor]) -> Callable[[], Executor]:
    """A method of the object that owns this one, without keeping it: a circle would keep its files and its lock.

    A collection that is dropped without `close` gives them back at once, not when Python looks for circles.
    """
    method = weakref.WeakMethod(executor)

    def pool() -> Executor:
        bound = method()
        if bound is None:
            raise ClosedError("this collection was dropped; open it again")
        return bound()

    return pool


def graph_of(
    words: NDArray[np.uint64], quantizer: Quantizer, hnsw: HnswConfig, threads: int, executor: Callable[[], Executor]
) -> HnswGraph | None:
    """The graph of codes; None where there is no use for one."""
    if len(words) < WORTH:
        return None
    graph = HnswGraph(hnsw.m, hnsw.ef_construct)
    with Progress("linking", len(words)) as progress:
        while len(graph) < len(words):
            progress(_link_some(graph, words, quantizer, len(words), threads, executor))
    return graph
