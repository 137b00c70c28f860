"""How many times faster a scan of binary codes is than NumPy's float32 product.

    python -m tests.benchmarks.kernel_ratio [n dim]

Both visit the same vectors for one query on one thread (limit BLAS with OPENBLAS_NUM_THREADS=1). They are measured in
turns, A B A B, and given as medians, so that a busy machine slows both. As the floats then evict the codes from the CPU
caches, the scan is also measured by itself.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np

from bqstore import index
from bqstore.index.memory import allocate
from bqstore.kernels import api, layout


class FlatScan:
    """Scores of n random vectors for one query, from codes and from floats."""

    def __init__(self, n, dim, candidates=30, m=1, seed=0):
        rng = np.random.default_rng(seed)
        self.base = allocate(n, dim, np.float32)
        for first in range(0, n, 4096):
            part = self.base[first : first + 4096]
            part[:] = rng.standard_normal(part.shape, dtype=np.float32)
        self.queries = rng.standard_normal((m, dim), dtype=np.float32)
        words = allocate(n, layout.words_per_code(dim), np.uint64)
        self.quantizer = index.Quantizer.signs(dim).arrays
        api.encode(self.base, self.quantizer, layout.COSINE, words)
        self.codes = layout.Codes(words, n, self.quantizer)
        records = np.zeros((0, layout.RECORD_HEADER_WORDS), np.uint32)
        records.flags.writeable = False
        self.originals = layout.Originals(records, dim, layout.FLOAT32, layout.COSINE)
        self.accept = layout.Accept(np.zeros(0, np.uint64), 1)
        self.way = layout.SearchSettings(0, 0, candidates, 0, layout.BINARY, 0)
        self.candidates = layout.Candidates(
            np.empty((m, candidates), np.int32), np.empty((m, candidates), np.int32), np.empty(m, np.int64)
        )
        self.hits = layout.Hits(np.empty((m, 10), np.int32), np.empty((m, 10), np.float32))

    def bits(self):
        """Scan the codes and select the nearest."""
        api.search_bits(self.queries, self.codes, self.originals, self.accept, self.way, self.candidates, self.hits)
        return self.hits

    def floats(self):
        """Compute all scores; selecting the nearest is not even included."""
        return self.base @ self.queries[0]


def seconds(function):
    """Return the time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(n=100_000, dim=1536, rounds=21):
    """Return medians: times faster, ns per code, ms of the product (in turns); ns per code of the scan by itself."""
    scan = FlatScan(n, dim)
    scan.bits(), scan.floats()
    pairs = [(seconds(scan.bits), seconds(scan.floats)) for _ in range(rounds)]
    bits, floats = (statistics.median(column) for column in zip(*pairs, strict=True))
    alone = statistics.median(seconds(scan.bits) for _ in range(rounds))
    return floats / bits, bits / n * 1e9, floats * 1e3, alone / n * 1e9


if __name__ == "__main__":
    size, width = (int(argument) for argument in (sys.argv[1:] or (100_000, 1536)))
    ratio, per_code, product, alone = measure(size, width)
    print(
        f"{size} x {width}: {ratio:.1f} times faster than the float32 product ({product:.2f} ms); "
        f"{per_code:.2f} ns a code, {per_code * size / 1e6:.3f} ms a query; "
        f"by itself {alone:.2f} ns a code, {alone * size / 1e6:.3f} ms a query"
    )
