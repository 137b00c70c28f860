"""When and how nodes are linked into the graph.

The graph is derived: without it searches are slower, and answer the same, since what is not linked is scanned. It
belongs to one generation of the flat files and holds their first slots; the rest is the tail. A write links what it has
added before it returns, unless the kernels are still being compiled. Then, and after opening, a long tail is linked in
the background, in small batches, each under the writer's lock. Knows states and codes; no files.
"""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .. import tracing
from ..config import HnswConfig
from ..errors import BqstoreError
from ..index import MISSED, HnswGraph, Originals, Quantizer, Workers, can_link, can_link_later, wait_for_kernels
from ..progress import Progress
from ..storage.head import Head
from .fetch import sound_ones
from .recent_vectors import RecentVectors, some_of
from .state import State

# Below this a scan is faster than any walk, and collections this small are made by the thousand: no graph at all.
SMALLEST_GRAPH = 2048
# At most so many slots, or this share of all, wait for a link or a snapshot; after a crash they are the tail.
TAIL, TAIL_PART = 8192, 0.05


def _stored_misses(head: Head) -> int:
    """How many of a thousand nearest codes walks missed, as it was last stored."""
    return int(head.settings.get("missed_by_walks", 0))


def long_tail(n: int) -> int:
    """How many slots may wait for a link or a snapshot, of n."""
    return max(TAIL, int(n * TAIL_PART))


