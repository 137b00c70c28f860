"""The query modes that look for words: HYBRID, TEXT_SEARCH and SPARSE."""

from __future__ import annotations

from typing import Any, Final

from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

import bqstore

WORD_KEYWORDS: Final = ("fusion", "syntax")
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

    >>> word_settings(VectorStoreQuery(query_str="cats", mode=VectorStoreQueryMode.SPARSE, alpha=0.3), [1.0])
    (None, {'text': 'cats', 'mode': 'text', 'alpha': 0.3})
    """
    mode = _MODES[VectorStoreQueryMode(query.mode)]
    if not query.query_str:
        raise bqstore.InvalidInputError(f"the query mode {query.mode.value!r} needs query_str, the words to search for")
    if mode == "hybrid" and vector is None:
        raise bqstore.InvalidInputError("the query mode 'hybrid' needs an embedding; 'text_search' does without")
    settings: dict[str, Any] = {"text": query.query_str, "mode": mode}
    if query.alpha is not None:
        settings["alpha"] = query.alpha
    return vector if mode == "hybrid" else None, settings
