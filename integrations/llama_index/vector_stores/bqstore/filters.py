"""LlamaIndex's filters, a list of them, one written as a dict, and filters of bqstore, all as one filter of bqstore.

`bqstore.translate_filter` says what an operator means. Here ``doc_id``, ``ref_doc_id`` and ``document_id`` mean the
source document of nodes whose metadata has no such key.
"""

from collections.abc import Mapping
from typing import Any, Final

from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

import bqstore

_OF_SOURCE: Final = dict.fromkeys(("doc_id", "ref_doc_id", "document_id"), bqstore.REF_DOC_ID_KEY)


def native_filter(*parts: object) -> Any:
    """Return one filter of bqstore that requires all the parts; None if they restrict nothing.

    A part is a filter of LlamaIndex, a list of such, a filter of bqstore, or None.

    >>> from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
    >>> english = MetadataFilters(filters=[MetadataFilter(key="lang", value="en")])
    >>> native_filter(english, {"year": {"$gte": 2023}}, None)
    {'$and': [{'lang': {'$eq': 'en'}}, {'year': {'$gte': 2023}}]}
    """
    native = (_native(part) for part in parts if part is not None)
    given = [part for part in native if part is not None and (part or not isinstance(part, Mapping))]
    return {"$and": given} if len(given) > 1 else given[0] if given else None


def _native(part: Any) -> Any:
    """Return a part as a filter of bqstore."""
    if isinstance(part, list) and part and isinstance(part[0], MetadataFilter):
        part = MetadataFilters(filters=part)
    elif isinstance(part, dict) and part.keys() <= {"filters", "condition"} and isinstance(part.get("filters"), list):
        try:
            part = MetadataFilters.model_validate(part)
        except ValueError as error:  # of pydantic's
            raise bqstore.InvalidInputError(f"filters is a dict that makes no MetadataFilters: {error}") from None
    return bqstore.translate_filter(part, otherwise=_OF_SOURCE)
