"""Keywords that other stores of LangChain and LlamaIndex are opened with, and what stands in their place here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

from .errors import UnknownKeywordError

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

_PATH: Final = "here it is path"
_NAME: Final = "here it is collection_name"
_OPEN: Final = "an open bqstore.Collection goes into collection="
_NO_SERVER: Final = "there is no server; the folder goes into path=, or the address of one: qdrant://host:6333/name"
_DISTANCE: Final = 'distance="euclid", m=, ef_construct= are keywords of the store'
_SEARCHED: Final = "it is a keyword of a search"
_WORDS: Final = 'text_index=True, and the mode "hybrid" in a search'
_PLACES: Final = "texts and metadata have their own places; leave it out"
_BATCHES: Final = "what one call adds is one commit; leave it out"
_OPENED_WITH: Final[dict[str, str]] = {
    **dict.fromkeys(("persist_directory", "folder_path", "persist_path", "persist_dir", "uri", "db_path"), _PATH),
    "location": "here it is path=, a folder; leave it out to keep everything in memory",
    **dict.fromkeys(("client", "aclient", "chroma_collection", "connection"), _OPEN),
    **dict.fromkeys(("index_name", "table_name", "table"), _NAME),
    **dict.fromkeys(("host", "port", "headers", "url", "grpc_port", "https", "ssl"), _NO_SERVER),
    **dict.fromkeys(("chroma_cloud_api_key", "tenant", "database", "client_settings"), _NO_SERVER),
    **dict.fromkeys(("environment", "token", "user", "password", "redis_url", "async_connection_string"), _NO_SERVER),
    **dict.fromkeys(("connection_string", "client_kwargs", "collection_kwargs"), _NO_SERVER),
    **dict.fromkeys(("collection_metadata", "collection_configuration", "hnsw_kwargs"), _DISTANCE),
    **dict.fromkeys(("vector_params", "collection_create_options", "distance_strategy"), _DISTANCE),
    **dict.fromkeys(("similarity_metric", "metric", "dense_config", "index_type"), _DISTANCE),
    "prefer_grpc": 'here it is grpc, beside path="qdrant://host:6333/name"',
    **dict.fromkeys(("embed_dim", "embedding_dimension", "vector_size"), "here it is dim; leave it out"),
    "create_collection_if_not_exists": "read_only=True opens what exists, and makes nothing",
    **dict.fromkeys(("force_recreate", "overwrite"), "store.collection.clear() deletes what is there"),
    **dict.fromkeys(("content_payload_key", "metadata_payload_key", "text_key", "vector_column_name"), _PLACES),
    **dict.fromkeys(("doc_id_key", "doc_id_field", "stores_text", "flat_metadata", "is_embedding_query"), _PLACES),
    **dict.fromkeys(("vector_name", "sparse_vector_name", "dense_vector_name"), "each document has one vector"),
    **dict.fromkeys(("sparse_embedding", "retrieval_mode", "enable_hybrid", "hybrid_search", "enable_sparse"), _WORDS),
    **dict.fromkeys(("fastembed_sparse_model", "sparse_doc_fn", "sparse_query_fn", "sparse_config"), _WORDS),
    **dict.fromkeys(("sparse_embedding_function", "hybrid_ranker", "text_search_config", "fulltext_config"), _WORDS),
    "hybrid_fusion_fn": 'fusion="rrf" or "relative_score" is a keyword of a search',
    **dict.fromkeys(("query_type", "nprobes", "reranker", "search_config"), _SEARCHED),
    "refine_factor": "here it is oversampling",
    **dict.fromkeys(("batch_size", "insert_kwargs", "add_kwargs"), _BATCHES),
    "parallel": "here it is threads",
    **dict.fromkeys(("validate_embeddings", "validate_collection_config"), "both are always checked; leave it out"),
    "consistency_level": "a search sees every commit made before it; leave it out",
    **dict.fromkeys(
        ("index", "docstore", "index_to_docstore_id", "faiss_index", "data"), "the folder in path= holds all of it"
    ),
    "normalize_L2": 'distance="cosine", the default, does it',
    "allow_dangerous_deserialization": "nothing is unpickled; leave it out",
    "fs": "the folder must be on a local disk; leave it out",
}


def refuse_foreign(call: str, given: Iterable[str], here: Mapping[str, str] | None = None) -> None:
    """Raise UnknownKeywordError for a keyword of another store, with what stands in its place; for adapters.

    Parameters
    ----------
    call : str              what was given the keywords. Of "the store" those of many others are known
    given : names           of the keywords, without those that the call takes
    here : dict             what stands in the place of more of them

    >>> import bqstore
    >>> bqstore.refuse_foreign("the store", ["persist_directory"])
    Traceback (most recent call last):
    bqstore.errors.UnknownKeywordError: the store has no keyword 'persist_directory': here it is path
    >>> bqstore.refuse_foreign("a search", ["offset"], {"offset": "scroll() begins anywhere"})
    Traceback (most recent call last):
    bqstore.errors.UnknownKeywordError: a search has no keyword 'offset': scroll() begins anywhere
    """
    known = {**(_OPENED_WITH if call == "the store" else {}), **(here or {})}
    for name in given:
        if name in known:
            raise UnknownKeywordError(f"{call} has no keyword {name!r}: {known[name]}")


def refusing_foreign(call: str, here: Mapping[str, str] | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a call with `refuse_foreign`, so that it speaks before Python says which argument is missing.

    >>> import bqstore
    >>> class Store:
    ...     @bqstore.refusing_foreign("the store", {"embeddings": "here it is embedding"})
    ...     def __init__(self, embedding, **settings): ...
    >>> Store(embeddings=None)
    Traceback (most recent call last):
    bqstore.errors.UnknownKeywordError: the store has no keyword 'embeddings': here it is embedding
    """

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def called(*given: P.args, **settings: P.kwargs) -> R:
            refuse_foreign(call, settings, here)
            return function(*given, **settings)

        return called

    return decorated


def lacking(names: Mapping[str, str]) -> Callable[[C], C]:
    """Decorate a store's class, which has not these methods of other stores, with what stands in the place of each.

    >>> import bqstore
    >>> @bqstore.lacking({"persist": "what was added is durable already; leave it out"})
    ... class Store: ...
    >>> Store.persist
    Traceback (most recent call last):
    AttributeError: Store has no 'persist': what was added is durable already; leave it out
    >>> hasattr(Store(), "persist"), "persist" in dir(Store())
    (False, False)
    """

    def decorated(cls: C) -> C:
        for name, hint in names.items():
            setattr(cls, name, _Lacking(name, hint))
        setattr(cls, "__dir__", lambda self: [name for name in object.__dir__(self) if name not in names])  # noqa: B010
        return cls

    return decorated


class _Lacking:
    """An attribute that is not there, neither on the class nor on an instance, and says why."""

    def __init__(self, name: str, hint: str) -> None:
        self._name, self._hint = name, hint

    def __get__(self, instance: Any, owner: type) -> NoReturn:
        raise AttributeError(f"{owner.__name__} has no {self._name!r}: {self._hint}", name=self._name, obj=instance)
