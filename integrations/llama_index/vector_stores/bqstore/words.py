"""The query modes that look for words: HYBRID, TEXT_SEARCH and SPARSE."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

import bqstore

WORD_KEYWORDS: Final = ("fusion", "syntax", "rerank")
_FOR_MODES: Final = {
    **dict.fromkeys(("mmr_threshold", "mmr_prefetch_factor", "mmr_prefetch_k"), ("mmr",)),
    **dict.fromkeys(("alpha", "fusion"), ("hybrid",)),
    "syntax": ("text_search", "sparse", "hybrid"),
}
_MODES: Final = {
    VectorStoreQueryMode.HYBRID: "hybrid",
    VectorStoreQueryMode.TEXT_SEARCH: "text",
    VectorStoreQueryMode.SPARSE: "text",
}


def is_of_words(query: object) -> bool:
    """Whether a query has one of these modes.

    >>> is_of_words(VectorStoreQuery(mode=VectorStoreQueryMode.HYBRID)), is_of_words(VectorStoreQuery())
    (True, False)
    """
    return isinstance(query, VectorStoreQuery) and query.mode in _MODES


def top_k(query: VectorStoreQuery) -> int:
    """Return how many nodes a query asks for: of words ``hybrid_top_k`` or ``sparse_top_k``, if that is given.

    >>> top_k(VectorStoreQuery(mode=VectorStoreQueryMode.HYBRID, similarity_top_k=9, hybrid_top_k=3))
    3
    """
    asked = {"hybrid": query.hybrid_top_k, "text": query.sparse_top_k}.get(_MODES.get(query.mode, ""))
    return query.similarity_top_k if asked is None else asked


def word_settings(query: VectorStoreQuery, vector: Any) -> tuple[Any, dict[str, Any]]:
    """Return the vector that a query of such a mode searches with, and the settings of its search for words.

    A vector of zeros, here None, ranks nothing: words alone do then. Without words, of a text that is empty, nothing
    but a vector does.

    >>> word_settings(VectorStoreQuery(query_str="cats", mode=VectorStoreQueryMode.HYBRID, alpha=0.3), [1.0])
    ([1.0], {'text': 'cats', 'mode': 'hybrid', 'alpha': 0.3})
    >>> word_settings(VectorStoreQuery(query_str="cats", mode=VectorStoreQueryMode.SPARSE), [1.0])
    (None, {'text': 'cats', 'mode': 'text'})
    """
    mode = _MODES[VectorStoreQueryMode(query.mode)]
    if query.query_str is None:
        raise bqstore.InvalidInputError(f"the query mode {query.mode.value!r} needs query_str, the words to search for")
    if mode == "hybrid" and query.query_embedding is None and query.query_str.strip():
        raise bqstore.InvalidInputError("the query mode 'hybrid' needs an embedding; 'text_search' does without")
    if mode == "text" or vector is None:
        return None, {"text": query.query_str, "mode": "text"} if query.query_str.strip() else {}
    alpha = {} if query.alpha is None else {"alpha": query.alpha}
    return vector, {"text": query.query_str, "mode": mode, **alpha}


def refuse_elsewhere(given: Iterable[str], mode: VectorStoreQueryMode) -> None:
    """Raise UnknownKeywordError for a keyword that is not for the mode of a query; it says for which.

    >>> refuse_elsewhere(["alpha"], VectorStoreQueryMode.HYBRID)
    """
    for name in given:
        if name in _FOR_MODES and mode.value not in _FOR_MODES[name]:
            raise bqstore.UnknownKeywordError(
                f"{name!r} is for the query mode {_FOR_MODES[name][0]!r}; this query's mode is {mode.value!r}: "
                f"pass vector_store_query_mode={_FOR_MODES[name][0]!r}"
            )
