"""The commands and their options. Each opens a collection, calls one method, and prints the result.

`console.py` turns errors into messages, `tables.py` results into tables, `report.py` a recall report into a page.
"""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import bqstore

from . import tables
from .console import console, errors_reported, existing_collection
from .files import check_report_path, read_queries
from .formatting import printable

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Describe a bqstore collection, measure the recall of its searches, tune them, and compile what they run on.",
)

Store = Annotated[str, typer.Argument(metavar="PATH", help="Folder of the store.")]
Name = Annotated[str, typer.Option("--collection", metavar="NAME", help="Which of its collections.")]
K = Annotated[int, typer.Option("-k", min=1, max=10_000, help="How many nearest documents a search asks for.")]
Sample = Annotated[int, typer.Option(min=1, help="How many documents to use as queries, if no file gives any.")]
Queries = Annotated[
    Path | None,
    typer.Option(metavar="FILE.npy", help="Embeddings of your own queries: one numpy array, one row each."),
]
Report = Annotated[
    Path | None,
    typer.Option(metavar="FILE.html", help="Write the report, with figures, as one page that needs no network."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")]
Target = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Recall to reach: the share of the true nearest found, such as 0.98.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bqstore {bqstore.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Handle the options that come before a command."""


@app.command()
def info(
    path: Annotated[str | None, typer.Argument(metavar="PATH", help="Folder of the store.")] = None,
    collection: Name = "default",
) -> None:
    """Describe a collection: its settings, its memory, why it is encoded as it is; and the versions in use.

    Without PATH: the versions alone.
    """
    with errors_reported():
        if path is not None:
            with existing_collection(path, collection, read_only=True) as col:
                found = col.info()
            console().print(tables.info(found))
            if found.choice is not None:
                console().print(tables.choice(found.choice, found.quantization))
        console().print(tables.versions())


@app.command("warm-up")
def warm_up(
    only: Annotated[
        str, typer.Option(metavar="core|graph|all", help="What small collections need, what large ones do, or both.")
    ] = "all",
) -> None:
    """Compile what searches run on, so that no program waits for it: for images, functions and caches of CI."""
    with errors_reported():
        started = time.perf_counter()
        bqstore.warm_up(only)
        if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
            console().print("Nothing was compiled: NUMBA_DISABLE_JIT is set, and numpy answers.")
        else:
            console().print(
                f"Compiled for this processor, or found compiled, in {time.perf_counter() - started:.1f} s."
            )


@app.command()
def recall(
    path: Store,
    collection: Name = "default",
    k: K = 10,
    sample: Sample = 200,
    queries: Queries = None,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Measure the recall of searches against exact search on the same vectors, with these and other settings."""
    with errors_reported():
        if report is not None:
            check_report_path(report)  # before the minutes that measuring may take
        given = None if queries is None else read_queries(queries)
        with existing_collection(path, collection, read_only=True) as col:
            measured = col.recall(given, k=k, sample=sample)
        if as_json:
            typer.echo(json.dumps(asdict(measured), indent=2, allow_nan=False))
        else:
            console().print(tables.recall(measured))
        if report is not None:  # last, so that the result is on the screen if it cannot be written
            from .report import page

            report.write_text(page(measured, path, collection), "utf-8")
            message = f"The report is in {printable(str(report))}"
            console(stderr=True).print(message, markup=False, soft_wrap=True)


@app.command()
def tune(path: Store, target: Target, collection: Name = "default", k: K = 10, queries: Queries = None) -> None:
    """Find the fastest search settings that reach a recall, and store them as the collection's defaults."""
    with errors_reported():
        given = None if queries is None else read_queries(queries)
        with existing_collection(path, collection, read_only=False) as col:
            found = col.tune(target, k=k, queries=given)
        console().print(tables.tuning(found, target, k, collection))
