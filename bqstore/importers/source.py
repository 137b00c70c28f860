"""The common form of all sources: a description, and the documents in batches."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import bqstore

F32 = NDArray[np.float32]
AT_ONCE = 1000  # documents in memory at a time


class Batch(NamedTuple):
    """Documents as lists of equal length, and their vectors, float32 (n, dim)."""

    ids: list[str]
    texts: list[str | None]
    metadatas: list[dict[str, Any]]
    vectors: F32


@dataclass(frozen=True)
class Source:
    """The documents of another store, which is opened for reading only.

    Attributes
    ----------
    kind : str          one of `KINDS`
    path : Path
    collection : str    name of the collection that is read; "" for kinds of sources that report none
    count : int         number of documents
    dim : int           dimension of the vectors; 0 if there are none
    distance : str      the source's: "cosine", "dot" or "euclid"
    notes : list of str what is not imported, and why
    batches : callable  iterates over the documents from the beginning, at most `AT_ONCE` at a time
    """

    kind: str
    path: Path
    collection: str
    count: int
    dim: int
    distance: str
    batches: Callable[[], Iterator[Batch]]
    notes: list[str] = field(default_factory=list)


class One(NamedTuple):
    """One document."""

    id: str
    text: str | None
    metadata: dict[str, Any]
    vector: Any


def portions(documents: Iterable[One], dim: int) -> Iterator[Batch]:
    """Documents in batches. Raises InvalidInputError for a vector of another dimension."""
    some: list[One] = []

    def batch() -> Batch:
        vectors = np.empty((len(some), dim), np.float32)
        for row, each in zip(vectors, some, strict=True):
            vector = _floats(each)
            if vector.shape != (dim,):
                raise bqstore.InvalidInputError(
                    f"the vector of document {each.id!r} has the shape {vector.shape}; those before it have ({dim},)"
                )
            row[:] = vector
        return Batch(
            [each.id for each in some], [each.text for each in some], [each.metadata for each in some], vectors
        )

    for each in documents:
        some.append(each)
        if len(some) == AT_ONCE:
            yield batch()
            some = []
    if some:
        yield batch()


def _floats(document: One) -> F32:
    try:
        found = np.asarray(document.vector)
        if found.dtype.kind in "fiu" or (found.dtype.kind == "O" and found.ndim == 1 and found.size):
            return found.astype(np.float32)
    except (TypeError, ValueError, OverflowError):
        pass
    raise bqstore.InvalidInputError(
        f"the vector of document {document.id!r} is {str(document.vector)[:60]!r}; expected a list of real numbers"
    )


def dim_of(document: One) -> int:
    """The dimension of a document's vector. Raises InvalidInputError if it is not a list of numbers."""
    return int(_floats(document).size)


def regular(file: Path) -> Path:
    """The given file. Raises CorruptionError for pipes and devices, whose reading may never end."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise damaged(file, "it is no regular file")
    return file


@contextmanager
def database(file: Path) -> Iterator[sqlite3.Connection]:
    """Open an SQLite file for reading only; any error of SQLite becomes a CorruptionError that names the file.

    Views are refused: one could be named like a table and produce rows without end.
    """
    try:
        with closing(sqlite3.connect(f"{regular(file).absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.set_authorizer(lambda *given: sqlite3.SQLITE_OK if given[4] is None else sqlite3.SQLITE_DENY)
            yield connection
    except sqlite3.Error as error:
        raise damaged(file, error) from None


def by_portions(connection: sqlite3.Connection, sql: str, *parameters: Any) -> Iterator[tuple[Any, ...]]:
    """The rows of a statement, fetched a batch at a time, so that no open statement blocks writers of the file.

    The statement ends with ``LIMIT ?``; its first column is ascending and greater than its first parameter.
    """
    last: Any = -1 << 63
    while some := connection.execute(sql, (last, *parameters, AT_ONCE)).fetchall():
        yield from some
        last = some[-1][0]


def chosen(names: Iterable[str], wanted: str | None, path: Path) -> str:
    """The wanted collection, or the only one. Raises InvalidInputError or NotFoundError with the known names."""
    known = list(names)
    if wanted is not None:
        if wanted in known:
            return wanted
        raise bqstore.NotFoundError(
            f"{path} has no collection {wanted!r}; it has {', '.join(map(repr, known)) or 'none'}"
        )
    if len(known) != 1:
        raise bqstore.InvalidInputError(
            f"{path} has {len(known)} collections ({', '.join(map(repr, known))}); say which: from_collection="
            if known
            else f"{path} has no collection: there is nothing to import"
        )
    return known[0]


def damaged(path: Path, what: object) -> bqstore.CorruptionError:
    """The error for a source that cannot be read."""
    return bqstore.CorruptionError(f"{path} cannot be read: {what}; nothing of it was changed")
