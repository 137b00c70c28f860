"""The kinds of sources, and how the files of each are recognized."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Final, NamedTuple

import bqstore

from . import chroma, faiss_folder, json_stores, qdrant_local, sqlite_vec, tables
from .source import Batch, Source, damaged


class Kind(NamedTuple):
    """How a kind of source is recognized and opened, and its name in messages."""

    named: str
    recognizes: Callable[[Path], bool]
    open: Callable[[Path, str | None], Source]


KINDS: Final = {
    "faiss": Kind("LangChain's FAISS folder", faiss_folder.recognizes, faiss_folder.open_source),
    "chroma": Kind("Chroma's folder", chroma.recognizes, chroma.open_source),
    "qdrant": Kind("Qdrant's local folder", qdrant_local.recognizes, qdrant_local.open_source),
    "llama-index": Kind(
        "LlamaIndex's persisted store", json_stores.recognizes_llama_index, json_stores.open_llama_index
    ),
    "langchain-memory": Kind(
        "a dump of LangChain's InMemoryVectorStore", json_stores.recognizes_langchain, json_stores.open_langchain
    ),
    "sqlite-vec": Kind("an SQLite file of sqlite-vec", sqlite_vec.recognizes, sqlite_vec.open_source),
    "lancedb": Kind("LanceDB's folder", tables.recognizes_lance, tables.open_lance),
    "arrow": Kind("a Parquet or Arrow file", tables.recognizes_arrow, tables.open_arrow),
    "jsonl": Kind("JSON lines", tables.recognizes_lines, tables.open_lines),
    "arrays": Kind("numpy's npz, or npy with JSON lines beside it", tables.recognizes_arrays, tables.open_arrays),
}


def open_source(path: str | PathLike[str], *, kind: str | None = None, from_collection: str | None = None) -> Source:
    """Open another store for reading; nothing is written to it.

    Parameters
    ----------
    path : path                     a folder or file of one of the kinds in `KINDS`
    kind : str or None              its kind; None: recognized by its files
    from_collection : str or None   the collection to read; needed if there are several

    Raises
    ------
    NotFoundError       the path does not exist, or the collection does not
    InvalidInputError   the kind is unknown, or there are several collections and none was named
    CorruptionError     the source cannot be read, or its pickle names classes that no such store needs
    """
    if not isinstance(path, (str, PathLike)):
        raise bqstore.InvalidInputError(f"the source is {path!r}; expected a path")
    place = Path(path).expanduser()
    if not place.exists():
        raise bqstore.NotFoundError(f"there is nothing at {place}")
    if kind is None:
        with _named(place):
            kind = next((name for name, each in KINDS.items() if each.recognizes(place)), None)
        if kind is None:
            if place.is_dir() and bqstore.collections(place):
                raise bqstore.InvalidInputError(f"{place} is a store of bqstore: `bqstore copy` copies its collections")
            known = "; ".join(f"{each.named} ({name})" for name, each in KINDS.items())
            raise bqstore.InvalidInputError(
                f"{place} is not recognized as one of: {known}; say which by kind= (--kind). Texts without vectors are "
                "embedded and stored by `bqstore ingest`"
            )
    elif kind not in KINDS:
        raise bqstore.InvalidInputError(f"kind is {kind!r}; expected one of {', '.join(map(repr, KINDS))}")
    elif not KINDS[kind].recognizes(place):
        raise bqstore.InvalidInputError(f"{place} is not {KINDS[kind].named}: leave kind= out to see what it is")
    with _named(place):
        found = KINDS[kind].open(place, from_collection)

    def batches() -> Iterator[Batch]:
        with _named(place):
            yield from found.batches()

    return replace(found, batches=batches)


@contextmanager
def _named(place: Path) -> Iterator[None]:
    """Turn any error while reading a source into a `BqstoreError` that names the source."""
    try:
        yield
    except bqstore.BqstoreError:
        raise
    except MemoryError:
        raise bqstore.StorageError(
            f"{place} takes more memory to read than the system gives; nothing of it was changed"
        ) from None
    except OSError as error:
        raise damaged(place, error) from None
    except Exception as error:  # a value of an unexpected type, a truncated array, ...
        raise damaged(place, f"{type(error).__name__}: {error}") from error
