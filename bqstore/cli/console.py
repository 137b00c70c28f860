"""Output, and the reporting of errors: one line on stderr and an exit code, no traceback.

Exit codes: 0 success; 1 failure; 2 a wrong command line (typer); 130 interrupted by Ctrl-C. If a reader closes the
pipe, as `head` does, the rest is not printed, and the exit code is unchanged.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, RenderableType

import bqstore

from .formatting import printable


class Terminal(Console):
    """Rich's console, which continues silently after the pipe was closed."""

    def on_broken_pipe(self) -> None:
        """Discard all further output."""
        _to_nowhere()


def _to_nowhere() -> None:
    with suppress(OSError, ValueError, AttributeError):  # a replaced stream has no file descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def console(stderr: bool = False) -> Console:
    """Return a console; a new one for each use, since tests replace the streams."""
    return Terminal(stderr=stderr, highlight=False, emoji=False)


def show(*what: RenderableType) -> None:
    """Print tables. A value that does not fit, such as a long path, is not broken, so that it can be copied."""
    for each in what:
        console().print(each, crop=False)


def say(text: str) -> None:
    """Print a line without interpreting markup, since it may hold file names."""
    console().print(printable(text), markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a message that is not part of the result, on stderr."""
    console(stderr=True).print(printable(text), markup=False, soft_wrap=True)


def emit(found: Any) -> None:
    """Print a result as JSON and nothing else."""
    try:
        sys.stdout.write(json.dumps(found, indent=2, allow_nan=False, default=_plain) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _to_nowhere()


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


_debug = [False]  # whether errors show their tracebacks


def debug(wanted: bool) -> None:
    """Turn tracebacks of errors on or off."""
    _debug[0] = wanted


@contextmanager
def stopped() -> Iterator[None]:
    """Print "Stopped." on Ctrl-C; typer itself prints nothing."""
    try:
        yield
    except KeyboardInterrupt:
        note("Stopped.")
        raise typer.Exit(130) from None


@contextmanager
def errors_reported() -> Iterator[None]:
    """Report the errors that a user can act on, and exit; with --debug, let them through with their traceback."""
    try:
        with stopped():
            yield
    except (bqstore.BqstoreError, OSError, ImportError) as error:
        own = isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "bqstore"
        if _debug[0] or own:  # a part of bqstore itself is missing
            raise
        note(f"bqstore: {told(error)}")
        raise typer.Exit(1) from None


_WORDS = {"allow_damaged=True": "--allow-damaged", "verify() lists": "`bqstore verify` lists"}
_PACKAGES = {"openai": "openai", "qdrant": "qdrant-client"}  # the package of each extra


def told(error: Exception) -> str:
    """An error's message for the command line, with options in place of Python calls."""
    text = str(error)
    for extra, package in _PACKAGES.items():  # the package itself, as bqstore is not on PyPI yet
        text = text.replace(f'"bqstore[{extra}]"', package)
    for call, word in _WORDS.items():
        text = text.replace(call, word)
    if isinstance(error, OSError) and not isinstance(error, bqstore.BqstoreError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return text


def collection_of(path: str, wanted: str | None) -> str:
    """The collection to use: the one that was named; otherwise the store's only one, or "default".

    Raises as `bqstore.collections`.
    """
    if wanted is not None:
        return wanted
    if path.startswith("qdrant://"):  # the address may name the collection
        return "default"
    there = bqstore.collections(path)
    return there[0] if len(there) == 1 else "default"


@contextmanager
def existing_collection(path: str, collection: str | None, read_only: bool) -> "Iterator[bqstore.Collection]":
    """Open an existing collection; `bqstore.open` would create a new one at a misspelt path.

    Raises NotFoundError with the names of the existing collections.
    """
    name = collection_of(path, collection)
    try:
        col = bqstore.open(path, name, read_only=True)
    except bqstore.NotFoundError:
        if path.startswith("qdrant://"):
            raise
        if not Path(path).expanduser().exists():
            raise bqstore.NotFoundError(f"there is no folder {path}") from None
        there = bqstore.collections(path)
        hint = f"; --collection takes one of: {', '.join(there)}" if there else "; is that the folder of a store?"
        raise bqstore.NotFoundError(f"there is no collection {name!r} in {path}{hint}") from None
    if not read_only:
        col.close()
        col = bqstore.open(path, name)
    with col:
        yield col
