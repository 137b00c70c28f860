"""Conversions between LangChain's documents and the collection's arguments: batches to add, hits, filters."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from numbers import Integral
from types import CodeType
from typing import Any, NamedTuple, cast

from langchain_core.documents import Document

import bqstore

# a function of a Document, or of its metadata, as FAISS's filters are; a Filter of Qdrant passes, too
Filter = Mapping[str, Any] | Callable[[Any], bool]


class Batch(NamedTuple):
    """Texts that are embedded in one call and added in one commit."""

    texts: list[str]
    metadatas: list[Mapping[str, Any] | None]
    ids: list[str | None]
    expires_at: list[Any] | None


def batches_of(
    texts: Iterable[str],
    metadatas: Iterable[Mapping[str, Any] | None] | None,
    ids: Iterable[str | None] | None,
    batch_size: int | None,
    unknown: Mapping[str, Any],
    expires_at: Any = None,
) -> list[Batch]:
    """Check all arguments of `BQVectorStore.add_texts`, before the first text is embedded, and cut them into batches.

    Raises InvalidInputError where the collection would refuse a text, an id or metadata, and UnknownKeywordError for
    any keyword in ``unknown``.

    >>> [batch.texts for batch in batches_of(["a", "b", "c"], None, None, 2, {})]
    [['a', 'b'], ['c']]
    """
    for name in unknown:
        raise bqstore.UnknownKeywordError(
            f"adding has no keyword {name!r}; known: metadatas, ids, batch_size, expires_at"
        )
    if batch_size is not None and (
        isinstance(batch_size, bool) or not isinstance(batch_size, Integral) or batch_size < 1
    ):
        raise bqstore.InvalidInputError(f"batch_size is {batch_size!r}; expected an integer of at least 1, or None")
    all_texts = _listed("texts", texts)
    n = len(all_texts)
    all_metadatas: list[Mapping[str, Any] | None] = _listed("metadatas", metadatas, n)
    all_ids = _listed("ids", ids, n)
    for i, text in enumerate(all_texts):
        if not isinstance(text, str):  # None too: the core stores a document without text, but it cannot be embedded
            raise bqstore.InvalidInputError(f"text {i} is of type {type(text).__name__}; expected a string")
    times = None if expires_at is None else _times(expires_at, n)
    bqstore.check_documents(n, all_ids, all_texts, all_metadatas, times)
    for i, metadata in enumerate(all_metadatas):
        bqstore.refuse_private_keys(metadata or {}, f"metadata {i}")
    step = batch_size or max(n, 1)
    pieces = [slice(at, at + step) for at in range(0, n, step)]
    return [
        Batch(all_texts[piece], all_metadatas[piece], all_ids[piece], None if times is None else times[piece])
        for piece in pieces
    ]


def _times(given: Any, n: int) -> list[Any]:
    """A time for each text; seconds are counted from when its batch is added."""
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0:
        return [given] * n
    return list(given)


@contextmanager
def telling(added: Sequence[str]) -> Iterator[None]:
    """Say in an error of a batch which text of all it is about, and what the batches before have stored.

    Whatever error it is, its attribute ``added`` lists the ids of those.

    >>> try:
    ...     with telling(added=["1", "2"]):
    ...         bqstore.check_documents(1, texts=[7])
    ... except bqstore.InvalidInputError as error:
    ...     print(str(error).rpartition("; ")[2], error.added)
    it is text 2 of all, in a batch after 2 texts, which are stored ['1', '2']
    """
    try:
        yield
    except BaseException as error:
        with suppress(AttributeError, TypeError):  # an error of another library that takes no attributes
            error.added = list(added)  # type: ignore[attr-defined]
        if added and isinstance(error, bqstore.BqstoreError):
            which = ""
            if isinstance(error, bqstore.InvalidInputError) and error.index is not None:
                error.index += len(added)
                which = f"it is text {error.index} of all, "
            place = f"{'in' if which else 'it is in'} a batch after {len(added):,} texts, which are stored"
            error.args = (f"{error}; {which}{place}",)
        raise


def _listed(what: str, given: Iterable[Any] | None, n: int | None = None) -> list[Any]:
    """Return an argument as a list, of ``n`` entries if n is given; None becomes a list of n None."""
    if given is None and n is not None:
        return [None] * n
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise bqstore.InvalidInputError(f"{what} is of type {type(given).__name__}; expected a list")
    listed = list(given)
    if n is not None and len(listed) != n:
        raise bqstore.InvalidInputError(f"{what} has {len(listed):,} entries for {n:,} texts; expected one each")
    return listed


def documents_in(given: Any) -> list[Document]:
    """Return the documents of any iterable, if they are some; else raise InvalidInputError.

    >>> documents_in(iter([Document("Cats sleep.")]))
    [Document(metadata={}, page_content='Cats sleep.')]
    """
    if isinstance(given, (Document, Mapping)):  # both are iterable
        raise bqstore.InvalidInputError(f"documents is a {type(given).__name__}; expected a list: [document]")
    documents = _listed("documents", given)
    for i, document in enumerate(documents):
        if not isinstance(document, Document):
            raise bqstore.InvalidInputError(
                f"document {i} is of type {type(document).__name__}; expected a Document (add_texts takes strings)"
            )
    return documents


def add_arguments(documents: Iterable[Document], ids: Sequence[str | None] | None) -> dict[str, Any]:
    """Return documents as the keyword arguments of `BQVectorStore.add_texts`.

    >>> add_arguments([Document("Cats sleep.", id="1", metadata={"animal": "cat"})], ids=None)
    {'texts': ['Cats sleep.'], 'metadatas': [{'animal': 'cat'}], 'ids': ['1']}
    """
    documents = documents_in(documents)
    return {
        "texts": [document.page_content for document in documents],
        "metadatas": [document.metadata for document in documents],
        "ids": [document.id for document in documents] if ids is None else ids,
    }


def pairs_of(text_embeddings: Iterable[tuple[str, Sequence[float]]]) -> tuple[list[str], list[Sequence[float]]]:
    """Return pairs of a text and its vector as two lists.

    >>> pairs_of([("Cats sleep.", [1.0, 0.0])])
    (['Cats sleep.'], [[1.0, 0.0]])
    """
    pairs = _listed("text_embeddings", text_embeddings)
    for i, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise bqstore.InvalidInputError(f"text_embeddings[{i}] is a {type(pair).__name__}; expected (text, vector)")
    return [text for text, _ in pairs], [vector for _, vector in pairs]


def document_of(found: bqstore.Hit | bqstore.Record) -> Document:
    """Return a hit or record as a `Document`, without the metadata keys that are reserved for adapters.

    >>> document_of(bqstore.Record("1", "Cats sleep.", {"animal": "cat", "_bq_node": {}}))
    Document(id='1', metadata={'animal': 'cat'}, page_content='Cats sleep.')
    """
    metadata = found.metadata
    if bqstore.PRIVATE_PREFIX in "".join(metadata):  # on every hit: cheaper than a copy of each metadata
        metadata = {key: value for key, value in metadata.items() if not key.startswith(bqstore.PRIVATE_PREFIX)}
    return Document(found.text or "", id=found.id, metadata=metadata)


def native_filter(given: Filter | None, where_document: Mapping[str, Any] | None = None) -> Any:
    """Return a filter in the form that `bqstore.Collection` takes.

    A function of a `Document`, or of its metadata, becomes a function of a `bqstore.Record`, in an ``$and`` too. Of
    Qdrant's ``Filter`` the fields lose their "metadata.". ``where_document`` is Chroma's condition on the text.
    Everything else is passed on; the collection checks it. An async function is an InvalidInputError: the coroutine it
    returns is true for every document.

    >>> accepts = native_filter(lambda document: "Cats" in document.page_content)
    >>> accepts(bqstore.Record("1", "Cats sleep.", {}))
    True
    """
    if isinstance(given, Mapping):
        parts = given.get("$and")
        if isinstance(parts, (list, tuple)) and any(callable(part) for part in parts):
            given = {**given, "$and": [native_filter(part) for part in parts]}
    elif callable(given) and not isinstance(given, type):
        given = cast("Filter", _of_record(given))
    if where_document is None and (given is None or isinstance(given, Mapping)):
        return given  # as most are
    return bqstore.translate_filter(given, where_document, prefix="metadata.")


def _of_record(function: Callable[[Any], object]) -> Callable[[bqstore.Record], object]:
    """Return a function of a record that calls one of a `Document`, or, as FAISS's filters are, of the metadata.

    Of which it is shows when a `Document` is not what it takes.
    """
    if inspect.iscoroutinefunction(function):
        raise bqstore.InvalidInputError("filter is an async function; expected one that returns a bool, or a dict")
    of_metadata = _looks_for_keys(function)

    def accepts(record: bqstore.Record) -> object:
        nonlocal of_metadata
        document = document_of(record)
        if not of_metadata:
            try:
                return function(document)
            except (AttributeError, TypeError) as error:
                if "'Document' object" not in str(error):
                    raise
            of_metadata = True
        return function(document.metadata)

    return accepts


def _looks_for_keys(function: Callable[[Any], object]) -> bool:
    """Whether a function asks ``key in`` what it is given: a `Document` would answer no to everything."""
    code = getattr(function, "__code__", None) or getattr(getattr(function, "__func__", None), "__code__", None)
    if code is None or not code.co_argcount:
        return False
    return _asks_in(code, code.co_varnames[min(inspect.ismethod(function), code.co_argcount - 1)])


def _asks_in(code: CodeType, name: str) -> bool:
    """Whether the code, or a part of it such as a generator, tests for an element of the variable."""
    loaded: Any = None
    for step in dis.get_instructions(code):
        if step.opname == "CONTAINS_OP" and loaded == name:
            return True
        value = step.argval if step.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) else None
        loaded = value[-1] if isinstance(value, tuple) else value
    parts = [part for part in code.co_consts if isinstance(part, CodeType) and name in part.co_freevars]
    return any(_asks_in(part, name) for part in parts)
