"""The commands that keep a store safe: backup."""

from pathlib import Path
from typing import Annotated

import typer

from .commands import Store, app
from .console import console, errors_reported, existing_collection
from .formatting import printable, size

Dest = Annotated[str, typer.Argument(metavar="DEST", help="Folder of the store to write into.")]
Some = Annotated[str | None, typer.Option("--collection", metavar="NAME", help="One of its collections; else all.")]


def collections_in(path: str, wanted: str | None) -> list[str]:
    """The collections to work on: the one that is named, or all there are; "default" where there are none."""
    there = sorted(file.parent.name for file in Path(path).expanduser().glob("*/meta.db"))
    return [wanted] if wanted is not None else there or ["default"]


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
