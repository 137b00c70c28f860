"""What the bits cost and what they save, measured on the store at hand."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.table import Table

from bqstore import Collection, Embedder

K = 10
SAMPLE = 200  # questions for the recall: the titles of passages, "json.dumps" and the like

Vectors = npt.NDArray[np.float32]

# The same store, the same bits: only the query asks for more. The third is what the store does by itself.
WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("exact: all the originals", {"exact": True}),
    ("bits alone", {"rescore": False}),
    ("bits, the best {oversampling:g}k rescored (the default)", {}),
    ("bits, the best 8k rescored", {"oversampling": 8.0}),
)


@dataclass(frozen=True)
class Measured:
    """One way to search: how much of the exact answer it finds, and how long a query takes."""

    way: str
    recall: float
    milliseconds: float


def questions(collection: Collection, embedder: Embedder) -> Vectors:
    """Vectors to search with, float32 (n, dim): titles of passages from the whole store, always the same."""
    titles = sorted({record.metadata["title"] for record in collection.scroll()})
    return embedder.embed(titles[:: max(1, len(titles) // SAMPLE)][:SAMPLE])


def measure(collection: Collection, queries: Vectors) -> list[Measured]:
    """Each way to search against the exact one; queries go one by one, as a user's do."""
    truth: list[set[str]] = []
    results = []
    default = collection.info().search.oversampling
    for way, settings in WAYS:
        collection.search_ids(queries[0], K, **settings)  # warm: the first call of a kind compiles or loads its code
        found, seconds = _timed(lambda query, s=settings: collection.search_ids(query, K, **s)[0], queries)
        truth = truth or found
        shared = [len(ids & right) / len(right) for ids, right in zip(found, truth, strict=True)]
        results.append(Measured(way.format(oversampling=default), float(np.mean(shared)), seconds * 1e3))
    return results


def _timed(search: Callable[[Vectors], Any], queries: Vectors) -> tuple[list[set[str]], float]:
    """The ids found for each query, and the median time of one."""
    found, seconds = [], []
    for query in queries:
        start = time.perf_counter()
        ids = search(query)
        seconds.append(time.perf_counter() - start)
        found.append({name for name in np.ravel(ids) if name is not None})
    return found, float(np.median(seconds))


def recall_table(results: list[Measured], queries: int) -> Table:
    """Recall and time of each way to search."""
    title = f"Recall against exact search ({queries} queries, the nearest k = {K})"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("search")
    table.add_column("recall", justify="right")
    table.add_column("time per query", justify="right")
    for result in results:
        table.add_row(result.way, f"{result.recall:.3f}", f"{result.milliseconds:.2f} ms")
    return table


def memory_table(collection: Collection) -> Table:
    """What is in memory, and what stays on disk."""
    info = collection.info()
    title = f"Memory of codes against originals ({info.count:,} passages, {info.dim} dimensions)"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("each", justify="right")
    table.add_column("in all", justify="right")
    table.add_column("where")
    originals = info.vector_bytes * info.count
    table.add_row("originals, float32", f"{info.vector_bytes:,} B", _size(originals), "on disk")
    table.add_row("codes, one bit a dimension", f"{info.code_bytes:,} B", _size(info.memory_bytes), "in memory")
    table.add_row("", f"{info.compression:.0f} times less", "", "")
    return table


def _size(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{n / 1e3:.0f} kB"
