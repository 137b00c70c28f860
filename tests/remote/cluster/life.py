"""Writers and searchers that go on while nodes fail, and what became of each of their calls."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

import bqstore
from tests.conftest import HANGS

from .nodes import Cluster, Node, wait_for

DIM = 32
TIMEOUT = 30.0  # seconds of a call, all its tries together
ROWS: list[str] = []


def vector_of(number: int) -> Any:
    """The vector of a document, which tells its number."""
    return np.random.default_rng(number).standard_normal(DIM).astype(np.float32)


class Life:
    """Threads that write and search a collection through chosen nodes, until they are stopped.

    `acknowledged` has the documents whose `add` has returned, with the round in which it did: those of a call that
    failed may be there or not. An exception that is none of bqstore's ends its thread, and fails the test.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.acknowledged: dict[str, int] = {}
        self.unsure: set[str] = set()
        self.errors: Counter[str] = Counter()
        self.words: list[str] = []
        self.searches = self.missed = 0
        self.slowest = 0.0
        self.odd: list[BaseException] = []
        self._stop, self._threads, self._lock = threading.Event(), [], threading.Lock()
        with self.opened(cluster.nodes[0], dim=DIM, shard_number=6, replication_factor=2):
            pass
        cluster.whole(name)

    def opened(self, node: Node, **given: Any) -> bqstore.RemoteCollection:
        """The collection, through a node."""
        return bqstore.open(node.address(self.name), timeout=TIMEOUT, **given)

    def start(self, writes: Node, searches: Node | None = None) -> None:
        """A writer through one node and a searcher through another, once both have answers."""
        some = [(self._write, writes), (self._search, searches or writes)]
        for work, node in some:
            thread = threading.Thread(target=self._run, args=(work, node), daemon=True)
            self._threads.append(thread)
            thread.start()
        self.go_on()

    def go_on(self, n: int = 20) -> None:
        """Wait until n more writes are acknowledged, and as many searches answered."""
        wanted = len(self.acknowledged) + n, self.searches + n
        wait_for(lambda: self.odd or (len(self.acknowledged) >= wanted[0] and self.searches >= wanted[1]))
        assert not self.odd, self.odd

    def _run(self, work: Callable[[bqstore.RemoteCollection, int], None], node: Node) -> None:
        try:
            with self.opened(node) as col:
                for at in range(10**9):
                    if self._stop.is_set():
                        return
                    begun = time.monotonic()
                    try:
                        work(col, at)
                    except bqstore.BqstoreError as error:
                        with self._lock:
                            self.errors[type(error).__name__] += 1
                            self.words.append(str(error))
                    self.slowest = max(self.slowest, time.monotonic() - begun)
        except BaseException as error:
            self.odd.append(error)

    def _write(self, col: bqstore.RemoteCollection, at: int) -> None:
        """Add three documents; each third call replaces some of before."""
        numbers = [max(0, 3 * (at - 10 * (at % 3 == 2)) + i) for i in range(3)]
        ids = [f"{number}" for number in numbers]
        try:
            col.add(np.stack([vector_of(number) for number in numbers]), ids, metadatas=[{"round": at}] * 3)
        except bqstore.BqstoreError:
            self.unsure.update(ids)
            raise
        self.acknowledged.update(dict.fromkeys(ids, at))

    def _search(self, col: bqstore.RemoteCollection, at: int) -> None:
        """Find a document that is acknowledged."""
        known = list(self.acknowledged)
        number = known[at % len(known)] if known else "0"
        found = col.search(vector_of(int(number)), 3, exact=bool(at % 2))
        self.searches += 1
        if known and [hit.id for hit in found[:1]] != [number]:
            self.missed += 1

    def stop(self) -> None:
        """End the threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join(HANGS)

    def check(self, what: str) -> None:
        """Stop; once all replicas are active, every acknowledged document is there, through every node."""
        self.stop()
        assert not self.odd, self.odd
        self.cluster.whole(self.name)
        found = 0
        for node in self.cluster.running:
            with self.opened(node) as col:
                there = {each.id: each.metadata["round"] for each in col.get(list(self.acknowledged))}
            lost = [id_ for id_, at in self.acknowledged.items() if there.get(id_, -1) < at]
            found = len(there)
            assert not lost, f"{len(lost)} of {len(self.acknowledged)} through {node.url}: {lost[:9]}"
        told = ", ".join(f"{n} {name}" for name, n in self.errors.items()) or "none"
        counts = [len(self.acknowledged), found, self.searches, self.missed, told, f"{self.slowest:.1f} s"]
        ROWS.append("| " + " | ".join(map(str, [what, *counts])) + " |")
        # a request that is taken and not answered may take as long again as all tries: docs/scaling.md
        assert self.slowest < 2 * TIMEOUT + 5

    def remove(self) -> None:
        """Remove the collection."""
        with self.opened(self.cluster.running[0]) as col:
            col.drop()
