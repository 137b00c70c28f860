"""Filters: the time to evaluate them on a million documents, and searches with filters compared with searches without.

    python -m tests.benchmarks.filters [documents of the search, 100000]

The first part makes columns of ten fields and times every kind of condition, parsed each time and never cached. The
second adds clustered vectors and searches them with filters that are independent of the query, correlated with it or
anticorrelated, and accept several shares of the documents. It prints recall@10 against exact scores, and the time
relative to the search without a filter.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import bqstore
from bqstore.bitmap import Bits, count
from bqstore.metadata.columns import Column
from bqstore.metadata.evaluate import evaluate, matching
from bqstore.metadata.filter_grammar import parse
from bqstore.metadata.filter_tree import Field

N = 1_000_000
SHARES = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.9)
K, QUERIES, DIM = 10, 100, 512


def median(function: Callable[[], Any], times: int = 9) -> float:
    """Return the median time of a call in milliseconds."""
    function()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        function()
        taken.append(time.perf_counter() - started)
    return 1e3 * float(np.median(taken))


def made_columns() -> dict[str, Column]:
    """Make ten fields with few, many or only different values: numbers, strings, booleans, dates and lists."""
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(5000)]
    fields: dict[str, list[Any]] = {
        "lang": [("en", "de", "fr", "es", "it")[i] for i in rng.integers(0, 5, N)],
        "tenant": [f"tenant-{i}" for i in rng.integers(0, 10_000, N)],
        "year": rng.integers(1990, 2026, N).tolist(),
        "price": rng.random(N).tolist(),
        "stamp": (1.6e9 + rng.random(N) * 1e8).astype(np.int64).tolist(),
        "draft": (rng.random(N) < 0.5).tolist(),
        "tags": [[words[i] for i in row] for row in rng.integers(0, 40, (N, 2))],
        "url": [f"https://example.com/{words[i]}/{place}" for place, i in enumerate(rng.integers(0, 5000, N))],
        "title": [f"{words[i]} {words[j]}" for i, j in rng.integers(0, 5000, (N, 2))],
        "date": [
            f"2024-{month:02}-{day:02}"
            for month, day in zip(rng.integers(1, 13, N), rng.integers(1, 29, N), strict=True)
        ],
    }
    made = {}
    for key, values in fields.items():
        started = time.perf_counter()
        made[key] = Column(key).extended(values)
        taken, column = time.perf_counter() - started, made[key]
        print(f"{key:8} {len(column.dictionary):>9,} entries {column.nbytes / 1e6:6.1f} MB, built in {taken:.1f} s")
    return made


TESTS = {
    "equality, 5 values": {"lang": "en"},
    "equality, 10,000 values": {"tenant": "tenant-77"},
    "equality, all different": {"url": "https://example.com/word1/7"},
    "range, 36 values": {"year": {"$gte": 2000}},
    "range, all different": {"price": {"$between": [0.2, 0.4]}},
    "range of dates": {"date": {"$gte": "2024-06-01"}},
    "range of strings, all different": {"url": {"$gt": "https://example.com/word3"}},
    "$in of 100": {"tenant": {"$in": [f"tenant-{i}" for i in range(100)]}},
    "$in of 100, all different": {"stamp": {"$in": list(range(1_600_000_000, 1_600_000_100))}},
    "$like, 10,000 values": {"tenant": {"$like": "%-77%"}},
    "$like, all different, a beginning": {"url": {"$like": "https://example.com/word77%"}},
    "$like, all different, a piece": {"title": {"$like": "%word77%"}},
    "$ilike, all different, a piece": {"title": {"$ilike": "%WORD77%"}},
    "an element of a list": {"tags": "word5"},
    "ten conditions": {
        "$and": [
            {"lang": {"$in": ["en", "de"]}},
            {"year": {"$gte": 2000}},
            {"draft": False},
            {"price": {"$lt": 0.9}},
            {"$or": [{"tenant": "tenant-7"}, {"tags": "word5"}, {"stamp": {"$gt": 1_650_000_000}}]},
            {"date": {"$gte": "2024-03-01"}},
            {"$not": {"lang": "de"}},
            {"year": {"$ne": 2005}},
        ]
    },
}


def evaluation() -> None:
    """Time the evaluation of every filter."""
    columns = made_columns()

    def bits_of(field: Field) -> Bits:
        return matching(columns[field.key], field.test)

    for name, given in TESTS.items():

        def answer(given: Any = given) -> Bits:
            tree = parse(given)
            assert tree is not None
            return evaluate(tree, N, bits_of)

        print(f"{name:36} {median(answer):7.2f} ms   {count(answer()):>9,} match")


def searches(n: int) -> None:
    """Measure recall and time of searches with filters."""
    rng = np.random.default_rng(1)
    # as in embeddings: some thirty dimensions that matter in a space of many, and a little noise in all of them
    centers, mixing = rng.standard_normal((300, 32)), rng.standard_normal((32, DIM)) / np.sqrt(32)

    def drawn(count: int) -> np.ndarray:
        inner = centers[rng.integers(0, len(centers), count)] + 0.6 * rng.standard_normal((count, 32))
        return (inner @ mixing + 0.1 * rng.standard_normal((count, DIM))).astype(np.float32)

    base, queries = drawn(n), drawn(QUERIES)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    axes = base[:4]
    along, chance = base @ axes.T, rng.random(n)
    toward = (queries @ axes.T).argmax(1)
    scores = queries @ base.T
    with bqstore.open(index_metadata=["chance", "a0", "a1", "a2", "a3"]) as col:
        for at in range(0, n, 20_000):
            rows = range(at, min(n, at + 20_000))
            metadatas = [{"chance": float(chance[i]), **{f"a{j}": float(along[i, j]) for j in range(4)}} for i in rows]
            col.add(base[rows.start : rows.stop], [str(i) for i in rows], metadatas=metadatas)

        def measured(filters: list[Any], accepted: list[Any]) -> tuple[float, float]:
            found, taken = 0.0, np.empty((4, QUERIES))
            for turn in range(4):
                for i, query in enumerate(queries):
                    started = time.perf_counter()
                    ids, _ = col.search_ids(query, K, filter=filters[i])
                    taken[turn, i] = time.perf_counter() - started
                    if turn == 3:
                        best = np.sort(scores[i, accepted[i]])[-K:]
                        own = scores[i, [int(id_) for id_ in ids[0] if id_ is not None]]
                        assert len(own) == len(best), "min(k, matches)"
                        found += float((own >= best[0] - 1e-6).sum() / len(best))
            return found / QUERIES, 1e6 * float(np.median(taken.min(0)))

        everything = np.arange(n)
        recall, plain = measured([None] * QUERIES, [everything] * QUERIES)
        print(f"without a filter: recall {recall:.3f}, {plain:.0f} us, by a {col.info().way}")
        order = np.argsort(along, axis=0)
        for share in SHARES:
            m = max(K, round(share * n))
            for kind in ("independent", "along", "against"):
                filters, accepted = [], []
                for axis in toward.tolist():
                    if kind == "independent":
                        filters.append({"chance": {"$lt": share}})
                        accepted.append(np.flatnonzero(chance < share))
                    else:
                        accepted.append(order[n - m :, axis] if kind == "along" else order[:m, axis])
                        ends = along[accepted[-1], axis]
                        filters.append({f"a{axis}": {"$between": [float(ends.min()), float(ends.max())]}})
                recall, taken = measured(filters, accepted)
                print(f"{share:7.2%} {kind:12} recall {recall:.3f}, {taken:5.0f} us, {taken / plain:4.2f} times")


if __name__ == "__main__":
    evaluation()
    searches(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
