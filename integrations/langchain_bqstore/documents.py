"""Conversions between LangChain's documents and the collection's arguments: what is added, hits, filters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.documents import Document

import bqstore

# None, a dict, a function of a Document, or of its metadata, as FAISS's filters are; a Filter of Qdrant passes, too
Filter: TypeAlias = Mapping[str, Any] | Callable[[Any], bool] | None
Vector: TypeAlias = Sequence[float]
Scored: TypeAlias = list[tuple[Document, float]]
Metadatas: TypeAlias = Sequence[Mapping[str, Any] | None] | None
Ids: TypeAlias = Sequence[str | None] | None
Pairs: TypeAlias = Iterable[tuple[str, Vector]]


def documents_in(given: Any) -> list[Document]:
    """Return the documents of any iterable, if they are some; else raise InvalidInputError.

    >>> documents_in(iter([Document("Cats sleep.")]))
    [Document(metadata={}, page_content='Cats sleep.')]
    """
    if isinstance(given, (Document, Mapping)):  # both are iterable
        raise bqstore.InvalidInputError(f"documents is a {type(given).__name__}; expected a list: [document]")
    documents = bqstore.listed("documents", given)
    for i, document in enumerate(documents):
        if not isinstance(document, Document):
            raise bqstore.InvalidInputError(
                f"document {i} is of type {type(document).__name__}; expected a Document (add_texts takes strings)"
            )
    return documents


def add_arguments(documents: Iterable[Document], ids: Ids) -> dict[str, Any]:
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


def pairs_of(text_embeddings: Pairs) -> tuple[list[str], list[Sequence[float]]]:
    """Return pairs of a text and its vector as two lists.

    >>> pairs_of([("Cats sleep.", [1.0, 0.0])])
    (['Cats sleep.'], [[1.0, 0.0]])
    """
    pairs = bqstore.listed("text_embeddings", text_embeddings)
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


def native_filter(given: Filter, where_document: Mapping[str, Any] | None = None) -> Any:
    """Return a filter in the form that `bqstore.Collection` takes.

    A function of a `Document`, or of its metadata, becomes a function of a `bqstore.Record`, in an ``$and`` too. Of
    Qdrant's ``Filter`` the fields lose their "metadata.". ``where_document`` is Chroma's condition on the text.
    Everything else is passed on; the collection checks it.

    >>> accepts = native_filter(lambda document: "Cats" in document.page_content)
    >>> accepts(bqstore.Record("1", "Cats sleep.", {}))
    True
    """
    if given is None and where_document is None:
        return None  # as in most searches
    return bqstore.translate_filter(given, where_document, prefix="metadata.", document=document_of)
