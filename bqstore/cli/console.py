"""Where output goes, and how what goes wrong is told: one message, an exit code, no traceback.

Exit codes: 0 done; 1 it could not be done; 2 the command line was wrong (typer's own); 130 stopped by Ctrl-C.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

import bqstore

from .words import printable


def screen(stderr: bool = False) -> Console:
    """The terminal, or what stands for it: made anew for each use, since tests put other streams in its place."""
    return Console(stderr=stderr, highlight=False)


@contextmanager
def told() -> Iterator[None]:
    """Turn the errors that a user can do something about into a message on stderr and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        screen(stderr=True).print("Stopped.")
        raise typer.Exit(130) from None
    except BrokenPipeError:  # `bqstore info | head`: typer ends quietly
        raise
    except (bqstore.BqstoreError, OSError) as error:
        screen(stderr=True).print(f"bqstore: {printable(str(error))}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


@contextmanager
def opened(path: str, collection: str, read_only: bool) -> "Iterator[bqstore.Collection]":  # quoted: it loads numba
    """A collection that exists: `bqstore.open` would make a new one for a misspelt path, where it may write."""
    try:
        col = bqstore.open(path, collection, read_only=True)
    except bqstore.NotFoundError:
        raise bqstore.NotFoundError(_missing(path, collection)) from None
    if not read_only:
        col.close()
        col = bqstore.open(path, collection)
    with col:
        yield col


def _missing(path: str, collection: str) -> str:
    """What to do about a collection that is not there: most often, it has another name."""
    there = sorted(file.parent.name for file in Path(path).expanduser().glob("*/meta.db"))
    hint = f"; --collection takes one of: {', '.join(there)}" if there else "; is that the folder of a store?"
    return f"there is no collection {collection!r} in {path}{hint}"
