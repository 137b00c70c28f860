"""The maintenance commands: backup, verify, repair, compact, copy, reembed."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

import bqstore
from bqstore.progress import Progress

from .console import collection_of, emit, errors_reported, existing_collection, note, say
from .embedders import LOCAL, embedder_named
from .formatting import size
from .options import Json, Name, Store, app

Dest = Annotated[str, typer.Argument(metavar="DEST", help="Folder of the store to write into.")]
Some = Annotated[str | None, typer.Option("--collection", metavar="NAME", help="One of its collections; else all.")]


def collections_in(path: str, wanted: str | None) -> list[str]:
    """The collections to work on: the one that was named, or all; "default" if there are none."""
    return [wanted] if wanted is not None else bqstore.collections(path) or ["default"]


@app.command()
def backup(
    path: Store,
    dest: Dest,
    collection: Some = None,
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Update an existing copy, writing only the differences.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Copy a store while it is in use, and read the copy back. To restore, open the copy."""
    told: dict[str, Any] = {}
    with errors_reported():
        for name in collections_in(path, collection):
            with existing_collection(path, name, read_only=True) as col:
                done = col.backup(dest, incremental=incremental)
            told[name] = asdict(done)
            if not as_json:
                say(
                    f"{name}: {done.documents:,} documents are in {dest}, read back; {size(done.bytes_written)} written"
                )
        if as_json:
            emit(told)


@app.command()
def compact(path: Store, collection: Some = None, as_json: Json = False) -> None:
    """Free the space of deleted or replaced documents; none of their data is left in any file."""
    told: dict[str, dict[str, int]] = {}
    with errors_reported():
        for name in collections_in(path, collection):
            with existing_collection(path, name, read_only=False) as col:
                before = col.info()
                col.compact()
                after = col.info()
            told[name] = {
                "documents": after.count,
                "removed": before.deleted,
                "disk_bytes": after.disk_bytes,
                "disk_bytes_before": before.disk_bytes,
            }
            if not as_json:
                say(
                    f"{name}: the space of {before.deleted:,} deleted or replaced documents is given back, "
                    f"{size(before.disk_bytes)} are {size(after.disk_bytes)} now; {after.count:,} documents"
                )
        if as_json:
            emit(told)


@app.command()
def copy(
    path: Annotated[str, typer.Argument(metavar="STORE", help="Folder of the store, or qdrant://...")],
    dest: Annotated[str, typer.Argument(metavar="DEST", help="Folder of the store to write into, or qdrant://...")],
    collection: Some = None,
    to: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Name of the copy, of one collection.")] = None,
    as_json: Json = False,
) -> None:
    """Copy collections, verifying every record, into another store, or under another name into the same store.

    Other programs may write meanwhile. The copy appears only when it is complete and on disk. To keep a copy up to
    date, use backup --incremental.

    Either store may be a Qdrant server, qdrant://host:6333/name (its key in QDRANT_API_KEY): documents are streamed, an
    interrupted copy continues when it is started again, and the copy is compared with its source; the exit code is 1 if
    they differ.
    """
    if "qdrant://" in (path[:9], dest[:9]):
        _stream(path, dest, collection, to, as_json)
        return
    told: dict[str, str] = {}
    with errors_reported():
        for name in collections_in(path, collection) if to is None else [collection_of(path, collection)]:
            with existing_collection(path, name, read_only=True):
                pass  # so that a wrong path is reported as by other commands
            told[name] = name if to is None else to
            bqstore.copy(path, name, told[name], to=dest)
            if not as_json:
                say(f"{name}: copied into {dest}" + ("" if to is None else f" as {to}"))
        if as_json:
            emit(told)


def _stream(path: str, dest: str, collection: str | None, to: str | None, as_json: bool) -> None:
    """Copy a collection to or from a server."""
    with errors_reported(), Progress("copying", describe=_rate) as progress:
        name = "default" if path.startswith("qdrant://") and collection is None else collection_of(path, collection)
        done = bqstore.copy(path, name, to, to=dest, progress=progress)
        assert done is not None
    if as_json:
        emit({**asdict(done), "ok": done.ok})
    else:
        again = f", {done.resumed:,} by the run before" if done.resumed else ""
        say(f"{done.copied:,} documents copied in {done.seconds:.1f} s{again}; {done.there:,} are in {dest}")
        found = "" if done.recall is None else f"; searches of the copy find {done.recall:.1%} of the true nearest"
        say(f"{done.compared:,} read back and compared{found}")
        if not done.same_ids:
            say(f"The ids differ: the source has {done.documents:,} documents. Was one of them written to meanwhile?")
        if done.differing:
            say(f"{len(done.differing):,} of those compared differ: {', '.join(done.differing[:5])}")
    if not done.ok:
        raise typer.Exit(1)


