"""The terminal: where output goes, and how errors are reported: one line on stderr and an exit code, no traceback.

Exit codes: 0 success; 1 failure; 2 a wrong command line (typer); 130 interrupted by Ctrl-C. A reader that closes the
pipe, as `head` does, has what it wanted: the rest is not printed, and the exit code is the command's own.
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
    """Rich's console, which goes on, silent, where nobody reads any more."""

    def on_broken_pipe(self) -> None:
        """What is printed from here on goes nowhere."""
        _to_nowhere()


def _to_nowhere() -> None:
    with suppress(OSError, ValueError, AttributeError):  # a stream that a program has replaced has no number
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def console(stderr: bool = False) -> Console:
    """Return the terminal; a new object for each use, since tests replace the streams."""
    return Terminal(stderr=stderr, highlight=False, emoji=False)


def show(*what: RenderableType) -> None:
    """Print tables. What does not fit, such as a long path, is never broken: it can be copied."""
    for each in what:
        console().print(each, crop=False)


def say(text: str) -> None:
    """Print a line as it is, which may hold names of files."""
    console().print(printable(text), markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Say something beside the result, on stderr."""
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


_debug = [False]  # whether errors show where they come from


def debug(wanted: bool) -> None:
    """Show tracebacks of errors from here on, or no longer."""
    _debug[0] = wanted


@contextmanager
def stopped() -> Iterator[None]:
    """Tell in a word that Ctrl-C was heard; typer itself ends in silence."""
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
_PACKAGES = {"openai": "openai", "qdrant": "qdrant-client"}  # what the extra brings


def told(error: Exception) -> str:
    """An error as one line."""
    text = str(error)
    for extra, package in _PACKAGES.items():  # by itself: there is no package of ours to be had yet
        text = text.replace(f'"bqstore[{extra}]"', package)
    for call, word in _WORDS.items():
        text = text.replace(call, word)
    if isinstance(error, OSError) and not isinstance(error, bqstore.BqstoreError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return text


def collection_of(path: str, wanted: str | None) -> str:
    """The collection that is meant: the one that is named, else "default", else the only one there is.

    Raises NotFoundError, which names the collections that there are.
    """
    if wanted is not None:
        return wanted
    if path.startswith("qdrant://"):  # whose address may name it
        return "default"
    there = bqstore.collections(path)
    return there[0] if len(there) == 1 else "default"


@contextmanager
def existing_collection(path: str, collection: str | None, read_only: bool) -> "Iterator[bqstore.Collection]":
    """Open a collection that exists: for a misspelt path, `bqstore.open` would make a new one.

    Raises NotFoundError, which names the collections that there are.
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