class GraphBuilder:
    """The graph that grows with the states of one collection, and the thread that links in the background.

    `attached`, `lags`, `at_work` and `stop` are for any thread, `stop` without the lock. The others are for the thread
    that holds the writer's lock; in a reader, the follower's.
    """

    def __init__(self, hnsw: HnswConfig, workers: Workers) -> None:
        self._hnsw, self._workers = hnsw, workers
        self.graph: HnswGraph | None = None
        self._generation = -1
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._over = True  # the thread will link no more; set under the writer's lock, since `at_work` relies on it
        self.recent = RecentVectors()
        self._known = 0  # the stored number of misses, if this graph began with it or has stored it
        self._ends: deque[int] = deque()  # where each waiting write ends: so do batches, for one and the same graph

    def attached(self, state: State) -> State:
        """The state with as much of the graph as there is."""
        if state.data is None:
            return state
        view, alike, missed, narrow, times = None, 0, 0, 0, 1
        if (graph := self.graph) is not None and 0 < self.linked(state) <= state.n:
            view, alike, missed, narrow, times = graph.view, graph.alike, graph.missed, graph.narrow, graph.times
        if state.data.graph is view:
            return state
        data = replace(state.data, graph=view, alike=alike, missed=missed, narrow=narrow, times=times)
        return replace(state, data=data)

    def linked(self, state: State) -> int:
        """Slots of a state that are in the graph."""
        return len(self.graph) if self.graph is not None and self._generation == state.head.generation else 0

    def lags(self, state: State) -> bool:
        """Whether the tail is so long that linking in the background should begin; until then it is scanned."""
        linked = self.linked(state)
        long = state.n >= SMALLEST_GRAPH if linked == 0 else state.n - linked > long_tail(state.n)
        return long and not self.at_work

    def link_batch(self, state: State) -> int:
        """Link the next batch of a state's slots; return how many are linked then: all, if too few for a graph."""
        if state.data is None or state.n < SMALLEST_GRAPH:
            return state.n
        if self.graph is None or self._generation != state.head.generation:
            ends, self._ends = self._ends, deque()
            graph = self.empty()
            graph.begin_with(_stored_misses(state.head), 0)
            self.adopt(graph, state.head.generation, _stored_misses(state.head))
            self._ends = ends
        assert self.graph is not None
        while self._ends and self._ends[0] <= len(self.graph):
            self._ends.popleft()
        stop = min(self._ends[0], state.n) if self._ends else state.n
        originals, held = sound_ones(state.vectors), None
        if originals is None:
            held = self.recent.slots(self._generation)
            held = held[np.searchsorted(held, len(self.graph)) : np.searchsorted(held, stop)]
            originals, held = (self.recent.read, held) if len(held) else (None, None)
        with tracing.span("link", size=stop - len(self.graph)):
            done = self.graph.link(state.data.words, stop, self._workers, state.data.quantizer, originals, held)
        self.recent.forget(done)
        return done

    def hold(self, vectors: NDArray[np.float32], head: Head) -> None:
        """Keep some of the vectors that a commit has just added, to try walks with, if no originals are kept."""
        start = head.n_slots - len(vectors)
        first = max(0, SMALLEST_GRAPH - start)  # those before are linked when the first walks are tried
        if head.settings["originals"] == "none" and first < len(vectors):
            self.recent.take(vectors[first:], start + first, head.generation)

    def to_hold(self, originals: Originals, head: Head) -> Callable[[], None]:
        """Read some vectors for a generation to come; return what keeps them, as `hold`, to be called at its commit.

        ``originals`` reads by the slots of that generation.
        """
        if head.settings["originals"] != "none" or head.n_slots <= SMALLEST_GRAPH:
            return lambda: None
        slots = some_of(SMALLEST_GRAPH, head.n_slots)
        return partial(self.recent.hold, originals(slots), slots, head.generation)

    def link(self, state: State, publish: Callable[[], State]) -> None:
        """Link every slot, publishing after each batch. Ends early where others have started a new generation."""
        done, n, generation = self.linked(state), state.n, state.head.generation
        if done == n or n < SMALLEST_GRAPH or not wait_for_kernels():
            return
        before = done
        with Progress("linking", n - before) as progress:
            while done < n and state.head.generation == generation:
                done = self.link_batch(state)
                progress(min(done, n) - before)
                state = publish()

    def empty(self) -> HnswGraph:
        """A graph of no nodes."""
        return HnswGraph(self._hnsw.m, self._hnsw.ef_construct)

    def adopt(self, graph: HnswGraph | None, generation: int, known: int = 0) -> None:
        """Go on with this graph of a generation: one that was restored, or made for a generation to come."""
        self.graph, self._generation, self._known = graph, generation, known
        self._ends.clear()

    def untold(self, head: Head) -> int | None:
        """How many of a thousand nearest codes walks miss, if that must be stored; else None.

        It must where no originals are kept and walks miss too many, or no longer do: codes alone do not show it.
        """
        graph, stored = self.graph, _stored_misses(head)
        if graph is None or head.settings["originals"] != "none" or (graph.missed > MISSED) == (stored > MISSED):
            return None
        return graph.missed if stored <= MISSED or stored == self._known else None

    def told(self, missed: int) -> None:
        """It has been stored."""
        self._known = missed

    def graph_of(
        self, words: NDArray[np.uint64], quantizer: Quantizer, originals: Originals | None, known: int
    ) -> HnswGraph:
        """A graph of these codes alone; an empty one where they are too few, or kernels are not compiled yet.

        known : int     how many of a thousand nearest codes walks are known to miss, for where there are no originals
        """
        graph = self.empty()
        if originals is None:
            graph.begin_with(known, 0)
        if len(words) < SMALLEST_GRAPH or not can_link():
            return graph
        with Progress("linking", len(words)) as progress:
            while len(graph) < len(words):
                progress(graph.link(words, len(words), self._workers, quantizer, originals))
        return graph

    # ---- in the background

    def start(self, step: Callable[[], bool], n: int) -> None:
        """Call ``step``, which links a batch of the first n slots, in a thread until nothing is left, or `stop`."""
        self._ends.append(n)
        if self.at_work:
            return
        self._stop.clear()
        self._over = False

        def work() -> None:
            try:
                if wait_for_kernels(self._stop.is_set, showing=False):
                    while not self._stop.is_set() and step():
                        pass
            except (BqstoreError, MemoryError):  # closed or damaged, so the next call raises; the next write links
                pass
            finally:
                self._over = True

        thread = threading.Thread(target=work, name="bqstore-linking", daemon=True)
        with suppress(RuntimeError):  # no more threads: the next write, or `flush`, links
            thread.start()
            self._thread = thread

    def defer(self, state: State, step: Callable[[], bool]) -> bool:
        """Leave what a write has added to the background, if that links already or kernels are not compiled yet."""
        later = state.n >= SMALLEST_GRAPH and (self.at_work or can_link_later())
        if later:
            self.start(step, state.n)
        return later

    @property
    def at_work(self) -> bool:
        """Whether the background thread goes on."""
        return not self._over and self._thread is not None and self._thread.is_alive()

    @property
    def is_idle(self) -> bool:
        """Whether no background thread was at work; right also in a fork, in which it is not alive."""
        return self._over

    def is_over(self) -> None:
        """Nothing is left to link: a write from here on links by itself. Under the lock."""
        self._over = True

    def stop(self) -> None:
        """End the background thread, and wait for it; not under the lock that its steps take."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
