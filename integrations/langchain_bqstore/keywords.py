"""Keywords of langchain-chroma, langchain-qdrant and FAISS, and what stands in their place in LangChain's calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

import bqstore

P = ParamSpec("P")
R = TypeVar("R")

HERE: Final[dict[str, dict[str, str]]] = {
    "the store": {
        **dict.fromkeys(("embedding_function", "embeddings"), "here it is embedding"),
        "force_recreate": "store.reset_collection() deletes what is there",
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

_DURABLE: Final = "what was added is durable already; leave it out"
_HOLDS: Final = "store.collection holds texts, metadata and vectors"
# methods and attributes of other stores
METHODS: Final = {
    **dict.fromkeys(("persist", "save_local"), _DURABLE),
    "load_local": "BQVectorStore(embedding, path) opens a folder",
    "merge_from": "store.add_embeddings(...) takes another store's texts and vectors, which its get() returns",
    **dict.fromkeys(("docstore", "index_to_docstore_id", "index"), _HOLDS),
    "peek": "store.get(limit=10) lists documents",
    "count": "len(store.collection), or store.collection.count(filter)",
    "delete_by_metadata_filter": "here it is delete(filter=...)",
}


def told_of_other_stores(make: Callable[P, R]) -> Callable[P, R]:
    """Let keywords of another store be refused before Python says that ``embedding`` is missing, or what else is."""

    @wraps(make)
    def made(*given: P.args, **settings: P.kwargs) -> R:
        bqstore.refuse_foreign("the store", settings, HERE["the store"])
        return make(*given, **settings)

    return made
