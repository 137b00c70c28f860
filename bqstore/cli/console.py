"""The terminal: where output goes, and how errors are reported: one line on stderr and an exit code, no traceback.

Exit codes: 0 success; 1 failure; 2 a wrong command line (typer); 130 interrupted by Ctrl-C.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

import bqstore

from .formatting import printable


def console(stderr: bool = False) -> Console:
    """Return the terminal; a new object for each use, since tests replace the streams."""
    return Console(stderr=stderr, highlight=False)


@contextmanager
def errors_reported() -> Iterator[None]:
    """Report the errors that a user can act on, and exit."""
    try:
        yield
    except KeyboardInterrupt:
        console(stderr=True).print("Stopped.")
        raise typer.Exit(130) from None
    except BrokenPipeError:  # `bqstore info | head`: typer exits quietly
        raise
    except (bqstore.BqstoreError, OSError) as error:
        console(stderr=True).print(f"bqstore: {printable(str(error))}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


@contextmanager
def existing_collection(path: str, collection: str, read_only: bool) -> "Iterator[bqstore.Collection]":
    """Open a collection that exists: for a misspelt path, `bqstore.open` would make a new one.

    Raises NotFoundError, which names the collections that there are.
    """
    try:
        col = bqstore.open(path, collection, read_only=True)
    except bqstore.NotFoundError:
        there = sorted(file.parent.name for file in Path(path).expanduser().glob("*/meta.db"))
        hint = f"; --collection takes one of: {', '.join(there)}" if there else "; is that the folder of a store?"
        raise bqstore.NotFoundError(f"there is no collection {collection!r} in {path}{hint}") from None
    if not read_only:
        col.close()
        col = bqstore.open(path, collection)
    with col:
        yield col