def _rate(done: int, total: int | None, seconds: float) -> str:
    return f"{100 * done // max(1, total or 0)}%, {done / max(seconds, 1e-9):,.0f} a second"


@app.command()
def verify(path: Store, collection: Some = None, as_json: Json = False) -> None:
    """Read every byte of a store and compare it with its checksums and counts. The exit code is 1 if it is damaged."""
    found: dict[str, dict[str, Any]] = {}
    with errors_reported():
        for name in collections_in(path, collection):
            try:
                with existing_collection(path, name, read_only=True) as col:
                    found[name] = asdict(col.verify())
            except bqstore.CorruptionError as error:  # it cannot be opened
                found[name] = {"ok": False, "problems": [str(error)], "documents": 0, "vectors": 0}
    if as_json:
        emit(found)
    for name, report in {} if as_json else found.items():
        say(
            f"{name}: {report['documents']:,} documents and {report['vectors']:,} vectors read; "
            + ("whole" if report["ok"] else "damaged:")
        )
        for problem in report["problems"]:
            say(f"  {problem}")
    if not all(report["ok"] for report in found.values()):
        problems = [problem for report in found.values() for problem in report["problems"]]
        if as_json:
            pass
        elif all(problem.startswith("codes-") for problem in problems):
            say("Only codes are damaged, and nothing is lost: bqstore compact STORE makes them anew from the originals")
        else:
            say("Restore a backup, or save what is intact: bqstore repair STORE --to DEST")
        raise typer.Exit(1)


@app.command()
def repair(
    path: Store,
    to: Annotated[str, typer.Option("--to", metavar="DEST", help="Folder of the store to write into.")],
    collection: Some = None,
    as_json: Json = False,
) -> None:
    """Save the intact documents of a damaged store into a new one. The exit code is 1 if documents were lost."""
    lost, told = 0, {}
    with errors_reported():
        if not Path(path).expanduser().exists():
            raise bqstore.NotFoundError(f"there is no folder {path}")
        for name in collections_in(path, collection):
            done = bqstore.repair(path, to, name)
            lost, told[name] = lost + len(done.lost), asdict(done)
            if as_json:
                continue
            for problem in done.problems:
                say(f"  {problem}")
            say(f"{name}: {done.documents:,} documents are in {to}; {len(done.lost):,} were lost")
            if done.lost:
                again = sum(each.text is not None for each in done.lost)
                intact = f"; the texts of {again:,} are intact: embed and add them again" if again else ""
                say(f"  listed in {done.lost_file}{intact}")
        if as_json:
            emit(told)
    if lost:
        raise typer.Exit(1)


def _embedder(model: str, dimensions: int | None, base_url: str | None, price: float | None) -> Any:
    """The embedder with this name: local, as LIBRARY:MODEL, or of a server with OpenAI's API."""
    if model.partition(":")[0] in LOCAL and base_url is None:
        return embedder_named(model)
    return bqstore.OpenAIEmbedder(model, dimensions=dimensions, base_url=base_url, price=price)


@app.command()
def reembed(
    path: Store,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="NAME",
            help="OpenAI's model, or the server's; or one of this machine: model2vec:NAME, fastembed:NAME ...",
        ),
    ],
    collection: Name = None,
    dimensions: Annotated[
        int | None, typer.Option(metavar="NUMBER", min=1, help="Dimensions to ask the model for.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="A server that speaks OpenAI's protocol.")] = None,
    price: Annotated[
        float | None, typer.Option(metavar="NUMBER", min=0.0, help="US$ for a million tokens, if not known.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before texts are sent.")] = False,
    as_json: Json = False,
) -> None:
    """Embed all texts again with another model, and replace all vectors in one commit, while the store is in use.

    The price is shown first. An interrupted run continues when it is started again.
    """
    with (
        errors_reported(),
        _embedder(model, dimensions, base_url, price) as embedder,
        existing_collection(path, collection, read_only=False) as col,
    ):
        plan = col.reembed_plan(embedder)
        cost = "unknown" if plan.price is None else f"US$ {plan.price:,.4f}"
        tokens = "an unknown number of" if plan.tokens is None else f"at most {plan.tokens:,}"
        (note if as_json else say)(
            f"{plan.documents:,} texts of {plan.characters:,} characters, {tokens} tokens, price {cost}"
            + (f"; {plan.done:,} are done already" if plan.done else "")
            + (f"; {plan.cached:,} are in the cache" if plan.cached else "")
        )
        if not yes:
            typer.confirm("Send them?", abort=True, err=as_json)
        done = col.reembed(embedder)
        if as_json:
            emit(done)
        else:
            say(f"{done.documents:,} documents have vectors of {done.model}, of {done.dim or 0:,} dimensions")
