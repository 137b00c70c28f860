"""What a `VectorStoreQuery` and a retriever's ``vector_store_kwargs`` ask of a collection."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, cast

from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode, VectorStoreQueryResult

import bqstore

from .embeddings import model_of
from .filters import native_filter
from .nodes import node_of
from .tracing import is_watched, tell
from .words import WORD_KEYWORDS, is_of_words, refuse_elsewhere, top_k, word_settings

_MMR: Final = ("mmr_threshold", "mmr_prefetch_factor", "mmr_prefetch_k")
_KEYWORDS: Final = (
    *("filter", "score_threshold", "oversampling", "rescore", "hnsw_ef", "exact", "ignore_quantization"),
    *("target_recall", "with_vectors", "search_params", *_MMR, *WORD_KEYWORDS),
)
_OF_THE_QUERY: Final = "the retriever and VectorStoreQuery take similarity_top_k and query_embedding"
_ELSEWHERE: Final = {
    "explain": "store.explain(query) tells it",
    **dict.fromkeys(("k", "similarity_top_k", "vector", "query_embedding"), _OF_THE_QUERY),
}
_PASSED_ALONG: Final = ("index_id", "delete_from_docstore")  # by LlamaIndex's code; no store does anything by them
# the core's words, and LlamaIndex's
WORDS: Final = {
    "k": "similarity_top_k",
    "limit": "similarity_top_k",
    "ids": "node_ids",
    "lambda_mult": "mmr_threshold",
    "fetch_k": "mmr_prefetch_k",
    "search": "vector_store_kwargs",
}


def answer(collection: bqstore.Collection, query: VectorStoreQuery, given: dict[str, Any]) -> VectorStoreQueryResult:
    """Return what `BQVectorStore.query` promises; ``given`` are its keywords."""
    with bqstore.words_of(WORDS):
        vector, mmr, settings = _asked(collection, query, given)
        ranks = vector is not None or "text" in settings
        k, fields = top_k(query), None if "*" in (query.output_fields or "*") else query.output_fields
        if fields is not None and "embedding" in fields:
            settings["with_vectors"] = True
        found: Any
        if not ranks and settings["filter"] is None:
            found = list(collection.scroll(limit=k, with_vectors=settings.get("with_vectors", False)))
        elif mmr is not None and vector is not None:
            found = collection.max_marginal_relevance(vector, k, **mmr, **settings)
        else:
            found = collection.search(vector, k, **settings, explain=ranks and is_watched())
    if isinstance(found, bqstore.ExplainedHits):
        tell(k, found)
    return VectorStoreQueryResult(
        nodes=[node_of(each, fields) for each in found],
        similarities=[hit.score for hit in found] if ranks else None,
        ids=[each.id for each in found],
    )


def explanation(collection: bqstore.Collection, query: VectorStoreQuery, given: dict[str, Any]) -> bqstore.Explanation:
    """Return what `BQVectorStore.explain` promises."""
    with bqstore.words_of(WORDS):
        vector, mmr, settings = _asked(collection, query, given)
        if mmr is not None or (vector is None and "text" not in settings):
            raise bqstore.InvalidInputError(
                "only queries of the mode 'default' that have an embedding, and those for words, are explained"
            )
        found: Any = collection.search(vector, top_k(query), **settings, explain=True)
    return cast(bqstore.Explanation, found.explanation)


def _asked(
    collection: bqstore.Collection, query: VectorStoreQuery, given: dict[str, Any]
) -> tuple[Any, dict[str, Any] | None, dict[str, Any]]:
    """Return the vector, None for one that ranks nothing; the settings of the mode MMR; and those of a search."""
    mode = _mode(query)
    given = {name: value for name, value in given.items() if name not in _PASSED_ALONG and value is not None}
    refuse_elsewhere([*given, *(name for name in ("mmr_threshold", "alpha") if getattr(query, name) is not None)], mode)
    mmr = _mmr_settings(query, mode, {name: given.pop(name, None) for name in _MMR})
    settings = _search_settings(**given)
    settings["filter"] = _filter(query, settings.get("filter"))
    if is_of_words(query):
        vector, words = word_settings(query, _vector(query, collection))
        for name in ("fusion", "syntax") if not words else ("fusion",) if vector is None else ():
            settings.pop(name, None)
        return vector, None, {**settings, **words}
    if query.query_embedding is None and settings["filter"] is None and query.query_str != "":
        raise bqstore.InvalidInputError("the query has no embedding and no filters; bqstore searches by vector")
    if settings.get("rerank") is not None and mmr is None:
        settings |= {"text": query.query_str or None, "mode": "vector"}  # for the function
    return _vector(query, collection), mmr, settings


def check_keywords(method: str, keywords: Mapping[str, Any]) -> None:
    """Refuse keywords, but those that LlamaIndex passes along: one that is ignored might say what is meant."""
    for name in keywords:
        if name not in _PASSED_ALONG:
            raise bqstore.UnknownKeywordError(f"BQVectorStore.{method}() has no keyword {name!r}")


def _mode(query: VectorStoreQuery) -> VectorStoreQueryMode:
    """Return the mode, if it is supported."""
    if not isinstance(query, VectorStoreQuery):
        raise bqstore.InvalidInputError(
            f"query is of type {type(query).__name__}; expected a VectorStoreQuery (texts are embedded by a retriever)"
        )
    if query.mode in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR) or is_of_words(query):
        return VectorStoreQueryMode(query.mode)
    mode = getattr(query.mode, "value", query.mode)
    raise bqstore.InvalidInputError(
        f"the query mode is {mode!r}; expected 'default', 'mmr', 'hybrid', 'text_search' or 'sparse'"
    )


def _vector(query: VectorStoreQuery, collection: bqstore.Collection) -> Any:
    """Return the vector of a query, after checking the model that made it; None for one that ranks nothing."""
    vector = query.query_embedding
    if vector is None:
        return None
    model = model_of(vector)
    if model is not None:
        collection.check_model(model)
    # a language model that asks for filters alone leaves the text empty, and what is made of that is zeros, or nothing
    return vector if any(vector) or (len(vector) and collection.info().distance == "euclid") else None


def _mmr_settings(query: VectorStoreQuery, mode: VectorStoreQueryMode, given: dict[str, Any]) -> dict[str, Any] | None:
    """Return the settings of the mode MMR, as `bqstore.Collection.max_marginal_relevance` names them; else None."""
    if query.mmr_threshold is not None:
        given["mmr_threshold"] = query.mmr_threshold
    given = {name: value for name, value in given.items() if value is not None}
    if mode != VectorStoreQueryMode.MMR:
        return None
    settings: dict[str, Any] = {"fetch_k": given.get("mmr_prefetch_k")}
    if "mmr_prefetch_factor" in given:
        factor = given["mmr_prefetch_factor"]
        if "mmr_prefetch_k" in given:
            raise bqstore.InvalidInputError("expected mmr_prefetch_factor or mmr_prefetch_k; both are given")
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 1 <= factor < math.inf:
            raise bqstore.InvalidInputError(f"mmr_prefetch_factor is {factor!r}; expected a number of at least 1")
        settings["fetch_k"] = math.ceil(query.similarity_top_k * factor)
    if "mmr_threshold" in given:
        settings["lambda_mult"] = given["mmr_threshold"]
    return settings


def _filter(query: VectorStoreQuery, native: Any) -> Any:
    """Return one filter for the query's own filters, the native one, and the query's ids."""
    for name in ("node_ids", "doc_ids"):
        ids = getattr(query, name)
        if isinstance(ids, (str, Mapping)):
            raise bqstore.InvalidInputError(f"{name} is of type {type(ids).__name__}; expected a list of ids")
    ids = {bqstore.ID_KEY: {"$in": query.node_ids}} if query.node_ids else None
    docs = {bqstore.REF_DOC_ID_KEY: {"$in": query.doc_ids}} if query.doc_ids else None
    return native_filter(query.filters, native, ids, docs)


def _search_settings(search_params: Mapping[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    """Return keywords of `bqstore.Collection.search`; the vector and k are refused, as the query brings them."""
    bqstore.refuse_foreign("vector_store_kwargs", given, _ELSEWHERE)
    return bqstore.search_keywords(search_params, _KEYWORDS, **given)
