"""What the codes cost in recall and what they save in time and memory, measured on the store at hand."""

import time
from typing import Any

from rich import box
from rich.table import Table

from bqstore import Collection, Embedder, RecallPoint

K = 10
SAMPLE = 200  # queries: the titles of passages, such as "json.dumps"

# beside the store's defaults: the same codes, searched with other settings
SETTINGS: list[dict[str, Any]] = [{"rescore": False}, {"oversampling": 4.0}, {"oversampling": 8.0}]


def recall_table(collection: Collection, embedder: Embedder) -> Table:
    """Measure searches of the store against exact search."""
    titles = sorted({record.metadata["title"] for record in collection.scroll()})
    queries = embedder.embed(titles[:: max(1, len(titles) // SAMPLE)][:SAMPLE])
    report = collection.recall(queries, K, settings=SETTINGS)
    table = _table(f"Recall against exact search ({report.queries} queries, the nearest k = {K})")
    table.add_column("search")
    table.add_column("recall", justify="right")
    table.add_column("time per query", justify="right")
    start = time.perf_counter()
    for query in queries:
        collection.search_ids(query, K, exact=True)
    exact = (time.perf_counter() - start) / len(queries)
    table.add_row("exact search", "1.000", f"{exact * 1e3:.2f} ms")
    default, codes_alone, *more = report.points
    for point in (codes_alone, default, *more):
        described = _described(point) + (" (the default)" if point is default else "")
        table.add_row(described, f"{point.recall:.3f}", f"{point.milliseconds:.2f} ms")
    return table


def _described(point: RecallPoint) -> str:
    return f"codes, the best {point.oversampling:g}k rescored" if point.rescore else "codes alone"


def memory_table(collection: Collection) -> Table:
    """Show what is in memory, and what stays on disk."""
    info = collection.info()
    table = _table(f"Memory ({info.count:,} passages, {info.dim} dimensions)")
    table.add_column("")
    table.add_column("each", justify="right")
    table.add_column("in all", justify="right")
    table.add_column("where")
    originals = info.vector_bytes * info.count
    table.add_row("original vectors, float32", f"{info.vector_bytes:,} B", f"{originals / 1e3:,.0f} kB", "on disk")
    table.add_row(
        f"codes ({info.quantization.encoding})",
        f"{info.code_bytes:,} B",
        f"{info.memory_bytes / 1e3:,.0f} kB",
        "in memory",
    )
    table.add_row("", f"{info.compression:.0f} times less", "", "")
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
