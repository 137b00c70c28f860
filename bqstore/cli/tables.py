"""Answers as tables for a terminal of 80 columns. Texts of the user go in as plain text, never as markup."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

import bqstore

from . import words


def _table(title: str, *columns: str, numbers: int) -> Table:
    """A table whose last ``numbers`` columns are figures."""
    table = Table(
        title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for i, name in enumerate(columns):
        figures = i >= len(columns) - numbers
        table.add_column(name, justify="right" if figures else "left", no_wrap=figures)
    return table


def _note(table: Table, text: str) -> None:
    """A line below a table."""
    table.caption, table.caption_justify = Text(text), "left"


def _pairs(title: str, pairs: dict[str, str]) -> RenderableType:
    """Names and what they are; those of which there is nothing to say are left out."""
    table = Table(box=box.SIMPLE, show_header=False)
    for name, value in pairs.items():
        if value:
            table.add_row(name, Text(words.printable(value)))
    return Group(Text(title, style="bold"), table)  # a title of the table's own would be as narrow as the table


# ---- recall


def recall(report: bqstore.RecallReport) -> RenderableType:
    """The report: the setting in use, all that were measured, memory, the verdict."""
    stored = tuple(point for point in report.points if point.stored)
    trials = tuple(point for point in report.points if not point.stored)
    parts: list[RenderableType] = [_in_use(report), _points(report, "Settings measured on the stored codes", stored)]
    if trials:
        title = f"Other encodings: codes of {report.scanned:,} documents, made for this report and scanned"
        parts.append(_points(report, title, trials))
    how = "of them, each left out of its own answer" if report.held_out else "queries that were given"
    against = f"Against exact search on {report.documents:,} documents, for {report.queries:,} {how}."
    said = " ".join(filter(None, (words.small(report), against)))
    return Group(*parts, _memory(report), Text(said), Text(report.verdict, style="bold"))


def _in_use(report: bqstore.RecallReport) -> RenderableType:
    point = report.current
    pairs = {
        f"recall@{report.k}": f"{report.recall:.3f} (95% interval {words.interval(report.low, report.high)})",
        "time per query": f"{words.milliseconds(report.milliseconds)} ms, median on one thread; "
        f"95 of 100 within {words.milliseconds(point.slowest)} ms",
        "codes": words.codes(point.quantization),
        "query encoding": point.quantization.query_encoding,
        "searches": words.searches(point.way, point),
        "memory": words.size(point.memory_bytes),
    }
    return _pairs("The setting in use", pairs)


def _points(report: bqstore.RecallReport, title: str, points: tuple[bqstore.RecallPoint, ...]) -> Table:
    columns = ("codes", "over-\nsampling", "hnsw_ef", f"recall@{report.k}", "95% interval", "ms")
    table = _table(title, *columns, numbers=5)
    for name, group in words.groups(points).items():
        table.add_row(Text(name, style="bold"))
        for i, point in enumerate(group):
            in_use = point == report.current
            table.add_row(
                "  in use" if in_use else "",
                words.oversampling(point),
                words.beam(point),
                f"{point.recall:.3f}",
                words.interval(point.low, point.high),
                words.milliseconds(point.milliseconds),
                style="bold" if in_use else "",
                end_section=i == len(group) - 1,
            )
    if not all(point.rescore for point in points):
        _note(table, "oversampling off: ordered by the codes alone, not rescored")
    return table


def _memory(report: bqstore.RecallReport) -> Table:
    table = _table("Memory by encoding", "codes", "memory", "", numbers=2)
    by_encoding = words.memory(report)
    most = next(iter(by_encoding.values()))
    for name, n in by_encoding.items():
        table.add_row(name, words.size(n), words.times_less(n, most))
    return table


# ---- info


def facts(info: bqstore.CollectionInfo) -> RenderableType:
    """What a collection is and what it takes."""
    q, hnsw = info.quantization, info.hnsw
    graph = f"{info.linked:,} linked, {words.size(info.graph_bytes)}" if info.linked else "none yet"
    holds = {
        "store": info.path or "in memory",
        "documents": f"{info.count:,}" + (f" (and {info.deleted:,} slots to compact)" if info.deleted else ""),
        "dimensions": f"{info.dim:,}" if info.dim else "not settled yet",
        "distance": info.distance,
        "embedding model": info.embedding_model or "",
    }
    takes = {
        "codes": f"{words.codes(q)}: {info.code_bytes:,} B each, float32 {info.vector_bytes:,} B"
        + (f" ({info.compression:.1f} times more)" if info.compression else ""),
        "query encoding": q.query_encoding,
        "memory": f"{words.size(info.memory_bytes)}, codes and graph",
        "graph": f"{graph} (m={hnsw.m}, ef_construct={hnsw.ef_construct})",
        "originals": f"{info.originals}, {info.original_bytes:,} B each",
        "disk": words.size(info.disk_bytes),
        "searches": words.searches(info.way, info.search),
        "format": f"version {info.format_version}, generation {info.generation}",
    }
    return _pairs(f"Collection {info.collection}", {**holds, **takes})


def choice(chosen: bqstore.Choice, kept: bqstore.Quantization) -> RenderableType:
    """Why a collection is encoded as it is: every way that was tried."""
    title = f"Encodings measured on {chosen.vectors:,} documents and {chosen.queries:,} queries"
    columns = ("codes", "", "bytes", f"recall@{chosen.k}", "codes alone", "ns a code")
    table = _table(title, *columns, numbers=4)
    for trial in chosen.trials:
        q = trial.quantization
        is_kept = words.codes(q) == words.codes(kept)
        table.add_row(
            words.codes(q),
            "kept" if is_kept else "",
            f"{trial.code_bytes:,}",
            f"{trial.recall:.3f}",
            f"{trial.raw_recall:.3f}",
            f"{trial.nanoseconds:.1f}",
            style="bold" if is_kept else "",
        )
    _note(table, f"recall@{chosen.k} with {chosen.oversampling:g} times {chosen.k} candidates rescored")
    return Group(table, Text(words.printable(chosen.reason)))


# ---- tune


def tuned(found: bqstore.SearchParams, target: float, k: int, collection: str) -> RenderableType:
    """What `Collection.tune` has kept."""
    pairs = {
        "oversampling": f"{found.oversampling:g}",
        "rescore": str(found.rescore),
        "hnsw_ef": "default" if found.hnsw_ef is None else f"{found.hnsw_ef:,}",
    }
    kept = f"Stored as the defaults of collection {collection!r}: searches without keywords use them from now on."
    return Group(_pairs(f"The cheapest settings that surely (95%) reach recall@{k} of {target:g}", pairs), Text(kept))
