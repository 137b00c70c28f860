"""Documents of an iterable, added in portions, so that a call needs no more memory than for a portion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from itertools import islice
from numbers import Real
from typing import Any

from .arguments import check_int, refuse_unknown
from .errors import InvalidInputError
from .progress import Progress
from .protocol import CollectionProtocol
from .results.hits import Hit, Record
from .results.outcomes import Skipped, StreamReport

_PARTS = ("vector", "id", "text", "metadata", "expires_at")


def add_stream(
    col: CollectionProtocol, documents: Iterable[Any], batch_size: int = 1000, on_error: str = "raise"
) -> StreamReport:
    """What `Collection.add_stream` does, by the collection's `add`."""
    batch_size = check_int("batch_size", batch_size, 1, 1_000_000)
    added, replaced, skipped, done = 0, 0, list[Skipped](), 0
    total = len(documents) if isinstance(documents, Sized) else None
    coming = iter(_each_in(documents))
    with Progress("adding", total) as progress:
        while portion := [_parts_of(item, done + i, on_error) for i, item in enumerate(islice(coming, batch_size))]:
            vectors, ids, texts, metadatas, ends = zip(*portion, strict=True)
            expires_at = list(ends) if any(end is not None for end in ends) else None
            try:
                result = col.add(list(vectors), ids, texts, metadatas, expires_at=expires_at, on_error=on_error)
            except InvalidInputError as error:
                if error.index is not None:
                    error.index += done
                where = "the first portion" if not done else f"the portion behind the first {done:,}, which are stored"
                error.args = (f"{error} (counted from 0 in {where})",)
                raise
            added, replaced = added + len(result), replaced + result.replaced
            skipped += [Skipped(each.index + done, each.id, each.reason) for each in result.skipped]
            done += len(portion)
            progress(done)
    return StreamReport(added, replaced, skipped)


def _each_in(documents: object) -> Iterable[Any]:
    if hasattr(documents, "__aiter__"):
        raise InvalidInputError(
            "documents is asynchronous; expected an iterable: collect portions of it, and write each with "
            "await bqstore.writing(col.add, ...)"
        )
    if hasattr(documents, "columns"):  # of pandas, polars or Arrow: what these iterate over are columns
        raise InvalidInputError(
            f"documents is a {type(documents).__name__}; add(vectors, ids=...) takes its columns, and add_stream its "
            "rows as dicts with the keys vector, id, text, metadata"
        )
    if isinstance(documents, str | bytes | Mapping) or not isinstance(documents, Iterable):
        raise InvalidInputError(
            f"documents is of type {type(documents).__name__}; expected an iterable of vectors, records or dicts with "
            f"the keys {', '.join(_PARTS)}"
        )
    return documents


def _parts_of(item: Any, index: int, on_error: str) -> tuple[Any, ...]:
    """Vector, id, text, metadata and expiry of a document; refuses what is no vector, or leaves it to `add` to skip."""
    if isinstance(item, Record | Hit):
        item = {"vector": item.vector, "id": item.id, "text": item.text, "metadata": item.metadata}
    vector: Any = item
    others: list[Any] = [None] * 4
    try:
        if isinstance(item, Mapping):
            refuse_unknown(item, _PARTS, f"document {index}")
            vector, *others = map(item.get, _PARTS)
        if on_error == "skip":
            return (vector, *others)
        if vector is None:
            raise InvalidInputError(f"document {index} has no vector; scroll(with_vectors=True) gives records theirs")
        if isinstance(vector, Real) or getattr(vector, "ndim", 1) != 1:
            found = "a number" if isinstance(vector, Real) else f"an array of shape {tuple(vector.shape)}"
            raise InvalidInputError(
                f"document {index} has {found} in the place of a vector; expected an iterable of vectors. Of blocks of "
                "vectors, itertools.chain.from_iterable(blocks) gives one at a time"
            )
    except InvalidInputError as error:
        error.index = index
        raise
    return (vector, *others)
