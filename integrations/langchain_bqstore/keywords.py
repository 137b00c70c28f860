"""Keywords of langchain-chroma, langchain-qdrant and FAISS, and what stands in their place here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

import bqstore

P = ParamSpec("P")
R = TypeVar("R")

_NO_SERVER: Final = "there is no server; the folder goes into path="
_DISTANCE: Final = 'distance="euclid", m=, ef_construct= are keywords of the store'
_HERE: Final[dict[str, dict[str, str]]] = {
    "the store": {
        **dict.fromkeys(("embedding_function", "embeddings"), "here it is embedding"),
        **dict.fromkeys(("persist_directory", "folder_path", "persist_path"), "here it is path"),
        "location": "here it is path=, a folder; leave it out to keep everything in memory",
        "client": "an open bqstore.Collection goes into collection=",
        **dict.fromkeys(("host", "port", "headers", "url", "grpc_port", "prefer_grpc", "https"), _NO_SERVER),
        **dict.fromkeys(("api_key", "chroma_cloud_api_key", "tenant", "database", "client_settings"), _NO_SERVER),
        **dict.fromkeys(("collection_metadata", "collection_configuration"), _DISTANCE),
        **dict.fromkeys(("vector_params", "collection_create_options", "distance_strategy"), _DISTANCE),
        "create_collection_if_not_exists": "read_only=True opens what exists, and makes nothing",
        "force_recreate": "store.reset_collection() deletes what is there",
        **dict.fromkeys(("content_payload_key", "metadata_payload_key"), "texts and metadata have their own places"),
        **dict.fromkeys(("vector_name", "sparse_vector_name"), "each document has one vector; leave it out"),
        **dict.fromkeys(("sparse_embedding", "retrieval_mode"), 'text_index=True, and mode="hybrid" in a search'),
        **dict.fromkeys(("validate_embeddings", "validate_collection_config"), "both are always checked; leave it out"),
        **dict.fromkeys(("index", "docstore", "index_to_docstore_id"), "the folder in path= holds all of it"),
        "index_name": "here it is collection_name",
        "normalize_L2": 'distance="cosine", the default, does it',
        "allow_dangerous_deserialization": "nothing is unpickled; leave it out",
    },
    "search": {
        "explain": "store.explain(query, ...) tells how a search is done",
        "offset": "store.get(where=, limit=, offset=) lists documents",
        "consistency": "a search sees every commit made before it; leave it out",
        "query_filter": "here it is filter",
        "hybrid_fusion": 'here it is fusion="rrf" or "relative_score"',
    },
    "delete": {"where": "here it is filter", "where_document": "here it is filter, a function of the document"},
}


def refuse_foreign(call: str, given: Iterable[str]) -> None:
    """Raise UnknownKeywordError for a keyword of another store, with what stands in its place.

    >>> refuse_foreign("the store", ["persist_directory"])
    Traceback (most recent call last):
    bqstore.errors.UnknownKeywordError: the store has no keyword 'persist_directory': here it is path
    """
    for name in given:
        if name in _HERE[call]:
            raise bqstore.UnknownKeywordError(f"{call} has no keyword {name!r}: {_HERE[call][name]}")


def told_of_other_stores(make: Callable[P, R]) -> Callable[P, R]:
    """Let keywords of another store be refused before Python says that ``embedding`` is missing, or what else is."""

    @wraps(make)
    def made(*given: P.args, **settings: P.kwargs) -> R:
        refuse_foreign("the store", settings)
        return make(*given, **settings)

    return made
