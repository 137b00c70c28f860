"""Results as tables for a terminal of 80 columns. User text is plain text, never rich markup."""

import os
import platform
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

import bqstore

from . import formatting

if TYPE_CHECKING:
    from bqstore.sizing import Setup

    from .bench import Row


def _table(title: str, *columns: str, numbers: int) -> Table:
    """A table whose last ``numbers`` columns hold numbers."""
    table = Table(
        title=Text(formatting.printable(title), style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for i, name in enumerate(columns):
        number = i >= len(columns) - numbers
        table.add_column(name, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


_LONG_WORD = 16  # characters; longer words, such as file names, may be broken
_WIDE = 1000  # columns; no table needs more


def _note(table: Table, text: str) -> None:
    """Put a line below a table."""
    table.caption, table.caption_justify = Text(text), "left"


class _Pairs:
    """Names and values in two columns. Values wrap between words; one without spaces, such as a path, stays whole."""

    def __init__(self, title: str, pairs: dict[str, str]) -> None:
        self.title, self.pairs = title, {name: value for name, value in pairs.items() if value}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        left = 4 + max(map(len, self.pairs))
        width = max(20, options.max_width - left - 2)
        yield Text(formatting.printable(self.title), "bold", no_wrap=True, overflow="ignore")
        yield ""
        for name, value in self.pairs.items():
            lines = textwrap.wrap(formatting.printable(value), width, break_long_words=False, break_on_hyphens=False)
            for i, line in enumerate(lines):
                yield Text(f"  {'' if i else name}".ljust(left) + line, no_wrap=True, overflow="ignore")
        yield ""


def _pairs(title: str, pairs: dict[str, str]) -> RenderableType:
    """A table of names and values; empty values are left out."""
    return _Pairs(title, pairs)


class _ForWidth:
    """Shows the first of several tables that fits the terminal; the last has only the most needed columns.

    A table fits if no word of its first column would be broken; if none fits, the last is shown.
    """

    def __init__(self, *tables: Table) -> None:
        self.tables = tables

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in self.tables:
            first = table.columns[0]
            least = first.min_width
            words = [word for cell in (first.header, *first.cells) for word in str(cell).split()]
            first.min_width = max(least or 1, min(_LONG_WORD, max(map(len, words), default=1)))
            if Measurement.get(console, options.update(max_width=_WIDE), table).minimum <= options.max_width:
                yield table
                return
            first.min_width = least
        yield self.tables[-1]


# ---- recall


def recall(report: bqstore.RecallReport) -> RenderableType:
    """A recall report: the settings in use, all measured settings, memory, the verdict."""
    stored = tuple(point for point in report.points if point.stored)
    trials = tuple(point for point in report.points if not point.stored)
    parts: list[RenderableType] = [_in_use(report), _points(report, "Settings measured on the stored codes", stored)]
    if trials:
        title = f"Other encodings: codes of {report.scanned:,} documents, made for this report and scanned"
        parts.append(_points(report, title, trials))
    asked = "of them, each left out of its own result" if report.held_out else "queries that were given"
    measured = f"Measured against exact search on {report.documents:,} documents, for {report.queries:,} {asked}."
    notes = " ".join(filter(None, (formatting.exact_search_note(report), measured)))
    return Group(*parts, _memory(report), Text(notes), Text(report.verdict, style="bold"))


def _in_use(report: bqstore.RecallReport) -> RenderableType:
    point = report.current
    pairs = {
        f"recall@{report.k}": f"{report.recall:.3f} (95% interval {formatting.interval(report.low, report.high)})",
        "time per query": f"{formatting.milliseconds(report.milliseconds)} ms, median on one thread; "
        f"95 of 100 at most {formatting.milliseconds(point.slowest)} ms",
        "codes": formatting.encoding(point.quantization),
        "query encoding": point.quantization.query_encoding,
        "searches": formatting.search(point.way, point),
        "memory": formatting.size(point.memory_bytes),
    }
    return _pairs("The setting in use", pairs)


def _points(report: bqstore.RecallReport, title: str, points: tuple[bqstore.RecallPoint, ...]) -> RenderableType:
    return _ForWidth(*(_points_in(report, title, points, intervals) for intervals in (True, False)))


def _points_in(
    report: bqstore.RecallReport, title: str, points: tuple[bqstore.RecallPoint, ...], intervals: bool
) -> Table:
    interval = ("95% interval",) if intervals else ()
    columns = ("codes", "over-\nsampling", "hnsw_ef", f"recall@{report.k}", *interval, "ms")
    table = _table(title, *columns, numbers=len(columns) - 1)
    for name, group in formatting.by_encoding(points).items():
        table.add_row(Text(name, style="bold"))
        shown = _told_apart(report, group)
        for i, point in enumerate(shown):
            in_use = point == report.current
            table.add_row(
                "  in use" if in_use else "",
                formatting.oversampling(point),
                formatting.hnsw_ef(point),
                f"{point.recall:.3f}",
                *(formatting.interval(point.low, point.high) for _ in interval),
                formatting.milliseconds(point.milliseconds),
                style="bold" if in_use else "",
                end_section=i == len(shown) - 1,
            )
    if not all(point.rescore for point in points):
        _note(table, "oversampling off: ranked by the codes alone, not rescored")
    return table


def _told_apart(report: bqstore.RecallReport, points: list[bqstore.RecallPoint]) -> list[bqstore.RecallPoint]:
    """The points without duplicates that look alike, such as scans with different hnsw_ef; the one in use is kept."""
    kept: dict[tuple[str, str], bqstore.RecallPoint] = {}
    for point in points:
        row = (formatting.oversampling(point), formatting.hnsw_ef(point))
        if row not in kept or point == report.current:
            kept[row] = point
    return list(kept.values())


def _memory(report: bqstore.RecallReport) -> Table:
    table = _table("Memory by encoding", "codes", "memory", "", numbers=2)
    sizes = formatting.memory_by_encoding(report)
    most = next(iter(sizes.values()))
    for name, n in sizes.items():
        table.add_row(name, formatting.size(n), formatting.times_less(n, most))
    return table


# ---- info


KERNELS = {
    "compiled": "compiled for this processor",
    "compiling": "being compiled in the background; numpy answers meanwhile",
    "uncompiled": "not compiled yet: when first needed, or by bqstore warm-up",
    "numpy": "not compiled (BQSTORE_COMPILE is off): numpy answers",
}


def info(found: bqstore.CollectionInfo) -> RenderableType:
    """The settings of a collection and the memory it uses."""
    q, hnsw = found.quantization, found.hnsw
    dead = f" (and {found.deleted:,} slots to compact{', which is due' if found.compact_due else ''})"
    graph = f"{found.linked:,} linked, {formatting.size(found.graph_bytes)}" if found.linked else "none yet"
    pairs = {
        "store": found.path or "",
        "documents": f"{found.count:,}" + (dead if found.deleted else ""),
        "dimensions": f"{found.dim:,}" if found.dim else "set by the first vectors",
        "distance": found.distance,
        "embedding model": found.embedding_model or "",
        "codes": f"{formatting.encoding(q)}: {found.code_bytes:,} B each, float32 {found.vector_bytes:,} B"
        + (f" ({found.compression:.1f} times more)" if found.compression else ""),
        "query encoding": q.query_encoding,
        "memory": f"{formatting.size(found.memory_bytes)}, codes and graph",
        "graph": f"{graph} (m={hnsw.m}, ef_construct={hnsw.ef_construct})",
        "original vectors": f"{found.originals}, {found.original_bytes:,} B each",
        "disk": formatting.size(found.disk_bytes),
        "searches": formatting.search(found.way, found.search),
        "recall": "; ".join(str(found.recall).splitlines()),
        "kernels": KERNELS[found.kernels],
        "format": f"version {found.format_version}, generation {found.generation}",
    }
    return _pairs(f"Collection {found.collection}", pairs)


def choice(chosen: bqstore.Choice, in_use: bqstore.Quantization) -> RenderableType:
    """Why a collection is encoded as it is: all encodings that were measured."""
    return Group(_ForWidth(*(_choice(chosen, in_use, n) for n in (6, 5, 4))), Text(formatting.printable(chosen.reason)))


def _choice(chosen: bqstore.Choice, in_use: bqstore.Quantization, n: int) -> Table:
    """The first n columns of the table, with unbroken names, which identify the rows."""
    title = f"Encodings measured on {chosen.vectors:,} documents and {chosen.queries:,} queries"
    columns = ("codes", "", "bytes", f"recall@{chosen.k}", "codes alone", "ns a code")[:n]
    table = _table(title, *columns, numbers=n - 2)
    for trial in chosen.trials:
        name = formatting.encoding(trial.quantization)
        is_used = name == formatting.encoding(in_use)
        cells = [name, "in use" if is_used else "", f"{trial.code_bytes:,}", f"{trial.recall:.3f}"]
        cells += [f"{trial.raw_recall:.3f}", f"{trial.nanoseconds:.1f}"]
        table.add_row(*cells[:n], style="bold" if is_used else "")
        for column, cell in zip(table.columns, cells[:n], strict=True):
            column.min_width = max(column.min_width or len(str(column.header)), len(cell))
    _note(table, f"recall@{chosen.k} with {chosen.oversampling:g} times {chosen.k} candidates rescored")
    return table


def collections(found: Sequence[bqstore.CollectionInfo]) -> RenderableType:
    """The collections of a store."""
    table = _table(f"Collections in {found[0].path}", "collection", "documents", "dimensions", "disk", numbers=3)
    for each in found:
        name = Text(formatting.printable(each.collection))
        table.add_row(name, f"{each.count:,}", f"{each.dim or 0:,}", formatting.size(each.disk_bytes))
    return table


def versions() -> RenderableType:
    """Versions for a bug report: packages, Python, the machine."""
    return _pairs("Versions", versions_in_use())


def versions_in_use() -> dict[str, str]:
    """Versions by package, of Python, and the platform."""
    pairs = {"bqstore": bqstore.__version__}
    for package in ("numpy", "numba", "llvmlite", "langchain-core", "llama-index-core", "openai"):
        with suppress(PackageNotFoundError):  # the frameworks are optional
            pairs[package] = version(package)
    pairs["Python"] = f"{platform.python_implementation()} {platform.python_version()}"
    pairs["platform"] = f"{platform.platform()}, {os.cpu_count()} cores"
    return pairs


# ---- tune


def tuning(found: bqstore.SearchParams, target: float, k: int, collection: str) -> RenderableType:
    """The settings that `Collection.tune` found and stored."""
    pairs = {
        "oversampling": f"{found.oversampling:g}",
        "rescore": str(found.rescore),
        "hnsw_ef": "default" if found.hnsw_ef is None else f"{found.hnsw_ef:,}",
    }
    stored = f"Stored as the defaults of collection {collection!r}: searches without keywords use them from now on."
    title = f"The fastest settings that reach recall@{k} of {target:g}, with 95% confidence"
    return Group(_pairs(title, pairs), Text(stored))


# ---- search


def explanation(how: bqstore.Explanation) -> RenderableType:
    """How a search was done, and its cost."""
    way = formatting.SEARCHES.get(how.way, "words were looked up")
    pairs = {
        "search": way if how.mode != "hybrid" else f"{way}; and words were looked up",
        "words": ", ".join(how.words),
        "words in most texts": ", ".join(how.common),
        "documents that match": f"{how.accepted:,} ({how.selectivity:.1%} of all)",
        "compared": f"{how.distances:,} " + ("vectors" if how.way == "exact" else "codes"),
        "nodes of the graph": f"{how.hops:,} followed, with hnsw_ef={how.hnsw_ef}" if how.hops else "",
        "rescored": f"{how.rescored:,} of {how.candidates:,} candidates" if how.candidates else "",
        "not in the graph": f"{how.tail:,}" if how.linked else "",
        "graph not walked": "vectors that match are shorter than others" if how.shorter else "",
        "kernels": how.kernels,
    }
    return _pairs("How it was searched", pairs)


# ---- bench


def bench(rows: "Sequence[Row]", info: bqstore.CollectionInfo, k: int, queries: int, held_out: bool) -> RenderableType:
    """Recall and speed of a store's searches on this machine."""
    about = f"{info.count:,} documents of {info.dim or 0:,} dimensions, {queries:,} queries"
    narrow, wide = (_bench(f"{about}, {os.cpu_count()} cores", rows, k, columns) for columns in (4, 6))
    asked = "Queries are documents, each left out of its own result" if held_out else "Queries were given"
    note = f"{asked}. One by one on one thread; a batch on all. What else this machine does slows it down."
    return Group(_ForWidth(wide, narrow), Text(note))


def _bench(title: str, rows: "Sequence[Row]", k: int, columns: int) -> Table:
    names = ("search", f"recall@{k}", "ms", "queries/s", "slowest ms", "in a batch")[:columns]
    table = _table(title, *names, numbers=columns - 1)
    for row in rows:
        cells = (
            row.name,
            "-" if row.recall is None else f"{row.recall:.3f}",
            formatting.milliseconds(row.milliseconds),
            f"{row.alone:,.0f}",
            formatting.milliseconds(row.slowest),
            f"{row.together:,.0f}/s",
        )
        table.add_row(*cells[:columns], style="bold" if row is rows[0] else "")
    return table


# ---- plan


def plan(setup: "Setup", found: dict[str, Any], qps: float) -> Sequence[RenderableType]:
    """What a collection needs, the largest collection of some machines, and the cluster."""
    size = formatting.size
    parts, states, files, one = (found[name] for name in ("memory", "memory_while", "disk", "machine"))
    each = {name: n / setup.vectors for name, n in parts.items() if name != "process"}
    total = sum(files.values())
    taken = {
        "a vector": f"{sum(each.values()):,.0f} B in memory: "
        + ", ".join(f"{name} {n:,.0f}" for name, n in each.items())
        + f"; as float32 it is {4 * setup.dim:,} B",
        "memory": f"{size(states['searching'])}; at most {size(states['adding'])} while adding and "
        f"{size(states['compacting'])} while compacting",
        "disk": f"{size(total)}: " + ", ".join(f"{name} {size(n)}" for name, n in files.items() if n),
    }
    kept = "no originals" if setup.originals == "none" else f"originals as {setup.originals}"
    title = f"{setup.vectors:,} vectors of {setup.dim:,} dimensions, {setup.encoding}, {kept}"
    machine = f"One machine of {size(one['memory'])} and {one['cores']} cores"
    seconds = one["query_seconds"]
    does = {
        "it holds them": "yes" if one["fits"] else "no: while adding, memory does not suffice",
        "build": f"some {formatting.duration(one['build_seconds'])}, without embedding",
        "a search": f"some {formatting.milliseconds(1e3 * seconds['0.95'])} ms at recall@10 of 0.95 on one thread, "
        f"{formatting.milliseconds(1e3 * seconds['0.99'])} at 0.99",
        "queries": f"some {one['queries_per_second']:,.0f} a second at 0.95"
        + (
            f"; {one['originals_not_cached']:.0%} of the originals do not fit into memory, and are read from a disk "
            f"of {one['disk_reads_per_second']:,} reads a second"
            if one["originals_not_cached"]
            else ""
        ),
    }
    largest = _table("The largest set that a machine holds", "memory", "vectors", numbers=1)
    for memory, n in found["largest"].items():
        largest.add_row(size(memory), f"{n:,}")
    many = found["cluster"]
    cluster = {
        "nodes": f"{many['nodes']} of {size(many['node_memory'])} and {one['cores']} cores",
        "shards": f"{many['shards']}, each on {many['replicas']} nodes",
        "of each node": f"{size(many['memory_of_a_node'])} of memory, {size(many['disk_of_a_node'])} of disk",
        "queries": f"some {many['queries_per_second']:,.0f} a second",
    }
    enough = (
        f"One machine is enough{f' for {qps:,.0f} queries a second' if qps else ''}."
        if found["one_machine"]
        else "One machine is not enough: the same calls on a Qdrant cluster."
    )
    if not one["fits"]:
        del does["a search"], does["queries"], does["build"]
    return (
        _pairs(title, taken),
        _pairs(machine, does),
        largest,
        _pairs("The same on a Qdrant cluster, where one of the nodes may fail", cluster),
        Text(enough, style="bold"),
        Text(f"Measured: {found['measured']}, and so is the cluster."),
    )
