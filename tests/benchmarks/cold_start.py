"""The time from starting Python to the first hit: `python -m tests.benchmarks.cold_start [--path folder]`.

A fresh process imports bqstore, opens a store of 100,000 x 1,536 and searches once. It is measured with numba's cache
filled (median of several runs) and once with the cache empty, as for the first search ever made on a machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import bqstore

DIM = 1536
CHILD = """
import time
start = time.perf_counter()
import json, sys
import bqstore
imported = time.perf_counter()
with bqstore.open(sys.argv[1], read_only=True) as col:
    opened = time.perf_counter()
    hits = col.search([1.0] * 1536, 10)
    assert len(hits) == 10
    found = time.perf_counter()
print(json.dumps([imported - start, opened - imported, found - opened, found - start]))
"""


def build(path: Path, n: int) -> None:
    """Make a store of n random vectors with short texts, or add what is missing."""
    random = np.random.default_rng(1)
    with bqstore.open(path) as col:
        while (at := len(col)) < n:
            ids = [f"doc-{i:07}" for i in range(at, min(n, at + 10_000))]
            vectors = random.standard_normal((len(ids), DIM), dtype=np.float32)
            col.add(vectors, ids, ["a text of some length " * 20] * len(ids), [{"page": i} for i in range(len(ids))])


def first_hit(path: Path, cache: str) -> list[float]:
    """Run a fresh process; return the seconds of import, open, first search, and all three."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    out = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)], env=environment, check=True, capture_output=True, text=True
    )
    return json.loads(out.stdout)


def main(rounds: int = 9) -> None:
    parser = argparse.ArgumentParser(description="The time from starting Python to the first hit.")
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--path", type=Path)
    options, _ = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        path = options.path or Path(folder)
        build(path, options.n)
        cold = first_hit(path, cache)
        warm = [first_hit(path, cache) for _ in range(rounds)]
    parts = [statistics.median(column) for column in zip(*warm, strict=True)]
    print(f"{options.n:,} x {DIM}, seconds: import, open, first search, all three")
    print("numba's cache filled (median of {}): {:.2f} {:.2f} {:.2f}   {:.2f}".format(rounds, *parts))
    print("numba's cache empty:                {:.2f} {:.2f} {:.2f}   {:.2f}".format(*cold))


if __name__ == "__main__":
    main()
