"""The graph by itself: building it, walking it, and the size at which a scan is as fast as a walk.

    python -m tests.benchmarks.graph [n [dim]]

Vectors are drawn around cluster centers, as real data has structure. Things that are compared are measured in turns,
A B A B; all figures are medians.
"""

from __future__ import annotations

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bqstore import index
from bqstore.index.search import NO_RECORDS
from bqstore.index.threads import ALONE, Workers
from bqstore.kernels import layout

M, EF_CONSTRUCT = 16, 128


def clustered(n, dim, seed=0):
    """Return float32 (n, dim) of unit length: a cluster center plus noise of the same size."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(1).standard_normal((max(1, n // 50), dim), dtype=np.float32)
    rows = centers[rng.integers(0, len(centers), n)] + rng.standard_normal((n, dim), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def build(words, n, threads):
    """Build a graph of the first n codes."""
    graph = index.HnswGraph(M, EF_CONSTRUCT)
    with ThreadPoolExecutor(threads) as pool:
        while len(graph) < n:
            graph.link(words, n, Workers(threads, lambda: pool))
    return graph


class Walks:
    """Searches of codes without original vectors."""

    def __init__(self, n, dim, threads=2):
        signs = index.Quantizer.signs(dim)
        self.words = index.append_codes(index.new_codes(signs.words), 0, signs.encode(clustered(n, dim)))
        self.n, self.dim = n, dim
        self.queries = clustered(500, dim, seed=2)
        self.graph = build(self.words, n, threads)
        metric, view = layout.COSINE, self.graph.view
        self.data = index.Searchable(self.words, NO_RECORDS, n, dim, layout.FLOAT32, metric, signs, view)

    def search(self, way, ef, encoding, k=10, limit=None):
        """Prepare a search; a scan can be limited to the first ``limit`` codes."""
        plan = index.Plan(way, False, k, ef, ef)
        accept = None
        if limit is not None:
            accept = np.zeros(-(-self.n // 64), np.uint64)
            accept[: limit // 64] = ~np.uint64(0)
        return index.Search(self.data, accept, limit or self.n, k, plan, encoding)

    def seconds(self, search):
        """Return the median time of a query."""
        times = []
        for query in self.queries:
            start = time.perf_counter()
            search.nearest(query[None], ALONE)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def work(self, search):
        """Return the distances computed per query."""
        work = index.Work()
        search.nearest(self.queries, ALONE, work=work)
        return work.distances / len(self.queries)


def main(n=30_000, dim=1536):
    """Measure and print everything."""
    walks = Walks(n, dim)
    build(walks.words, 2000, 1)
    times = {1: [], 2: []}
    for _ in range(3):
        for threads in times:
            start = time.perf_counter()
            build(walks.words, n, threads)
            times[threads].append(time.perf_counter() - start)
    one, two = (statistics.median(times[threads]) for threads in times)
    print(f"build of {n:,} x {dim}: {n / one:,.0f} nodes/s on one thread, {one / two:.2f} times as many on two")
    for encoding, name in ((1, "binary"), (4, "scalar4bits"), (8, "scalar8bits")):
        for ef in (16, 64, 256):
            walk = walks.search("walk", ef, encoding)
            walks.seconds(walk)
            distances, seconds = walks.work(walk), walks.seconds(walk)
            print(
                f"walk, {name}, ef {ef}: {seconds * 1e6:.1f} us, {distances:.0f} distances, "
                f"{seconds / distances * 1e9:.1f} ns each, all included"
            )
    for encoding, name in ((1, "binary"), (4, "scalar4bits"), (8, "scalar8bits")):
        for ef in (32, 128):
            print(f"break-even, {name}, ef {ef}: a scan of {break_even(walks, ef, encoding):,} codes takes as long")


def break_even(walks, ef, encoding):
    """Return how many codes can be scanned in the time of a walk, found by bisection."""
    low, high = 64, walks.n
    while high - low > max(64, low // 16):
        middle = (low + high) // 2
        walk, scan = walks.search("walk", ef, encoding), walks.search("scan", 0, encoding, limit=middle)
        turns = [(walks.seconds(walk), walks.seconds(scan)) for _ in range(2)]
        faster = statistics.median(w - s for w, s in turns)
        low, high = (middle, high) if faster > 0 else (low, middle)
    return low // 64 * 64


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
