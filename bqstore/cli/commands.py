"""The commands, and their words on the command line. Each opens a collection, calls one method, and shows the answer.

How errors become messages is in `console.py`, how answers become tables in `tables.py`, the page in `report.py`.
"""

from pathlib import Path
from typing import Annotated

import typer

import bqstore

from . import tables
from .console import opened, screen, told
from .files import check_target, json_text, read_queries
from .words import printable

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Look at a bqstore collection, measure what its searches find, and tune it.",
)

Store = Annotated[str, typer.Argument(metavar="PATH", help="Folder of the store.")]
Name = Annotated[str, typer.Option("--collection", metavar="NAME", help="Which of its collections.")]
K = Annotated[int, typer.Option("-k", min=1, max=10_000, help="How many nearest documents a search asks for.")]
Sample = Annotated[int, typer.Option(min=1, help="How many documents to pick as queries, where no file gives them.")]
Queries = Annotated[
    Path | None,
    typer.Option(metavar="FILE.npy", help="Embeddings of your own queries: one numpy array, a row each."),
]
Report = Annotated[
    Path | None,
    typer.Option(metavar="FILE.html", help="Write the report as one page, with figures, that needs no network."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON, and nothing else.")]
Target = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Share of the true nearest that searches must find: 0.98, say.")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bqstore {bqstore.__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take what stands before a command: --version."""


@app.command()
def info(path: Store, collection: Name = "default") -> None:
    """Show what a collection is, what it takes, and why it is encoded as it is."""
    with told(), opened(path, collection, read_only=True) as col:
        found = col.info()
        screen().print(tables.facts(found))
        if found.choice is not None:
            screen().print(tables.choice(found.choice, found.quantization))


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
    """Measure what searches find, against exact search on the same vectors, and what other settings would."""
    with told():
        check_target(report)  # before the minutes that measuring may take
        given = None if queries is None else read_queries(queries)
        with opened(path, collection, read_only=True) as col:
            measured = col.recall(given, k=k, sample=sample)
        if as_json:
            typer.echo(json_text(measured))
        else:
            screen().print(tables.recall(measured))
        if report is not None:  # last: what was measured is on the screen if the disk refuses
            from .report import page

            report.write_text(page(measured, path, collection), "utf-8")
            screen(stderr=True).print(f"The report is in {printable(str(report))}", markup=False, soft_wrap=True)


@app.command()
def tune(path: Store, target: Target, collection: Name = "default", k: K = 10, queries: Queries = None) -> None:
    """Find the cheapest settings that reach a recall, and keep them as the collection's defaults."""
    with told():
        given = None if queries is None else read_queries(queries)
        with opened(path, collection, read_only=False) as col:
            found = col.tune(target, k=k, queries=given)
        screen().print(tables.tuned(found, target, k, collection))
