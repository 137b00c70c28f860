"""Vectors added per second, durable and linked, one by one and in batches.

python -m tests.benchmarks.adding [n [dim]]
"""

from __future__ import annotations

import sys
import tempfile
import time

import bqstore
from tests.benchmarks.graph import clustered


def rate(col, vectors, size, seconds=5.0):
    """Return vectors added per second in batches of ``size``, for a few seconds or until all are added."""
    start, done = time.perf_counter(), 0
    while done < len(vectors) and time.perf_counter() - start < seconds:
        col.add(vectors[done : done + size])
        done += min(size, len(vectors) - done)
    return done / (time.perf_counter() - start)


def main(n=30_000, dim=1536):
    """Add n vectors to an empty collection, then more to a collection of n; print the rates."""
    bqstore.warm_up()
    vectors = clustered(n, dim)
    with tempfile.TemporaryDirectory() as folder, bqstore.open(folder) as col:
        col.add(vectors[: n // 3])
        start = time.perf_counter()
        col.add(vectors[n // 3 :])
        print(f"{n - n // 3:,} x {dim} at once: {(n - n // 3) / (time.perf_counter() - start):,.0f} a second")
        more = clustered(20_000, dim, seed=3)
        for size in (1, 64, 10_000):
            print(f"by {size:,}: {rate(col, more, size):,.0f} a second")
        assert col.info().linked == col.info().count


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
