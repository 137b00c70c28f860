"""The overhead of LangChain: `similarity_search_by_vector` compared with `Collection.search_ids`.

    python -m tests.benchmarks.langchain_overhead [--n 100000] [--path folder] [--as-list]

It builds (or, with --path, reopens) a store on disk: random vectors of 1,536 dimensions, texts of some 500 characters,
small metadata. The calls take turns, each round with new queries, so that no call profits from pages that the call
before it has read. It asserts nothing: times depend on the machine.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_bqstore import BQVectorStore

DIM = 1536
BATCH = 5_000


def main() -> None:
    parser = argparse.ArgumentParser(description="The overhead of LangChain over the core's search_ids.")
    parser.add_argument("--n", type=int, default=100_000, help="documents (%(default)s)")
    parser.add_argument("--k", type=int, default=10, help="documents a query (%(default)s)")
    parser.add_argument("--queries", type=int, default=300, help="queries a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each call (%(default)s)")
    parser.add_argument("--path", type=Path, help="keep the store here")
    parser.add_argument("--as-list", action="store_true", help="give both calls lists of floats, not arrays")
    options = parser.parse_args()
    embedding = DeterministicFakeEmbedding(size=DIM)
    with tempfile.TemporaryDirectory() as folder, BQVectorStore(embedding, path=options.path or folder) as store:
        build(store, options.n)
        measure(store, options)


def build(store: BQVectorStore, n: int) -> None:
    """Add documents with random vectors until there are n."""
    random = np.random.default_rng(1)
    words = np.array([f"word{i}" for i in range(2_000)])
    while (start := len(store.collection)) < n:
        ids = [f"doc-{i:07}" for i in range(start, min(n, start + BATCH))]
        vectors = random.standard_normal((len(ids), DIM), dtype=np.float32)
        texts = [" ".join(random.choice(words, 65)) for _ in ids]
        metadatas = [{"source": f"file-{i % 97}.md", "page": i, "lang": "en"} for i in range(len(ids))]
        store.collection.add(vectors, ids, texts, metadatas)


def measure(store: BQVectorStore, options: argparse.Namespace) -> None:
    """Print medians in microseconds."""
    col, k = store.collection, options.k
    calls: dict[str, Callable[[object], object]] = {
        "search_ids (core)": lambda q: col.search_ids(q, k),
        "search (core)": lambda q: col.search(q, k),
        "similarity_search_by_vector": lambda q: store.similarity_search_by_vector(q, k),  # type: ignore[arg-type]
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    random = np.random.default_rng(2)
    for _ in range(options.rounds):
        for name, call in calls.items():
            queries = random.standard_normal((options.queries, DIM), dtype=np.float32)
            times[name].append(median(call, queries.tolist() if options.as_list else list(queries)))
    base, *others = calls
    print(f"{len(col):,} documents of {DIM} dimensions, k={k}; us, medians of {options.rounds} rounds of")
    print(f"{options.queries:,} queries each; in brackets the rounds")
    for name in calls:
        rounds = " ".join(f"{value:.0f}" for value in times[name])
        more = statistics.median(times[name]) - statistics.median(times[base])
        over = f"   {more:+7.1f} over {base}" if name in others else ""
        print(f"{name:30} {statistics.median(times[name]):8.1f}{over}   [{rounds}]")


def median(call: Callable[[object], object], queries: list[object]) -> float:
    """Return the median time of one call, in microseconds."""
    times = []
    for query in queries:
        start = time.perf_counter()
        call(query)
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times)


if __name__ == "__main__":
    main()
