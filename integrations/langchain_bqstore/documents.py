"""Documents on their way in and out: batches to be added, hits as `Document`, filters on `Document`. Knows no store."""

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.documents import Document

import bqstore

Filter = Mapping[str, Any] | Callable[[Document], bool]


class Batch(NamedTuple):
    """What is embedded and committed at once."""

    texts: list[str]
    metadatas: list[Mapping[str, Any] | None]
    ids: list[str | None]


def batches_of(
    texts: Iterable[str],
    metadatas: Iterable[Mapping[str, Any] | None] | None,
    ids: Iterable[str | None] | None,
    batch_size: int | None,
    unknown: Mapping[str, Any],
) -> list[Batch]:
    """What is to be added, in pieces; refused, before anything is embedded, if it could not be added whole."""
    for name in unknown:
        raise bqstore.UnknownKeywordError(f"adding has no keyword {name!r}; known: metadatas, ids, batch_size")
    step = None if batch_size is None else _size(batch_size)
    all_texts = _listed("texts", texts)
    n = len(all_texts)
    all_metadatas: list[Mapping[str, Any] | None] = _listed("metadatas", metadatas, n)
    all_ids = _listed("ids", ids, n)
    for i, text in enumerate(all_texts):
        if not isinstance(text, str):  # None too, which the core takes: here a text is what is embedded
            raise bqstore.InvalidInputError(f"text {i} is a {type(text).__name__}; expected a string")
    bqstore.check_documents(n, all_ids, all_texts, all_metadatas)
    _refuse_private(all_metadatas)
    step = step or max(n, 1)
    pieces = [slice(at, at + step) for at in range(0, n, step)]
    return [Batch(all_texts[piece], all_metadatas[piece], all_ids[piece]) for piece in pieces]


def _size(batch_size: object) -> int:
    """A batch size: any integer but a bool, also numpy's."""
    try:
        size = 0 if isinstance(batch_size, bool) else operator.index(batch_size)  # type: ignore[arg-type]
    except TypeError:
        size = 0
    if size < 1:
        raise bqstore.InvalidInputError(f"batch_size is {batch_size!r}; expected an integer of at least 1, or None")
    return size


def _listed(what: str, given: Iterable[Any] | None, n: int | None = None) -> list[Any]:
    """What was given as a list, of n entries where the texts have so many; None stands for n of None."""
    if given is None and n is not None:
        return [None] * n
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise bqstore.InvalidInputError(f"{what} is a {type(given).__name__}; expected a list")
    listed = list(given)
    if n is not None and len(listed) != n:
        raise bqstore.InvalidInputError(f"{what} has {len(listed):,} entries for {n:,} texts; expected one each")
    return listed


def _refuse_private(metadatas: Iterable[Mapping[str, Any] | None]) -> None:
    """Refuse metadata that would be stored and never shown again."""
    for i, metadata in enumerate(metadatas):
        for key in metadata or ():
            if key.startswith(bqstore.PRIVATE_PREFIX):
                raise bqstore.InvalidInputError(
                    f"metadata {i} has the key {key!r}; {bqstore.PRIVATE_PREFIX!r} begins the adapters' own: rename it"
                )


def columns_of(documents: Iterable[Document], ids: Sequence[str | None] | None) -> dict[str, Any]:
    """Documents as the keywords of `BQVectorStore.add_texts`."""
    documents = list(documents)
    return {
        "texts": [document.page_content for document in documents],
        "metadatas": [document.metadata for document in documents],
        "ids": [document.id for document in documents] if ids is None else ids,
    }


def document_of(found: bqstore.Hit | bqstore.Record) -> Document:
    """A `Document` without what another adapter keeps beside its metadata."""
    metadata = found.metadata
    if bqstore.PRIVATE_PREFIX in "".join(metadata):  # asked of every hit: one look costs less than a copy
        metadata = {key: value for key, value in metadata.items() if not key.startswith(bqstore.PRIVATE_PREFIX)}
    return Document(found.text or "", id=found.id, metadata=metadata)


def filter_of(given: Filter | None) -> Any:
    """A filter of the collection's: a function on `Document` as one on `bqstore.Record`, anything else as it is."""
    if not callable(given) or isinstance(given, (Mapping, type)):
        return given
    if inspect.iscoroutinefunction(given):  # what it returns is no bool, and true of every document
        raise bqstore.InvalidInputError("filter is an async function; expected one that returns a bool, or a dict")
    return lambda record: given(document_of(record))
