"""The commands import, from other stores and files, and export."""

from dataclasses import asdict
from typing import Annotated

import typer

from bqstore import importers
from bqstore.progress import Progress

from .console import emit, errors_reported, existing_collection, say
from .options import Json, Name, Store, app

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="Folder or file of another store.")]
Target = Annotated[str, typer.Argument(metavar="STORE", help="Folder of the store to write into.")]
_SHOWN = 5  # documents listed by id; more are only counted


@app.command("import")
def import_(
    source: Source,
    store: Target,
    collection: Annotated[
        str, typer.Option("--collection", metavar="NAME", help="Which of its collections.")
    ] = "default",
    kind: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"One of {', '.join(importers.KINDS)}; else by its files.")
    ] = None,
    from_collection: Annotated[str | None, typer.Option(metavar="NAME", help="Which collection of the source.")] = None,
    distance: Annotated[
        str | None, typer.Option(metavar="NAME", help="cosine, dot or euclid; else the source's.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report what would be imported, and write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Import documents of FAISS, Chroma, Qdrant, LanceDB, sqlite-vec, LlamaIndex, Parquet or JSON lines.

    The source is not changed. An interrupted import continues when it is started again. At the end every document is
    read back and compared; the exit code is 1 if one differs.
    """
    with errors_reported():
        found = importers.open_source(source, kind=kind, from_collection=from_collection)
        named = importers.KINDS[found.kind].named + (f", collection {found.collection!r}" if found.collection else "")
        if not as_json:
            say(f"{named}: {found.count:,} documents of {found.dim:,} dimensions, {distance or found.distance}")
        settings = {} if distance is None else {"distance": distance}
        with Progress("importing", found.count) as progress:
            done = importers.import_from(found, store, collection, dry_run=dry_run, progress=progress, **settings)
    if as_json:
        emit({**asdict(done), "ok": done.ok})
    else:
        _tell(done, dry_run)
    if not done.ok:
        raise typer.Exit(1)


def _tell(done: importers.ImportReport, dry_run: bool) -> None:
    for note in done.notes:
        say(f"  {note}")
    if dry_run:
        say("Nothing was written.")
        return
    say(f"{done.added:,} added, {done.unchanged:,} were there already; {done.compared:,} read back and found the same")
    if done.neighbors is not None:
        say(f"{done.neighbors:.1%} of the true nearest neighbors of a sample are found by exact search")
    for each in done.skipped[:_SHOWN]:
        say(f"  {each.id} was left out: {each.reason}")
    if len(done.skipped) > _SHOWN:
        say(f"  and {len(done.skipped) - _SHOWN:,} more were left out")
    if done.differing:
        some = ", ".join(done.differing[:_SHOWN])
        say(f"{len(done.differing):,} documents differ from the source: {some}; was it written to meanwhile?")


@app.command()
def export(
    path: Store,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A new .jsonl, .npz, .parquet or .arrow file.")],
    collection: Name = None,
    as_json: Json = False,
) -> None:
    """Write all documents to a file that `bqstore import` reads back without loss."""
    with errors_reported():
        with existing_collection(path, collection, read_only=True) as col:
            count, distance = importers.export(col, file), col.info().distance
        if as_json:
            emit({"documents": count, "file": file, "distance": distance})
        else:
            again = "" if distance == "cosine" else f"; import with --distance {distance}"
            say(f"{count:,} documents are in {file}{again}")
