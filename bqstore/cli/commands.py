"""The commands and their options. Each opens a collection, calls one method, and prints the result.

`console.py` turns errors into messages, `tables.py` results into tables, `report.py` a recall report into a page.
"""

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import bqstore

from . import formatting, tables
from .console import collection_of, emit, errors_reported, existing_collection, note, say, show
from .files import check_report_path, read_queries
from .options import Json, K, Name, Store, app

_DESCRIBED = 3  # collections described in full; if a store has more, they are only listed

Sample = Annotated[
    int, typer.Option(metavar="NUMBER", min=1, help="How many documents to use as queries, if no file gives any.")
]
Queries = Annotated[
    Path | None,
    typer.Option(metavar="FILE.npy", help="Embeddings of your own queries: one numpy array, one row each."),
]
Report = Annotated[
    Path | None,
    typer.Option(metavar="FILE.html", help="Write the report, with figures, as one page that needs no network."),
]
Target = Annotated[
    float,
    typer.Option(
        metavar="NUMBER", min=0.0, max=1.0, help="Recall to reach, such as 0.98: the share of the true nearest."
    ),
]


@app.command()
def info(
    path: Annotated[str | None, typer.Argument(metavar="STORE", help="Folder of the store.")] = None,
    collection: Name = None,
    as_json: Json = False,
) -> None:
    """Describe a store: its collections, their settings and memory, why their encodings were chosen; and versions.

    Without --collection: all collections, in full if there are few, otherwise as a list. Without STORE: only the
    versions.
    """
    with errors_reported():
        found: list[bqstore.CollectionInfo] = []
        if path is not None:
            several: list[str | None] = [collection] if collection is not None else [*bqstore.collections(path)]
            for name in several or [collection]:
                with existing_collection(path, name, read_only=True) as col:
                    found.append(col.info())
        if as_json:
            emit({"versions": tables.versions_in_use(), "collections": [asdict(each) for each in found]})
            return
        if len(found) > 1:
            show(tables.collections(found))
        for each in found if len(found) <= _DESCRIBED else []:
            show(tables.info(each))
            if each.choice is not None:
                show(tables.choice(each.choice, each.quantization))
        show(tables.versions())


@app.command("warm-up")
def warm_up(
    only: Annotated[
        str, typer.Option(metavar="core|graph|all", help="core: for small collections; graph: for large.")
    ] = "all",
    as_json: Json = False,
) -> None:
    """Compile the kernels in advance: for container images, serverless functions and CI caches."""
    with errors_reported():
        started = time.perf_counter()
        bqstore.warm_up(only)
        seconds = time.perf_counter() - started
        compiles = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")
        if as_json:
            emit({"compiled": compiles, "seconds": round(seconds, 3)})
        elif compiles:
            say(f"Compiled for this processor, or found compiled, in {seconds:.1f} s.")
        else:
            say("Nothing was compiled: NUMBA_DISABLE_JIT is set, and numpy answers.")


@app.command()
def recall(
    path: Store,
    collection: Name = None,
    k: K = 10,
    sample: Sample = 200,
    queries: Queries = None,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Measure the recall of searches against exact search on the same vectors, with these and other settings."""
    with errors_reported():
        if report is not None:
            check_report_path(report)  # before measuring, which may take minutes
        given = None if queries is None else read_queries(queries)
        with existing_collection(path, collection, read_only=True) as col:
            measured = col.recall(given, k=k, sample=sample)
        if as_json:
            emit(measured)
        else:
            show(tables.recall(measured))
            words, code = formatting.to_do(measured, path, collection_of(path, collection))
            if code:  # the verdict recommends a Python call
                say(f"{words} {code}")
        if report is not None:  # last, so that the result is on the screen even if writing fails
            from .report import page

            report.write_text(page(measured, path, collection_of(path, collection)), "utf-8")
            note(f"The report is in {report}")


@app.command()
def tune(
    path: Store, target: Target, collection: Name = None, k: K = 10, queries: Queries = None, as_json: Json = False
) -> None:
    """Find the fastest search settings that reach a recall, and store them as the collection's defaults."""
    with errors_reported():
        given = None if queries is None else read_queries(queries)
        with existing_collection(path, collection, read_only=False) as col:
            found, name = col.tune(target, k=k, queries=given), col.info().collection
        if as_json:
            emit(found)
        else:
            show(tables.tuning(found, target, k, name))
