"""What many writers cost and bring: searches of each kind of opening, in turns; single adds by threads and processes.

python -m tests.benchmarks.many_writers [DOCUMENTS]
"""

import multiprocessing
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import bqstore

DIM, ROUNDS, SECONDS = 384, 40, 4.0


def filled(path: Path, n: int) -> None:
    """A store of random vectors, its graph saved."""
    rng = np.random.default_rng(0)
    with bqstore.open(path) as col:
        for at in range(0, n, 20_000):
            col.add(rng.standard_normal((min(20_000, n - at), DIM), dtype=np.float32))
        col.flush()


def searches(path: Path) -> dict[str, float]:
    """Median microseconds of a search without documents, each kind of opening a few hundred times in its turn."""
    queries = np.random.default_rng(1).standard_normal((200, DIM), dtype=np.float32)
    times: dict[str, list[float]] = {}
    for _ in range(3):
        with bqstore.open(path, exclusive=True) as alone:
            _time({"exclusive": alone}, queries, times)
        with bqstore.open(path) as shared, bqstore.open(path, read_only=True) as reader:
            _time({"shared": shared, "read only": reader}, queries, times)
        with bqstore.open(path, exclusive=True) as alone:
            _time({"exclusive": alone}, queries, times)
    return {name: 1e6 * float(np.median(each)) for name, each in times.items()}


def _time(those: dict[str, bqstore.Collection], queries: Any, times: dict[str, list[float]]) -> None:
    for col in those.values():
        for query in queries:
            col.search_ids(query)
    for _ in range(ROUNDS):
        for name, col in those.items():
            began = time.perf_counter()
            for query in queries[:50]:
                col.search_ids(query)
            times.setdefault(name, []).append((time.perf_counter() - began) / 50)


def looks(path: Path) -> float:
    """Median nanoseconds of the look whether another process has committed."""
    with bqstore.open(path) as col:
        current, times = col._engine.publisher.current, []
        for _ in range(200):
            began = time.perf_counter()
            for _ in range(1000):
                current()
            times.append((time.perf_counter() - began) / 1000)
    return 1e9 * float(np.median(times))


def adds(col: bqstore.Collection, seed: int) -> int:
    """How many single documents are added in a few seconds, each durable when the next begins."""
    rng, n, end = np.random.default_rng(seed), 0, time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        col.add(rng.standard_normal((1, DIM), dtype=np.float32), texts=["a text"])
        n += 1
    return n


def by_threads(path: Path, threads: int, exclusive: bool = False) -> float:
    """Single adds a second, of all threads."""
    done: list[int] = []
    with bqstore.open(path, exclusive=exclusive) as col:
        those = [threading.Thread(target=lambda i=i: done.append(adds(col, i))) for i in range(threads)]
        for each in those:
            each.start()
        for each in those:
            each.join()
    return sum(done) / SECONDS


def _process(path: Path, seed: int, start: Any, done: Any) -> None:
    with bqstore.open(path) as col:
        col.add(np.ones((1, DIM), np.float32))
        start.wait()
        done.put(adds(col, seed))


def by_processes(path: Path, processes: int) -> float:
    """Single adds a second, of all processes."""
    context = multiprocessing.get_context("spawn")
    start, done = context.Barrier(processes), context.Queue()
    those = [context.Process(target=_process, args=(path, seed, start, done)) for seed in range(processes)]
    for each in those:
        each.start()
    total = sum(done.get() for _ in those)
    for each in those:
        each.join()
    return total / SECONDS


def main(n: int) -> None:
    """Print the figures."""
    bqstore.warm_up()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        filled(path, n)
        print(f"a look whether others have committed: {looks(path):.0f} ns")
        for name, microseconds in searches(path).items():
            print(f"a search, opened {name}: {microseconds:.1f} us")
        for _ in range(3):  # in turns
            one, eight = by_threads(path, 1), by_threads(path, 8)
            print(f"single adds a second: 1 thread {one:.0f}, 8 threads {eight:.0f} ({eight / one:.1f} times)")
            one, four = by_processes(path, 1), by_processes(path, 4)
            print(f"single adds a second: 1 process {one:.0f}, 4 processes {four:.0f} ({four / one:.1f} times)")
            print(f"single adds a second: exclusive {by_threads(path, 1, exclusive=True):.0f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
