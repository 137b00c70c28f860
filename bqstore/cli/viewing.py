"""`bqstore view`: a page to look at a collection, written to a file or served on loopback."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

import bqstore

from .console import emit, errors_reported, existing_collection, note, say
from .files import check_report_path
from .options import Json, Name, Store, app
from .searching import FilterOption, read_filter

_FILE = Path("bqstore-view.html")


@app.command()
def view(
    path: Store,
    to: Annotated[Path, typer.Option("--to", metavar="FILE.html", help="Where the page is written.")] = _FILE,
    collection: Name = None,
    documents: Annotated[
        int,
        typer.Option(
            metavar="NUMBER",
            min=1,
            max=5000,
            help="Documents on the page; of more, a random sample.",
        ),
    ] = 2000,
    filter_: FilterOption = None,
    recall: Annotated[bool, typer.Option("--recall", help="Measure recall and time of other settings, too.")] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the page to browsers of this machine instead, until Ctrl-C.")
    ] = False,
    port: Annotated[
        int, typer.Option(metavar="NUMBER", min=0, max=65535, help="With --serve: the port; 0: any that is free.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Write a page to look at a store: documents to search, a map of their vectors, scores, recall, memory, health.

    It is one file that needs no network and no server. A served page shows the store as it is when it is loaded.
    """
    with errors_reported():
        if serve and to != _FILE:
            raise bqstore.InvalidInputError("--serve writes no file: leave out --to, or --serve")
        check_report_path(None, "bqstore view")
        if not serve:
            check_report_path(to, "--to")
        wanted = read_filter(filter_)
        with existing_collection(path, collection, read_only=True) as col:
            from .view_data import View, looked_at
            from .view_page import damage, page, summary

            report = col.recall() if recall else None
            others = [name for name in bqstore.collections(path) if name != col.info().collection]

            def looked(found: dict[str, Any] | None) -> View:
                return looked_at(col, others, documents, found, report)

            if serve:

                def make(asked: str) -> str:
                    return page(looked(read_filter(asked or None)), path, served=asked)

                _serve(port, make, "" if filter_ is None else filter_, as_json)
                return
            seen = looked(wanted)
            text = page(seen, path)
            _write(to, text)
            if as_json:
                emit({**summary(seen), "file": str(to), "bytes": len(text.encode())})
            else:
                say(f"The page is in {to}: {len(seen.documents):,} of {seen.matching:,} documents.")
            if seen.damaged:
                note(f"bqstore: {damage(seen, path)}")
                raise typer.Exit(1)


def _write(to: Path, text: str) -> None:
    """Write the page; a new file is readable by its user only, as the files of a store are."""
    with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _serve(port: int, make: Any, filter_: str, as_json: bool) -> None:
    from urllib.parse import urlencode

    from .view_server import LOOPBACK, Server

    make(filter_)  # report errors before the address is shown
    try:
        server = Server(port, make)
    except OSError as error:
        raise bqstore.InvalidInputError(
            f"port {port} of {LOOPBACK} cannot be used: {error.strerror}; --port takes another, or 0 for any"
        ) from None
    with server:
        address = server.address + (f"?{urlencode({'filter': filter_})}" if filter_ else "")
        if as_json:
            emit({"address": address})
        else:
            say(f"Open {address} in a browser of this machine; Ctrl-C ends it.")
        server.serve_forever()
