"""Chroma's ``where_document`` as a function of the document, and one filter made of both kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..arguments import shown, type_of
from ..errors import InvalidInputError
from . import llama_index_filters
from .function_filters import of_records
from .qdrant_filters import translated

Accepts = Callable[[Any], bool]


def translate_filter(
    given: Any,
    where_document: Mapping[str, Any] | None = None,
    *,
    prefix: str = "",
    otherwise: Mapping[str, str] | None = None,
    document: Callable[[Any], Any] | None = None,
) -> Any:
    """Translate filters in the form of other stores into one of bqstore, without parts that restrict nothing.

    Parameters
    ----------
    given : any filter          one of `Collection.search`, Qdrant's ``Filter``, or LlamaIndex's ``MetadataFilters`` or
                                ``MetadataFilter``
    where_document : dict       Chroma's condition on the text: ``{"$contains": "bits"}``, ``$not_contains``, ``$and``,
                                ``$or``
    prefix : str                taken off the names of fields in Qdrant's ``Filter``: langchain-qdrant keeps metadata
                                under ``metadata.``
    otherwise : dict            for each key another one, to be used for documents whose metadata does not have the
                                first: ``{"doc_id": bqstore.REF_DOC_ID_KEY}``
    document : callable         makes a framework's document of a record: functions in the filter are called with
                                that. They may also be functions of its ``metadata``, as FAISS's filters are

    Raises InvalidInputError, which shows ours, for a filter that means something else here.

    >>> import bqstore
    >>> both = bqstore.translate_filter({"lang": "en"}, {"$contains": "bits"})
    >>> col = bqstore.open()
    >>> _ = col.add([[1, 0], [0, 1]], ["a", "b"], ["bits", "bytes"], [{"lang": "en"}, {"lang": "en"}])
    >>> col.ids(both)
    ['a']
    """
    if document is not None:
        given = of_records(given, document)
    given = llama_index_filters.translated(given) if llama_index_filters.is_one(given) else translated(given, prefix)
    if otherwise is not None:
        given = llama_index_filters.with_fallbacks(given, otherwise)
    if where_document is None:
        return given
    function = _text_test(where_document)
    return function if given is None or given == {} else {"$and": [given, function]}


def _text_test(given: object) -> Accepts:
    """A function of a record for one of Chroma's conditions on texts."""
    if not isinstance(given, Mapping) or len(given) != 1:
        raise InvalidInputError(
            f"where_document is {shown(given)}; expected a dict of one operator, such as {{'$contains': 'bits'}}"
        )
    ((name, value),) = given.items()
    if name in ("$and", "$or"):
        if not isinstance(value, (list, tuple)) or not value:
            raise InvalidInputError(
                f"{name} of where_document is given {type_of(value)}; expected a list of conditions"
            )
        parts, joined = [_text_test(each) for each in value], all if name == "$and" else any
        return lambda record: joined(part(record) for part in parts)
    if name in ("$contains", "$not_contains"):
        if not isinstance(value, str) or not value:
            raise InvalidInputError(f"{name} of where_document is given {shown(value)}; expected a piece of text")
        return lambda record: (value in (record.text or "")) == (name == "$contains")
    raise InvalidInputError(
        f"where_document has {shown(name)}; it takes $contains, $not_contains, $and and $or: for more use "
        "filter=lambda record: ..., a function of the document"
    )
