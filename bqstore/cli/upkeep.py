"""The commands that keep a store safe, and bring it to another model: backup, verify, repair, reembed."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

import bqstore

from .commands import Json, Name, Store, app
from .console import console, errors_reported, existing_collection
from .formatting import printable, size

Dest = Annotated[str, typer.Argument(metavar="DEST", help="Folder of the store to write into.")]
Some = Annotated[str | None, typer.Option("--collection", metavar="NAME", help="One of its collections; else all.")]


def collections_in(path: str, wanted: str | None) -> list[str]:
    """The collections to work on: the one that is named, or all there are; "default" where there are none."""
    return [wanted] if wanted is not None else bqstore.collections(path) or ["default"]


def say(text: str) -> None:
    """Print a line as it is, which may hold names of files."""
    console().print(printable(text), markup=False, soft_wrap=True)


@app.command()
def backup(
    path: Store,
    dest: Dest,
    collection: Some = None,
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Bring the copy that is there up to date, writing what differs.")
    ] = False,
) -> None:
    """Copy a store while it is in use, and read the copy back. To restore, open the copy."""
    with errors_reported():
        for name in collections_in(path, collection):
            with existing_collection(path, name, read_only=True) as col:
                done = col.backup(dest, incremental=incremental)
            say(f"{name}: {done.documents:,} documents are in {dest}, read back; {size(done.bytes_written)} written")


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
        typer.echo(json.dumps(found, indent=2))
    for name, report in {} if as_json else found.items():
        say(
            f"{name}: {report['documents']:,} documents and {report['vectors']:,} vectors read; "
            + ("whole" if report["ok"] else "damaged:")
        )
        for problem in report["problems"]:
            say(f"  {problem}")
    if not all(report["ok"] for report in found.values()):
        if not as_json:
            say("Restore a backup, or save what is intact: bqstore repair STORE --to DEST")
        raise typer.Exit(1)


@app.command()
def repair(
    path: Store,
    to: Annotated[str, typer.Option("--to", metavar="DEST", help="Folder of the store to write into.")],
    collection: Some = None,
) -> None:
    """Save what is intact of a damaged store into a new one. The exit code is 1 if documents were lost."""
    lost = 0
    with errors_reported():
        for name in collections_in(path, collection):
            done = bqstore.repair(path, to, name)
            for problem in done.problems:
                say(f"  {problem}")
            say(f"{name}: {done.documents:,} documents are in {to}; {len(done.lost):,} were lost")
            if done.lost:
                again = sum(each.text is not None for each in done.lost)
                say(f"  listed in {done.lost_file}; the texts of {again:,} are intact: embed and add them again")
            lost += len(done.lost)
    if lost:
        raise typer.Exit(1)


_LOCAL = ("model2vec", "fastembed", "sentence-transformers", "wordllama", "llama-cpp")


def _embedder(model: str, dimensions: int | None, base_url: str | None, price: float | None) -> Any:
    """What embeds with the model that is named: of this machine, behind its library's name, or of a server."""
    if model.partition(":")[0] in _LOCAL and base_url is None:
        return bqstore.CachedEmbedder(model)
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
    collection: Name = "default",
    dimensions: Annotated[int | None, typer.Option(min=1, help="Dimensions to ask the model for.")] = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="A server that speaks OpenAI's protocol.")] = None,
    price: Annotated[float | None, typer.Option(min=0.0, help="US$ for a million tokens, if not known.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before texts are sent.")] = False,
) -> None:
    """Embed all texts again with another model, and replace all vectors in one commit, while the store is in use.

    The cost is told first. What is interrupted goes on when it is started again.
    """
    with (
        errors_reported(),
        _embedder(model, dimensions, base_url, price) as embedder,
        existing_collection(path, collection, read_only=False) as col,
    ):
        plan = col.reembed_plan(embedder)
        cost = "unknown" if plan.price is None else f"US$ {plan.price:,.4f}"
        tokens = "an unknown number of" if plan.tokens is None else f"at most {plan.tokens:,}"
        say(
            f"{plan.documents:,} texts of {plan.characters:,} characters, {tokens} tokens, price {cost}"
            + (f"; {plan.done:,} are done already" if plan.done else "")
            + (f"; {plan.cached:,} are in the cache" if plan.cached else "")
        )
        if not yes:
            typer.confirm("Send them?", abort=True)
        done = col.reembed(embedder)
        say(f"{done.documents:,} documents have vectors of {done.model}, of {done.dim or 0:,} dimensions")
